"""A Python process that answers requests one after the other, and is killed if it exceeds a deadline.

Graders need a process for this: a thread cannot be stopped, and an alarm works only in the main thread of a process,
and not during a long computation in C.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

import psutil

START_LIMIT_S = 120.0
_ALARM_MARGIN_S = 5.0
_SOCKET_BYTES = 1 << 18  # on some systems the default is 8 KB


class ChildTimeout(Exception):
    """The child did not answer before its deadline, and was killed."""


class ChildDied(Exception):
    """The child ended without an answer."""


class ChildError(Exception):
    """The handler raised an exception; the message is the traceback."""


class Child:
    """One such process. It starts at the first request, and again at the first request after it was killed or closed.

    It does not run the caller's program: it imports one function and calls it. multiprocessing would import the
    caller's main script again.

    Args:
        factory: "module:function". The child calls it once, with `args`; it returns the handler of the requests.
        args: The arguments. They, the requests and the answers can be pickled.
        max_answers: The number of answers after which the process should be replaced.
        max_growth_bytes: The process should also be replaced if its memory exceeds that after its first answer by this.

    Attributes:
        ready: Whether the process has called the factory.
        last_answer_s: The seconds of its last answer; before the first one, those of its start.
    """

    def __init__(self, factory: str, *args: Any, max_answers: int | None = None, max_growth_bytes: int | None = None):
        self._factory = factory
        self._args = args
        self._max_answers = max_answers
        self._max_growth_bytes = max_growth_bytes
        self._process: subprocess.Popen | None = None
        self.ready = False

    def ask(self, request: Any, timeout_s: float) -> Any:
        """Send a request and wait for its answer. The start of a new process does not count as waiting time.

        Raises:
            ChildTimeout: no answer within `timeout_s`.
            ChildDied: the process ended.
            ChildError: the handler raised.
        """
        self.start()
        self.submit(request, timeout_s)
        if not self.connection.poll(timeout_s):
            self.close()
            raise ChildTimeout(f"no answer within {timeout_s} s")
        answer = self.receive()
        if self.worn_out:
            self.close()
        return answer

    def start(self) -> None:
        """Wait until the process runs and has called the factory; raises the same errors as `ask`."""
        self.launch()
        if self.ready:
            return
        if not self.connection.poll(START_LIMIT_S):
            self.close()
            raise ChildTimeout(f"{self._factory} did not start within {START_LIMIT_S} s")
        try:
            self._receive()
        except ChildError:
            self.close()
            raise
        self.ready = True

    def launch(self) -> None:
        """Start the process if there is none, without waiting. `connection` becomes readable when it is ready."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        for end, option in product((ours, theirs), (socket.SO_SNDBUF, socket.SO_RCVBUF)):
            end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from envs.grading.child import serve; serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self.connection = Connection(ours.detach())
        self._num_answers = 0
        self._send((self._factory, self._args))

    def submit(self, request: Any, timeout_s: float) -> None:
        """Send a request to the running process, without waiting. Several may be sent; they are answered in order.

        `connection` becomes readable when there is an answer, or when the process ends. `receive` first returns all
        earlier answers, and then raises ChildDied.
        """
        self._send((request, timeout_s))

    def receive(self) -> Any:
        """Wait for the next answer and return it; raises ChildDied or ChildError."""
        answer = self._receive()
        if self._num_answers == 0:
            self._first_bytes = self._last_bytes
        self._num_answers += 1
        return answer

    @property
    def worn_out(self) -> bool:
        """Whether the process has given enough answers or grown too much, so that the caller should close it."""
        if self._num_answers == 0:
            return False
        grown_bytes = self._last_bytes - self._first_bytes
        return (self._max_answers is not None and self._num_answers >= self._max_answers) or (
            self._max_growth_bytes is not None and grown_bytes > self._max_growth_bytes
        )

    @property
    def pid(self) -> int | None:
        """Process id; None while there is no process."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """Kill the process, if there is one. Requests without an answer are lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.connection.close()
            self._process = None
            self.ready = False

    def _send(self, message: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def _receive(self) -> Any:
        try:
            failed, answer, self._last_bytes, self.last_answer_s = self.connection.recv()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            self.close()
            raise ChildDied(f"the process of {self._factory} ended with exit code {code}") from None
        if failed:
            raise ChildError(answer)
        return answer

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process starts its own child.
        return {name: value for name, value in vars(self).items() if name != "connection"} | {
            "_process": None,
            "ready": False,
        }

    def __del__(self):
        self.close()


def serve(fd: int) -> None:
    """The child's main loop, over the socket that it inherited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and ends this process
    connection = Connection(fd)
    memory = psutil.Process().memory_info
    handler = None
    try:
        while True:
            request = connection.recv()
            start = time.monotonic()
            try:
                if handler is None:
                    handler, answer = _make_handler(*request), None
                else:
                    answer = _handle(handler, *request)
                failed = False
            except Exception:
                failed, answer = True, traceback.format_exc()
            connection.send((failed, answer, memory().rss, time.monotonic() - start))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has ended


def _make_handler(factory: str, args: tuple) -> Callable[[Any], Any]:
    module, name = factory.split(":")
    return getattr(importlib.import_module(module), name)(*args)


def _handle(handler: Callable[[Any], Any], request: Any, timeout_s: float) -> Any:
    # The default action of this alarm ends the process, even inside C code and without a parent to kill it.
    signal.setitimer(signal.ITIMER_REAL, timeout_s + _ALARM_MARGIN_S)
    try:
        return handler(request)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
