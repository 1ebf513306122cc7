"""Run untrusted programs: the side of the sandbox that is in the grader's process.

A program sees the Python interpreter, its standard library and chosen packages, all read-only, and one empty folder.
It has no network, does not see other processes or our environment variables, and cannot start a process. It is confined
by `backends` (mounts and namespaces, or Landlock), by a filter of system calls (`seccomp`) and by resource limits.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import weakref
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from time import monotonic, sleep
from typing import Any

from envs.grading.sandbox import seccomp
from envs.grading.sandbox.backends import Backend, Launch, VisibleFiles, visible_files

FINISHED, FAILED, TIMEOUT = 0, 1, 2  # as in sandbox_watch

_START_S = 60.0
_DELETE_ATTEMPTS = 5
_GRACE_S = 5.0  # time for the supervisor, which watches the deadline, to report
_STACK_KIB_PER_MB = 1024 // 2
_MIN_MEMORY_MB = 256
_HEADER = struct.Struct(">I")
# A subset of the variables of a contest machine. Each thread of NumPy would take address space.
_ENVIRON = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class SandboxError(Exception):
    """The sandbox died or gave an invalid answer, so there is no result for the program."""


@dataclass(frozen=True)
class Limits:
    """The limits of one program.

    Attributes:
        wall_s: seconds per test, above 0. It is more than `cpu_s`, so that a busy machine does not turn right programs
            into timeouts.
        cpu_s: seconds of CPU time per test, above 0 (rounded up). A limit in the tests replaces it, and `wall_s`
            changes by the same factor.
        total_s: seconds for all tests of a program together, above 0.
        memory_mb: mebibytes of memory for all processes that run at once, with their files, at least 256.
        output_bytes: bytes that one test may print or return, at least 1.
        scratch_mb: mebibytes of files, 1..memory_mb / 4. The input of a test has the same limit.
        threads: threads that a program may start in one test, at least 0. A program can never start a process.
        program_bytes: length of a program, at least 1. A longer program is not run.

    Raises:
        ValueError: for a value outside its range.
    """

    wall_s: float = 25.0
    cpu_s: float = 10.0
    total_s: float = 120.0
    memory_mb: int = 1024
    output_bytes: int = 4 << 20
    scratch_mb: int = 64
    threads: int = 256
    program_bytes: int = 1 << 20

    def __post_init__(self):
        for name in ("wall_s", "cpu_s", "total_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)!r} must be above 0 and finite")
        for name, lowest, highest in (
            ("memory_mb", _MIN_MEMORY_MB, None),
            ("output_bytes", 1, None),
            ("scratch_mb", 1, self.memory_mb // 4),
            ("threads", 0, None),
            ("program_bytes", 1, None),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest or (highest is not None and value > highest):
                raise ValueError(
                    f"{name}={value!r} is not an integer in {lowest}..{'' if highest is None else highest}"
                )


class Sandbox:
    """One pre-forked interpreter in a sandbox. It starts at the first run, and again after it has failed.

    Args:
        backend: the way to confine programs.
        limits: the limits of a program.
        packages: importable packages that programs may use, besides the standard library.
        preloaded: those packages that are imported once, before any program runs.

    Raises:
        ValueError: for a package that is not installed.
    """

    def __init__(self, backend: Backend, limits: Limits, packages: tuple[str, ...], preloaded: tuple[str, ...] = ()):
        self._backend = backend
        self._limits = limits
        self._preloaded = preloaded
        self._files = visible_files(packages)
        self._process: _Process | None = None

    def run(self, job: dict[str, Any], wall_s: float, cpu_s: float, then: str | None = None) -> tuple[int, bytes]:
        """Run one job of `sandbox_child`.

        Args:
            job: the job, without the limits.
            wall_s, cpu_s: the limits of the job.
            then: the message to send after the job.

        Returns:
            FINISHED, FAILED or TIMEOUT, and the output.

        Raises:
            SandboxError: if the sandbox failed. It is ended then, and the next run starts a new one.
        """
        try:
            process = self._running()
            process.channel.settimeout(wall_s + _GRACE_S)
            _send(process.channel, json.dumps(job | {"wall_s": wall_s, "cpu_s": ceil(cpu_s)}).encode())
            if then is not None:
                _send(process.channel, then.encode("utf-8", "surrogatepass"))
            reply = _receive(process.channel, wall_s + _GRACE_S, self._limits.output_bytes + (1 << 16) + 2)
        except OSError as error:
            self.close()
            raise SandboxError(f"{self._backend.name}: {error}") from error
        verdict, left_files, output = reply[0], reply[1], reply[2:]
        if left_files:  # the next program gets a clean folder
            self.close()
        return verdict, output

    def forget(self) -> None:
        """Announce that the next job is another program, which must find no trace of the last one."""
        if self._process is not None:
            with suppress(OSError):  # the next job raises the error
                _send(self._process.channel, b"null")

    def close(self) -> None:
        """End every process and remove every file; the next run starts a new sandbox."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    @property
    def pid(self) -> int | None:
        """Process id of the leader of the sandbox's process group; None if it does not run."""
        return self._process and self._process.pid

    def _running(self) -> _Process:
        if self._process is not None and not self._process.is_ours():
            self._process = None  # it belongs to our parent, from which this process was forked
        if self._process is None:
            self._process = _Process(self._backend, self._limits, self._files, self._preloaded)
        return self._process


class _Process:
    """The process group of a sandbox, and the socket to it."""

    def __init__(self, backend: Backend, limits: Limits, files: VisibleFiles, preloaded: tuple[str, ...]):
        seccomp.allow_list()  # raises OSError if something is missing, before there is anything to clean up
        launch = backend.launch(files, limits.scratch_mb << 20)
        self.channel, theirs = socket.socketpair()
        command = ["/bin/sh", "-c", 'ulimit -S -s "$0"; exec "$@"', str(limits.memory_mb * _STACK_KIB_PER_MB)]
        environ = _ENVIRON | {"HOME": launch.scratch, "TMPDIR": launch.scratch}
        with tempfile.TemporaryFile() as errors:
            with theirs:
                popen = subprocess.Popen(
                    command + launch.command,
                    stdin=theirs,
                    stdout=theirs,
                    stderr=errors,
                    env=environ,
                    cwd="/",
                    start_new_session=True,  # its own process group, so that all of it can be killed at once
                )
            self.pid = popen.pid
            self._owner = os.getpid()
            self.stop = weakref.finalize(self, _stop, popen, self.channel, launch.delete, self._owner)
            try:
                _send(self.channel, json.dumps(_settings(limits, launch, preloaded)).encode())
                _receive(self.channel, _START_S, len(b"ready"))
            except OSError as error:
                self.stop()
                errors.seek(0)
                complaints = errors.read().decode(errors="replace").splitlines()
                raise OSError(f"the sandbox did not start: {complaints[-1] if complaints else error}") from error

    def is_ours(self) -> bool:
        """Whether this process started the sandbox, and not a parent from which this process was forked."""
        return self._owner == os.getpid()


def _settings(limits: Limits, launch: Launch, preloaded: tuple[str, ...]) -> dict[str, Any]:
    # The size of bubblewrap's scratch folder is fixed. On a disk of the host, the files of a program are measured
    # while it runs, and once more before it ends.
    asked = seccomp.ask_before_threads() if launch.landlock is None else seccomp.ask_before_threads_and_ends()
    return {
        "filter": base64.b64encode(seccomp.allow_list()).decode(),
        "gate": base64.b64encode(asked).decode(),
        "calls": {name: seccomp.number(name) for name in ("seccomp", "clone")},
        "landlock": launch.landlock,
        "preloaded": list(preloaded),
        "delete": launch.delete,
        "scratch": launch.scratch,
        "streams": launch.streams,
        "scratch_bytes": limits.scratch_mb << 20,
        "memory_bytes": (limits.memory_mb - 2 * limits.scratch_mb) << 20,
        "threads": limits.threads,
        "output_bytes": limits.output_bytes,
    }


def _stop(popen: subprocess.Popen, channel: socket.socket, delete: str | None, owner: int) -> None:
    if os.getpid() != owner:
        return
    channel.close()
    os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()
    if delete is not None:
        _delete(delete)


def _delete(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:  # a program left files, which may be in unreadable folders or nested too deeply for Python
        for _ in range(_DELETE_ATTEMPTS):  # a process may still be ending, and create files
            subprocess.run(["chmod", "-R", "u+rwx", folder], stderr=subprocess.DEVNULL)
            if subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL).returncode == 0:
                return
            sleep(0.05)


def _send(channel: socket.socket, payload: bytes) -> None:
    channel.sendall(_HEADER.pack(len(payload)) + payload)


def _receive(channel: socket.socket, timeout_s: float, max_bytes: int) -> bytes:
    deadline = monotonic() + timeout_s
    (size,) = _HEADER.unpack(_read_exactly(channel, _HEADER.size, deadline))
    if size > max_bytes:
        raise OSError(f"an answer of {size} bytes, more than {max_bytes}")
    return _read_exactly(channel, size, deadline)


def _read_exactly(channel: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        channel.settimeout(max(deadline - monotonic(), 0.001))
        chunk = channel.recv(min(size - len(data), 1 << 20))
        if not chunk:
            raise OSError("it ended without an answer")
        data += chunk
    return bytes(data)
