"""Inside the sandbox: an interpreter that has everything imported, and forks for each run.

It never reads a job itself: it forks a supervisor, which reads the jobs of one program, forks a process for each,
watches it and reports. So no trace of one program is in the memory of the next. This file runs nobody's code, and
programs are confined further than it is: see `_start`.
"""

import base64
import fcntl
import gc
import importlib
import json
import os
import select
import shutil
import signal
import site
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import landlock
import sandbox_calls
import sandbox_confine as confine
import sandbox_run
from sandbox_watch import FAILED, NOT_CONFINED, PASSED, TIMEOUT, reap, watch

_HEADER = struct.Struct(">I")
_FIRST_FD = 128  # what a program must not have lies above what it is given
_LAST_FD = 1024
_RECURSION_LIMIT = 1000 + 10  # our own frames on top of the usual limit
_THREAD_STACK_BYTES = 8 << 20  # the default, which would follow the size of the main stack
# What programs use most. Importing it once saves them milliseconds each; a program that wants more imports it itself.
_PRELOADED = """
    bisect collections copy dataclasses datetime decimal enum fractions functools heapq io itertools math operator
    random re statistics string tempfile textwrap threading typing
"""


def main() -> None:
    """Serve the process at the other end of file 0 until it closes that."""
    sys.path[:] = [*sys.path[1:], *sys.argv[1:]]  # without the folder of this file, with those of packages
    control = _moved_up(0)
    settings = json.loads(_receive(control))
    os.chdir(settings["scratch"])
    site.setquit()
    sys.setrecursionlimit(_RECURSION_LIMIT)
    _import(_PRELOADED.split())
    threading.stack_size(_THREAD_STACK_BYTES)
    confine.hide_from_siblings()
    settings["filter"] = base64.b64decode(settings["filter"])
    rules = settings["landlock"]
    settings["ruleset"] = _moved_up(landlock.make_ruleset(**rules)) if rules else None
    gc.collect()
    gc.freeze()
    _send(control, b"ready")
    try:
        _serve(control, settings)
    finally:
        if rules:  # the folder is one of the host's, and the grader, which would remove it, may be gone
            shutil.rmtree(settings["scratch"], ignore_errors=True)


def _serve(control: int, settings: dict[str, Any]) -> None:
    """Fork a supervisor for each program, until one does not end well."""
    while True:
        select.select([control], [], [])
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            confine.die_with_parent(zygote)
            try:
                supervise(control, settings)
                os._exit(0)
            finally:
                os._exit(1)
        if os.waitpid(pid, 0)[1] != 0:
            return
        while _reaped_orphan():
            pass


def supervise(control: int, settings: dict[str, Any]) -> None:
    """Run jobs until null comes: {"kind", "wall_s", "cpu_s", "prefix", "program", ...} in, verdict and output out."""
    while job := json.loads(_receive(control)):
        # Once per program that may need it: a fork with NumPy in its memory takes half as long again.
        _import(name for name in settings["packages"] if name in job["program"])
        deadline = monotonic() + job["wall_s"]
        verdict, output = _RUNNERS[job["kind"]](job, deadline, control, settings)
        _send(control, bytes([verdict, bool(os.listdir(settings["scratch"]))]) + output)


def _run_stdin(job: dict[str, Any], deadline: float, control: int, settings: dict[str, Any]) -> tuple[int, bytes]:
    path = os.path.join(settings["scratch"], "stdin")
    with open(path, "wb") as file:
        file.write(job["stdin"].encode("utf-8", "surrogatepass"))
    stdin, (output, stdout) = os.open(path, os.O_RDONLY), os.pipe()
    run = lambda: sandbox_run.run_script(job["prefix"], job["program"])  # noqa: E731
    pid = _start([stdin, stdout, _null()], run, 1, job, settings)
    result = watch(pid, output, deadline, job["cpu_s"], control, settings)
    if os.path.lexists(path):
        os.unlink(path)
    return result


def _run_call(job: dict[str, Any], deadline: float, control: int, settings: dict[str, Any]) -> tuple[int, bytes]:
    output, result = os.pipe()
    run = lambda: sandbox_run.run_call(job["prefix"], job["program"], job["fn_name"], job["arguments"])  # noqa: E731
    pid = _start([_null(), _null(), _null(), result], run, 1, job, settings)
    return watch(pid, output, deadline, job["cpu_s"], control, settings)


def _run_check(job: dict[str, Any], deadline: float, control: int, settings: dict[str, Any]) -> tuple[int, bytes]:
    """Fork the program before the test program is read: it is nowhere in the memory of what it tests."""
    (asked, ask), (answered, answer), (output, verdict) = os.pipe(), os.pipe(), os.pipe()
    limit = settings["output_bytes"]
    serve = lambda: sandbox_calls.serve_calls(job["prefix"], job["program"], limit)  # noqa: E731
    program = _start([_null(), _null(), _null(), asked, answer], serve, 2, job, settings)
    check = _receive(control).decode("utf-8", "surrogatepass")
    run = lambda: sandbox_calls.run_check(job["prefix"], check, job["fn_name"], limit)  # noqa: E731
    checker = _start([_null(), _null(), _null(), answered, ask, verdict], run, 2, job, settings)
    outcome, output = watch(checker, output, deadline, job["cpu_s"], control, settings)
    os.kill(program, signal.SIGKILL)
    exhausted = reap(program, job["cpu_s"]) == TIMEOUT
    if outcome == PASSED and output != sandbox_calls.ALL_HELD:
        outcome = FAILED
    return (TIMEOUT if outcome == FAILED and exhausted else outcome), b""


_RUNNERS: dict[str, Callable[..., tuple[int, bytes]]] = {
    "stdin": _run_stdin,
    "call": _run_call,
    "assert": _run_check,
}


def _start(fds: list[int], run: Callable[[], None], num_sharing: int, job: dict[str, Any], settings) -> int:
    """Fork a process that has the files `fds` as 0, 1, 2, ... and no others, and confine it before it calls `run`.

    The files are closed here. `num_sharing` processes of the run share its memory. Returns the process id.
    """
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        return pid
    try:
        confine.die_with_parent(supervisor)
        for fd, source in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_FD) for fd in fds]):
            os.dup2(source, fd)
        confine.limit_resources(settings["memory_bytes"] // num_sharing, job["cpu_s"], settings["scratch_bytes"])
        confine.drop_privileges()
        confine.restrict_files(settings["ruleset"])
        os.closerange(len(fds), _LAST_FD)
        confine.filter_system_calls(settings["filter"])
    except BaseException:
        os.kill(os.getpid(), NOT_CONFINED)
    try:
        run()
    finally:
        os._exit(1)


def _import(names: Iterable[str]) -> None:
    for name in names:
        importlib.import_module(name)


def _null() -> int:
    return os.open(os.devnull, os.O_RDWR)


def _reaped_orphan() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _moved_up(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)


def _receive(fd: int) -> bytes:
    return _read_exactly(fd, _HEADER.unpack(_read_exactly(fd, _HEADER.size))[0])


def _read_exactly(fd: int, size: int) -> bytes:
    chunks = []
    while size:
        chunk = os.read(fd, min(size, 1 << 20))
        if not chunk:
            os._exit(1)  # the grader is gone
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _send(fd: int, payload: bytes) -> None:
    unsent = _HEADER.pack(len(payload)) + payload
    while unsent:
        unsent = unsent[os.write(fd, unsent) :]


main()
