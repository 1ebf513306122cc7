"""Inside the sandbox: what a fresh process gives up before it runs somebody's program."""

import ctypes
import os
import resource
import signal

import landlock

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
_RLIMIT_SIGPENDING = 11  # the resource module has no name for it
_MAX_FILES = 64
_MAX_SIGNALS = 64
_INSTRUCTION_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which forked it, ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def hide_from_siblings() -> None:
    """Let no process of the same user look into this one or into those that it forks, and dump no core."""
    _prctl(_PR_SET_DUMPABLE, 0)


def limit_resources(memory_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """Set limits that can only be lowered from now on.

    Args:
        memory_bytes: of address space.
        cpu_s: after that many seconds on a CPU comes SIGXCPU, and a second later SIGKILL to those that outlive it.
        file_bytes: of one file.
    """
    # The stack has no limit: contest programs ask for an unlimited one, and the address space bounds it anyway.
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, _MAX_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (_RLIMIT_SIGPENDING, _MAX_SIGNALS),
    ):
        resource.setrlimit(limit, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))


def drop_privileges() -> None:
    """Give up every capability and every way to get one, which matters where the grader runs as root."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def restrict_files(ruleset: int | None) -> None:
    """Put the Landlock rules in force, where there are some."""
    if ruleset is not None:
        landlock.restrict_self(ruleset)


def filter_system_calls(bpf: bytes) -> None:
    """Put the seccomp filter in force, for good."""
    program = _FilterProgram(len(bpf) // _INSTRUCTION_BYTES, bpf)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def _prctl(option: int, value: int, pointer=None) -> None:
    nothing = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), pointer or nothing, nothing, nothing) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")
