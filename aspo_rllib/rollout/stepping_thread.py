"""A thread that steps a worker continuously and runs other threads' calls to it between two steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, Protocol, TypeVar


class Steppable(Protocol):
    """An object that does its work in steps while it is busy."""

    @property
    def busy(self) -> bool: ...

    def step(self) -> None: ...


W = TypeVar("W", bound=Steppable)
T = TypeVar("T")


class SteppingThread(Generic[W]):
    """Creates a worker in a separate thread and steps it there whenever it is busy.

    The worker is used in that one thread only. No locks are needed for an engine that is not thread-safe, and
    thread-local state such as CUDA's current device stays correct. The constructor returns before the worker exists;
    the first call waits for it. If `make` or a step raises, the thread stops stepping and every later call raises that
    error.
    """

    def __init__(self, make: Callable[[], W], name: str):
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[W], object]] | None] = SimpleQueue()
        self._held = False
        self._thread = Thread(target=self._run, args=(make,), name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[W], T]) -> T:
        """Run `function(worker)` between two steps; returns its result or raises its error."""
        future: Future[T] = Future()
        self._calls.put((future, function))
        return future.result()

    def hold(self) -> None:
        """Stop stepping until `release`; calls still run. No step is in progress when this returns."""
        self.call(lambda _: setattr(self, "_held", True))

    def release(self) -> None:
        """Resume stepping after `hold`."""
        self.call(lambda _: setattr(self, "_held", False))

    def close(self) -> None:
        """End the thread after the queued calls and the step in progress."""
        self._calls.put(None)
        self._thread.join()

    def _run(self, make: Callable[[], W]) -> None:
        try:
            worker = make()
            while self._answer_calls(worker):
                worker.step()
        except BaseException as raised:  # the callers must get it, even a SystemExit
            self._refuse_calls(raised)

    def _answer_calls(self, worker: W) -> bool:
        """Run the queued calls, and wait for more while there is nothing to step. Returns False after `close`."""
        while self._held or not worker.busy or not self._calls.empty():
            call = self._calls.get()
            if call is None:
                return False
            future, function = call
            try:
                future.set_result(function(worker))
            except BaseException as raised:  # the caller must get it
                future.set_exception(raised)
        return True

    def _refuse_calls(self, error: BaseException) -> None:
        while (call := self._calls.get()) is not None:
            call[0].set_exception(error)
