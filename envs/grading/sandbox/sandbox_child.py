"""In the sandbox: an interpreter that has imported everything, and forks for each run.

It never reads a job itself. It forks a supervisor, which reads the jobs of one program, forks a process for each job,
watches it and reports its result. So the memory of a program has no trace of an earlier program. The interpreter and
the supervisor run no code of a program, and a program is confined further than they are: see `_start`.
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
from functools import partial
from time import monotonic
from typing import Any

import landlock
import sandbox_calls
import sandbox_check
import sandbox_confine as confine
import sandbox_run
from sandbox_files import holds_too_much
from sandbox_gate import Gate
from sandbox_given import GIVEN_MODULES, give
from sandbox_streams import Streams
from sandbox_watch import FAILED, NOT_CONFINED, PASSED, TIMEOUT, reap, watch

_HEADER = struct.Struct(">I")
_FIRST_FD = 128  # files that a program must not have get higher numbers than those that it is given
_LAST_FD = 1024
_ENDED_WELL = 7  # code 0 needs permission, see `sandbox_gate`
_RECURSION_LIMIT = 50_000 + 10  # the limit of judges, and our own frames
_THREAD_STACK_BYTES = 8 << 20  # the usual default; otherwise it would follow the size of the main stack
# The modules that programs use most. Importing them once saves milliseconds per program. Programs can import others.
_PRELOADED = """
    contextlib dataclasses decimal enum fractions inspect io queue tempfile textwrap threading time unittest
"""


def main() -> None:
    """Serve the process at the other end of file 0 until it closes its end."""
    sys.path[:] = [*sys.path[1:], *sys.argv[1:]]  # without the folder of this file, but with those of packages
    control = _moved_up(0)
    settings = json.loads(_receive(control))
    os.chdir(settings["scratch"])
    sys.argv[:] = [os.path.join(settings["scratch"], sandbox_run.PROGRAM_FILE)]
    site.setquit()
    sys.setrecursionlimit(_RECURSION_LIMIT)
    _import([*GIVEN_MODULES, *_PRELOADED.split(), *settings["preloaded"]])
    give()
    threading.stack_size(_THREAD_STACK_BYTES)
    settings["streams"] = Streams(settings["streams"])
    confine.hide_from_siblings()
    settings["filter"] = base64.b64decode(settings["filter"])
    rules = settings["landlock"]
    settings["ruleset"] = _moved_up(landlock.make_ruleset(**rules)) if rules else None
    settings["listener"] = _moved_up(
        confine.ask_first(settings["calls"]["seccomp"], base64.b64decode(settings["gate"]))
    )
    gc.collect()
    gc.freeze()
    _send(control, b"ready")
    try:
        _serve(control, settings)
    finally:
        if rules:  # the folder is on the host, and the grader, which would remove it, may have ended
            settings["streams"].make_removable()
            shutil.rmtree(settings["delete"], ignore_errors=True)
        os._exit(_ENDED_WELL)


def _serve(control: int, settings: dict[str, Any]) -> None:
    """Fork a supervisor for each program, until one ends with an error."""
    while True:
        select.select([control], [], [])
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            confine.die_with_parent(zygote)
            try:
                supervise(control, settings)
                os._exit(_ENDED_WELL)
            finally:
                os._exit(1)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != _ENDED_WELL:
            return
        while _reaped_orphan():
            pass


def supervise(control: int, settings: dict[str, Any]) -> None:
    """Run jobs until null: read {"kind", "wall_s", "cpu_s", "prefix", "program", ...}, write verdict and output."""
    while job := json.loads(_receive(control)):
        deadline = monotonic() + job["wall_s"]
        verdict, output = _RUNNERS[job["kind"]](job, deadline, control, settings)
        _send(control, bytes([verdict, bool(os.listdir(settings["scratch"]))]) + output)


def _run_stdin(job: dict[str, Any], deadline: float, control: int, settings: dict[str, Any]) -> tuple[int, bytes]:
    streams = settings["streams"]
    stdin = streams.open_input(job["stdin"].encode("utf-8", "surrogatepass"))
    output, stdout = streams.open_output()
    run = partial(sandbox_run.run_script, job["prefix"], job["program"])
    pid = _start([stdin, stdout, _null()], run, 1, job, settings)
    result = _watched(pid, pid, output, deadline, job, control, settings)
    streams.clear_input()
    return result


def _run_call(job: dict[str, Any], deadline: float, control: int, settings: dict[str, Any]) -> tuple[int, bytes]:
    output, result = os.pipe()
    run = partial(sandbox_run.run_call, job["prefix"], job["program"], job["fn_name"], job["arguments"])
    pid = _start([_null(), _null(), _null(), result], run, 1, job, settings)
    return _watched(pid, pid, output, deadline, job, control, settings)


def _run_check(job: dict[str, Any], deadline: float, control: int, settings: dict[str, Any]) -> tuple[int, bytes]:
    """Fork the program before the test program is read, so that the program does not have the tests in its memory."""
    (asked, ask), (answered, answer), (output, verdict) = os.pipe(), os.pipe(), os.pipe()
    limit = settings["output_bytes"]
    serve = partial(sandbox_calls.serve_calls, job["prefix"], job["program"], limit)
    program = _start([_null(), _null(), _null(), asked, answer], serve, 2, job, settings)
    check = _receive(control).decode("utf-8", "surrogatepass")
    run = partial(sandbox_check.run_check, job["prefix"], check, job["fn_name"], limit)
    checker = _start([_null(), _null(), _null(), answered, ask, verdict], run, 2, job, settings)
    outcome, output = _watched(checker, program, output, deadline, job, control, settings)
    os.kill(program, signal.SIGKILL)
    exhausted = reap(program, job["cpu_s"]) == TIMEOUT
    if outcome == PASSED and output != sandbox_check.ALL_HELD:
        outcome = FAILED
    return (TIMEOUT if exhausted else outcome), b""


_RUNNERS: dict[str, Callable[..., tuple[int, bytes]]] = {
    "stdin": _run_stdin,
    "call": _run_call,
    "assert": _run_check,
}


def _watched(pid: int, program: int, output: int, deadline: float, job, control: int, settings) -> tuple[int, bytes]:
    """Watch the process `pid`, and the size of the files of the process `program`."""
    on_disk = program if settings["ruleset"] is not None else None
    too_much = partial(holds_too_much, settings["scratch"], settings["scratch_bytes"], on_disk)
    gate = Gate(settings["listener"], settings["calls"]["clone"], settings["threads"], lambda: not too_much())
    return watch(pid, output, settings["output_bytes"], deadline, job["cpu_s"], control, gate, too_much)


def _start(fds: list[int], run: Callable[[], None], num_sharing: int, job: dict[str, Any], settings) -> int:
    """Fork a process that has only the files `fds`, as 0, 1, 2, ..., and confine it before it calls `run`.

    The files are closed in this process. `num_sharing` processes of the run share its memory. Returns the process id.
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
        if settings["ruleset"] is not None:
            landlock.restrict_self(settings["ruleset"])
            confine.show_to_supervisor()  # other programs cannot look at it: they have no /proc
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
            os._exit(1)  # the grader has ended
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _send(fd: int, payload: bytes) -> None:
    unsent = _HEADER.pack(len(payload)) + payload
    while unsent:
        unsent = unsent[os.write(fd, unsent) :]


main()
