"""In the sandbox: watch a program until it ends, and end it if it exceeds its limits."""

import os
import select
import signal
from collections.abc import Callable
from time import monotonic

from sandbox_gate import Gate

PASSED, FAILED, TIMEOUT = 0, 1, 2  # ended with exit code 0; crashed or exceeded a limit; ran out of time
NOT_CONFINED = signal.SIGUSR1  # ends a child that could not be confined; a confined one cannot send signals

_NEARLY_ALL = 0.8  # of the CPU time
_LOOK_S = 0.05
_CHUNK_BYTES = 1 << 16


def watch(
    pid: int,
    output_fd: int,
    max_bytes: int,
    deadline: float,
    cpu_s: int,
    control: int,
    gate: Gate,
    holds_too_much: Callable[[], bool],
) -> tuple[int, bytes]:
    """Collect the output of a child until it ends, or until it must be killed.

    Args:
        pid: the child; it is reaped.
        output_fd: the reading end of a pipe to which only the child writes; it is closed.
        max_bytes: the limit of the output.
        deadline: a time of the monotonic clock.
        cpu_s: as in `reap`.
        control: if its other end is closed, the result is not needed.
        gate: answers the questions of the kernel.
        holds_too_much: returns whether the files are too large; called from time to time.

    Returns:
        the verdict and the output, which may be incomplete unless the verdict is PASSED.
    """
    ended = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(output_fd, select.POLLIN)
    poller.register(ended, select.POLLIN)
    poller.register(control, 0)  # only reports that it is closed
    poller.register(gate.listener, select.POLLIN)
    output = bytearray()
    verdict = PASSED
    next_look = monotonic() + _LOOK_S
    while verdict == PASSED:
        now = monotonic()
        if now >= deadline:
            verdict = TIMEOUT
        elif now >= next_look:
            next_look = now + _LOOK_S
            verdict = FAILED if holds_too_much() else PASSED
        events = dict(poller.poll(1000 * max(0, min(deadline, next_look) - now)))
        if control in events:
            os._exit(1)
        if gate.listener in events and not gate.answer():
            verdict = FAILED
        if output_fd in events:
            chunk = os.read(output_fd, _CHUNK_BYTES)
            output += chunk
            if not chunk:
                poller.unregister(output_fd)
            elif len(output) > max_bytes:
                verdict = FAILED
        elif ended in events:
            break
    os.kill(pid, signal.SIGKILL)
    os.close(ended)
    os.close(output_fd)
    exit_verdict = reap(pid, cpu_s)
    return verdict or exit_verdict, bytes(output)


def reap(pid: int, cpu_s: int) -> int:
    """Wait for a child that has ended or was killed; its exit code and its CPU time give the verdict.

    The kernel counts ticks to kill it at the limit. On a busy machine they differ from the CPU time that it reports. No
    child can answer after the limit, even if it handles signals: a child that has used all its time has timed out.

    Raises:
        RuntimeError: if the child could not be confined, and so did not run a program.
    """
    _, status, usage = os.wait4(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == NOT_CONFINED:
        raise RuntimeError("a process could not be confined")
    used_s = usage.ru_utime + usage.ru_stime
    if status == 0:
        return PASSED if used_s < cpu_s else TIMEOUT
    return TIMEOUT if used_s >= _NEARLY_ALL * cpu_s else FAILED
