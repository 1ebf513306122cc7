"""In the sandbox: the rights that a new process gives up before it runs a program."""

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_SECCOMP_SET_MODE_FILTER, _FLAG_NEW_LISTENER = 1, 1 << 3
_CAPABILITY_VERSION = 0x20080522
_RLIMIT_SIGPENDING = 11  # the resource module has no name for this limit
_MAX_FILES = 64
_MAX_SIGNALS = 64
_INSTRUCTION_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when `parent`, which forked it, ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent has already ended
        os._exit(1)


def hide_from_siblings() -> None:
    """Prevent other processes of the same user from reading this one and its children, and dump no core."""
    _prctl(_PR_SET_DUMPABLE, 0)


def show_to_supervisor() -> None:
    """Let a process of the same user, if Landlock does not confine it, list the open files of this process."""
    _prctl(_PR_SET_DUMPABLE, 1)


def ask_first(number: int, bpf: bytes) -> int:
    """Apply a filter to this process and its children; return the descriptor on which the kernel asks.

    Args:
        number: the number of the system call seccomp.
        bpf: the filter.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    program = _FilterProgram(len(bpf) // _INSTRUCTION_BYTES, bpf)
    listener = _libc.syscall(number, _SECCOMP_SET_MODE_FILTER, _FLAG_NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "the kernel cannot ask about system calls; Linux 5.5 or later can")
    return listener


def limit_resources(memory_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """Set limits that can only be lowered later.

    Args:
        memory_bytes: the size of the address space.
        cpu_s: seconds on a CPU, after which the kernel sends SIGKILL. With a lower soft limit it would first send
            SIGXCPU, which the program could catch, and then answer.
        file_bytes: the size of one file.
    """
    # The stack has no limit: contest programs need an unlimited one, and the address space limits it anyway.
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, _MAX_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (_RLIMIT_SIGPENDING, _MAX_SIGNALS),
    ):
        resource.setrlimit(limit, (value, value))


def drop_privileges() -> None:
    """Give up every capability and every way to get one. This matters if the grader runs as root."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def filter_system_calls(bpf: bytes) -> None:
    """Apply the seccomp filter permanently."""
    program = _FilterProgram(len(bpf) // _INSTRUCTION_BYTES, bpf)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def _prctl(option: int, value: int, pointer=None) -> None:
    nothing = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), pointer or nothing, nothing, nothing) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")
