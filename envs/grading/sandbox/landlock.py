"""Landlock by raw system calls: restrict the files that a process and its children may open, without privileges.

Landlock restricts only opening, creating and removing files. It does not restrict chmod, stat, signals, and (before
version 4) sockets. The seccomp filter stops those that change something. Names and sizes of files remain visible.
"""

import ctypes
import os

MIN_ABI = 3  # earlier versions do not restrict truncation

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_ALL_OF_ABI_3 = (1 << 15) - 1
_READ = _READ_FILE | _READ_DIR
_SCRATCH = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
_ON_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE

_libc = ctypes.CDLL(None, use_errno=True)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """Return the version of Landlock that the kernel offers; 0 for none."""
    return max(0, _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION))


def make_ruleset(readable: list[str], listable: list[str], devices: list[str], scratch: str) -> int:
    """Return a file descriptor for `restrict_self`.

    Args:
        readable: files, and folders with all their contents.
        listable: folders of which only the names of the entries can be read.
        devices: files to read and write, such as /dev/null.
        scratch: the folder in which files and folders can be created and removed.

    Raises:
        OSError: if a path does not exist, or the kernel has no Landlock.
    """
    handled = ctypes.c_uint64(_ALL_OF_ABI_3 | (_IOCTL_DEV if abi() >= 5 else 0))
    ruleset = _call(_CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(ctypes.sizeof(handled)), 0)
    rights = [(path, _READ) for path in readable] + [(path, _READ_DIR) for path in listable]
    rights += [(path, _READ_FILE | _WRITE_FILE) for path in devices] + [(scratch, _SCRATCH)]
    for path, allowed in rights:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = _PathBeneath(allowed if os.path.isdir(path) else allowed & _ON_FILES, parent)
        _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
        os.close(parent)
    return ruleset


def restrict_self(ruleset: int) -> None:
    """Apply the rules to this process permanently; it must have set no_new_privs."""
    _call(_RESTRICT_SELF, ruleset, 0)


def _call(number: int, *arguments) -> int:
    result = _libc.syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result
