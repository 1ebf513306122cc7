"""A thread that keeps a worker stepping, and makes others' calls to it between two steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar


class Steppable(Protocol):
    """Something with work to do, a step at a time."""

    @property
    def busy(self) -> bool: ...

    def step(self) -> None: ...


W = TypeVar("W", bound=Steppable)
T = TypeVar("T")


class SteppingThread(Generic[W]):
    """Makes a worker in a thread of its own and steps it there whenever it is busy.

    The worker lives and is used in that one thread alone: what belongs to a thread, such as CUDA's current device, and
    what is not thread-safe, such as an engine, need no further care. Raises what `make` raises. What a step raises ends
    the stepping, and every later call raises it, too.
    """

    def __init__(self, make: Callable[[], W], name: str):
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[W], object]] | None] = SimpleQueue()
        self._held = False
        made: Future[None] = Future()
        self._thread = Thread(target=self._run, args=(make, made), name=name, daemon=True)
        self._thread.start()
        made.result()

    def call(self, function: Callable[[W], T]) -> T:
        """`function(worker)`, between two steps; returns and raises what it does."""
        future: Future[T] = Future()
        self._calls.put((future, function))
        return future.result()

    def hold(self) -> None:
        """Make calls alone, and no steps, until `release`; no step is under way when this returns."""
        self.call(lambda _: setattr(self, "_held", True))

    def release(self) -> None:
        """Step again."""
        self.call(lambda _: setattr(self, "_held", False))

    def close(self) -> None:
        """End the thread after the calls and the step that are under way."""
        self._calls.put(None)
        self._thread.join()

    def _run(self, make: Callable[[], W], made: Future[None]) -> None:
        try:
            worker = make()
        except BaseException as raised:  # whatever it is, it belongs to whoever made this thread
            made.set_exception(raised)
            return
        made.set_result(None)
        error: BaseException | None = None
        while True:
            while error or self._held or not worker.busy or not self._calls.empty():
                call = self._calls.get()
                if call is None:
                    return
                _answer(*call, worker, error)
            try:
                worker.step()
            except BaseException as raised:
                error = raised


def _answer(future: Future[Any], function: Callable[[W], object], worker: W, error: BaseException | None) -> None:
    try:
        if error:
            raise error
        future.set_result(function(worker))
    except BaseException as raised:  # belongs to the caller
        future.set_exception(raised)
