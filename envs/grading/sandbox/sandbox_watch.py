"""Inside the sandbox: watch a program until it ends, and end it when it oversteps its limits."""

import os
import select
import signal
from time import monotonic
from typing import Any

PASSED, FAILED, TIMEOUT = 0, 1, 2  # ended with exit code 0; crashed or overstepped a limit; ran out of time
NOT_CONFINED = signal.SIGUSR1  # how a child ends that could not be confined; a confined one can send no signals

_NEARLY_ALL = 0.95  # of the CPU time
_LOOK_S = 0.05
_MAX_SCRATCH_ENTRIES = 200  # a folder nested that deep is still looked through in a few milliseconds
_CHUNK_BYTES = 1 << 16


def watch(
    pid: int, output_fd: int, deadline: float, cpu_s: int, control: int, settings: dict[str, Any]
) -> tuple[int, bytes]:
    """Collect what a child writes until it ends, or until it must be killed.

    Args:
        pid: the child; it is reaped.
        output_fd: the reading end of a pipe that nobody but the child writes to; it is closed.
        deadline: on the monotonic clock.
        cpu_s: as in `reap`.
        control: when its other end is closed, nobody waits for the result.
        settings: with output_bytes, scratch and scratch_bytes.

    Returns:
        the verdict and the output, which is cut short unless the verdict is PASSED.
    """
    ended = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(output_fd, select.POLLIN)
    poller.register(ended, select.POLLIN)
    poller.register(control, 0)  # tells when it is closed, and nothing else
    output = bytearray()
    verdict = PASSED
    next_look = monotonic() + _LOOK_S
    while verdict == PASSED:
        now = monotonic()
        if now >= deadline:
            verdict = TIMEOUT
        elif now >= next_look:
            next_look = now + _LOOK_S
            verdict = FAILED if _is_overfull(settings["scratch"], settings["scratch_bytes"]) else PASSED
        events = dict(poller.poll(1000 * max(0, min(deadline, next_look) - now)))
        if control in events:
            os._exit(1)
        if output_fd in events:
            chunk = os.read(output_fd, _CHUNK_BYTES)
            output += chunk
            if not chunk:
                poller.unregister(output_fd)
            elif len(output) > settings["output_bytes"]:
                verdict = FAILED
        elif ended in events:
            break
    os.kill(pid, signal.SIGKILL)
    os.close(ended)
    os.close(output_fd)
    exit_verdict = reap(pid, cpu_s)
    return verdict or exit_verdict, bytes(output)


def reap(pid: int, cpu_s: int) -> int:
    """Wait for a child that has ended or was killed, and judge it by its exit code; by its CPU time if that is not 0.

    The kernel ends it at the limit by ticks, and on a busy machine these are some way off the time that it reports: the
    signal tells for sure, the time only of a child that outlived the signal.

    Raises:
        RuntimeError: when the child could not be confined, and so ran no program.
    """
    _, status, usage = os.wait4(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == NOT_CONFINED:
        raise RuntimeError("a process could not be confined")
    if status == 0:
        return PASSED
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return TIMEOUT
    return TIMEOUT if usage.ru_utime + usage.ru_stime >= _NEARLY_ALL * cpu_s else FAILED


def _is_overfull(folder: str, max_bytes: int) -> bool:
    """Whether a program has made too many or too large files; what cannot be listed counts as too many."""
    num_bytes, num_entries, folders = 0, 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    num_entries += 1
                    status = entry.stat(follow_symlinks=False)
                    num_bytes += status.st_blocks * 512
                    if num_entries > _MAX_SCRATCH_ENTRIES or num_bytes > max_bytes:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except FileNotFoundError:  # it was removed meanwhile
            continue
        except OSError:
            return True
    return False
