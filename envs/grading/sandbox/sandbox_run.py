"""Inside the sandbox: run somebody's program, as a script or for one call of a function. Nothing here returns."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from json import dumps, loads
from types import ModuleType
from typing import Any

from code_values import to_tree

RESULT_FD = 3
SCRIPT = "__main__"
LIBRARY = "solution"  # what stands below `if __name__ == "__main__"` is no part of a function

_exit, _write = os._exit, os.write  # a program may replace these names


def run_script(prefix: str, program: str) -> None:
    """Run the program as `python program.py` would, from file 0 to file 1."""
    open_standard_files()
    module = new_module(SCRIPT)
    code = 0
    try:
        execute(module, prefix, program)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        _exit(1)
    _finish(module, code & 0xFF)


def run_call(prefix: str, program: str, fn_name: str, arguments: str) -> None:
    """Call a function of the program, and write the value that it returns to RESULT_FD.

    Args:
        prefix, program: Python source.
        fn_name: as `find_function` takes it.
        arguments: a JSON list.
    """
    open_standard_files()
    module = new_module(LIBRARY)
    try:
        execute(module, prefix, program)
        value = find_function(module, fn_name)(*loads(arguments))
        unsent = dumps(to_tree(value, _refuse)).encode()
        while unsent:
            unsent = unsent[_write(RESULT_FD, unsent) :]
    except BaseException:
        _exit(1)
    _exit(0)


def open_standard_files() -> None:
    """Make sys.stdin and sys.stdout anew: those of the parent remember other files."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


def new_module(name: str) -> ModuleType:
    """Make an empty module that `import` finds."""
    module = sys.modules[name] = ModuleType(name)
    return module


def execute(module: ModuleType, prefix: str, program: str) -> None:
    """Run the prefix and the program in one namespace, but compile them apart: __future__ imports come first."""
    for source in (prefix, program):
        exec(compile(source, f"{module.__name__}.py", "exec", dont_inherit=True), module.__dict__)


def find_function(module: ModuleType, fn_name: str) -> Callable[..., Any]:
    """Return the function: of a fresh Solution object where the program has such a method, else of the module.

    Args:
        module: where the program ran.
        fn_name: "solve" or "Solution.solve"; either finds both forms.

    Raises:
        AttributeError: when the program does not define it.
    """
    owner_name, _, name = fn_name.rpartition(".")
    owner = getattr(module, owner_name or "Solution", None)
    return getattr(owner(), name) if hasattr(owner, name) else getattr(module, name)


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is no plain data")


def _finish(module: ModuleType, code: int) -> None:
    """Do what the interpreter does at its end as far as it reaches the output, in a fraction of the time."""
    try:
        threading._shutdown()  # waits for threads
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        module.__dict__.clear()  # flushes the files that only a global variable holds
    except BaseException:
        _exit(1)
    _exit(code)
