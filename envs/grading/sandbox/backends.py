"""Ways to confine programs: bubblewrap if user namespaces work, else Landlock. Without either, no program is run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.grading.sandbox import landlock

_HERE = Path(__file__).parent
_OWN_FILES = tuple(
    str(_HERE / f"{name}.py")
    for name in (
        "sandbox_child",
        "sandbox_run",
        "sandbox_calls",
        "sandbox_check",
        "sandbox_given",
        "sandbox_files",
        "sandbox_gate",
        "sandbox_pytest",
        "sandbox_stand_ins",
        "sandbox_streams",
        "sandbox_watch",
        "sandbox_confine",
        "code_graph",
        "code_values",
        "landlock",
    )
)
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_STREAMS = {"stdin": "/streams/stdin", "stdout": "/streams/stdout", "stderr": "/dev/null"}
_PYTHON_OPTIONS = ("-s", "-S", "-B", "-X", "utf8", "-X", "int_max_str_digits=0")
_OTHER_PACKAGES = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class VisibleFiles:
    """The files that a program can read, besides the system's libraries.

    Attributes:
        python: the interpreter, without the symbolic links of a virtual environment.
        standard: the folder of the standard library, and the shared libraries of this interpreter.
        hidden: folders in the standard library that appear empty, because they have other packages.
        packages: folders and files of the chosen packages.
        package_folders: the folders that contain these packages.
    """

    python: str
    standard: tuple[str, ...]
    hidden: tuple[str, ...]
    packages: tuple[str, ...]
    package_folders: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The command line of the interpreter in the sandbox."""
        return [self.python, *_PYTHON_OPTIONS, _OWN_FILES[0], *self.package_folders]


@dataclass(frozen=True)
class Launch:
    """The way to start one sandbox.

    Attributes:
        command: the command line.
        scratch: the folder for a program's files, as a path in the sandbox.
        streams: the folder of a program's standard input and output, as a path in the sandbox.
        landlock: arguments of `landlock.make_ruleset`; None without Landlock.
        delete: a folder to remove at the end; None if there is none.
    """

    command: list[str]
    scratch: str
    streams: str
    landlock: dict[str, Any] | None = None
    delete: str | None = None


@dataclass(frozen=True)
class Backend:
    """A way to confine programs.

    Attributes:
        name: for messages.
        launch: called with the visible files and the size of the scratch folder in bytes; raises OSError if something
            is missing.
        remedy: what to install for this backend.
    """

    name: str
    launch: Callable[[VisibleFiles, int], Launch]
    remedy: str


def _bubblewrap(files: VisibleFiles, scratch_bytes: int) -> Launch:
    program = shutil.which("bwrap")
    if program is None:
        raise OSError("there is no program bwrap in PATH")
    command = [program, "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    command += ["--as-pid-1", "--hostname", "sandbox"]
    for path in _SYSTEM_LIBRARIES:
        command += ["--ro-bind-try", path, path]
    for path in (files.python, *files.standard):
        command += ["--ro-bind", path, path]
    for path in files.hidden:
        command += ["--tmpfs", path]
    for path in (*files.packages, *_OWN_FILES):
        command += ["--ro-bind", path, path]
    for path in _DEVICES:
        command += ["--dev-bind", path, path]
    for number, (name, path) in enumerate(_STREAMS.items()):  # elsewhere these are links into /proc/self/fd
        command += ["--symlink", path, f"/dev/{name}", "--symlink", path, f"/dev/fd/{number}"]
    # Not /tmp: the interpreter or a package may be in it.
    for path in ("/scratch", "/streams"):
        command += ["--size", str(scratch_bytes), "--tmpfs", path]
    for path in ("/", *files.hidden):
        command += ["--remount-ro", path]
    return Launch([*command, "--", *files.command], scratch="/scratch", streams="/streams")


def _landlock(files: VisibleFiles, scratch_bytes: int) -> Launch:
    if landlock.abi() < landlock.MIN_ABI:
        raise OSError(f"the kernel has Landlock version {landlock.abi()}, and {landlock.MIN_ABI} is needed")
    readable = [path for path in _SYSTEM_LIBRARIES if os.path.exists(path)]
    for path in files.standard:
        readable += _entries_except(path, files.hidden)
    folder = tempfile.mkdtemp(prefix="graded-")
    scratch, streams = os.path.join(folder, "scratch"), os.path.join(folder, "streams")
    os.mkdir(scratch)
    os.mkdir(streams)
    rules = {
        "readable": [*readable, *files.packages, os.path.join(streams, "stdin")],
        "listable": [path for path in (*files.standard, *files.package_folders) if os.path.isdir(path)],
        "devices": [*_DEVICES, os.path.join(streams, "stdout")],
        "scratch": scratch,
    }
    return Launch(files.command, scratch, streams, rules, delete=folder)


BACKENDS = (
    Backend("bubblewrap", _bubblewrap, "install bubblewrap 0.7 or later and libseccomp, and allow user namespaces"),
    Backend("landlock", _landlock, "install libseccomp, on a Linux kernel 6.2 or later that has Landlock enabled"),
)


def visible_files(packages: Sequence[str]) -> VisibleFiles:
    """Return the files that a program needs for this interpreter and these packages.

    Raises:
        ValueError: for a package that is not installed.
    """
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}  # those of the parent of a virtual environment
    standard = {os.path.realpath(sysconfig.get_path(name, vars=base)) for name in ("stdlib", "platstdlib")}
    libraries = Path(sys.base_prefix, "lib").glob("*.so*")
    found = [path for name in packages for path in _package_paths(name)]
    hidden = [os.path.join(folder, name) for folder in sorted(standard) for name in _OTHER_PACKAGES]
    return VisibleFiles(
        python=os.path.realpath(sys._base_executable),
        standard=(*sorted(standard), *sorted(map(str, libraries))),
        hidden=tuple(path for path in hidden if os.path.isdir(path)),
        packages=tuple(found),
        package_folders=tuple(sorted({os.path.dirname(path) for path in found})),
    )


def _package_paths(name: str) -> list[str]:
    """The package, and the folder of shared libraries that wheels install next to it."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ValueError(f"packages: {name!r} is not installed")
    path = os.path.dirname(spec.origin) if spec.submodule_search_locations else spec.origin
    libraries = os.path.join(os.path.dirname(path), f"{name}.libs")
    return [path, libraries] if os.path.isdir(libraries) else [path]


def _entries_except(path: str, hidden: Sequence[str]) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    return [entry.path for entry in os.scandir(path) if entry.path not in hidden]
