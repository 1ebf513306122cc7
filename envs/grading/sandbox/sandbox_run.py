"""In the sandbox: run a program, as a script or for one call of a function. The process then exits."""

import atexit
import os
import sys
import threading
from collections.abc import Callable, Mapping
from json import dumps, loads
from types import ModuleType
from typing import Any

from code_values import from_tree, refuse, to_tree

RESULT_FD = 3
IN_FD, OUT_FD, VERDICT_FD = RESULT_FD, RESULT_FD + 1, RESULT_FD + 2
PROGRAM_FILE = "program.py"
SCRIPT = "__main__"
PROGRAM_MODULES = ("solution", "main", "program", "submission", "answer", "candidate", "your_module", "your_solution")
LIBRARY = "solution"  # code under `if __name__ == "__main__"` must not run for a call

_BYTE_ORDER_MARK = "\ufeff"
_exit, _write = os._exit, os.write  # taken now, because a program may replace these names


def run_script(prefix: str, program: str) -> None:
    """Run the program like `python program.py`, with file 0 as input and file 1 as output."""
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
        fn_name: the function, as in `find_function`.
        arguments: a list, as `to_tree` and JSON write it.
    """
    open_standard_files()
    module = new_module(LIBRARY)
    try:
        execute(module, prefix, "")
        before = dict(vars(module))
        execute(module, "", program)
        value = find_function(defined_names(module, before), fn_name)(*from_tree(loads(arguments), refuse))
        unsent = dumps(to_tree(value, _refuse)).encode()
        while unsent:
            unsent = unsent[_write(RESULT_FD, unsent) :]
    except BaseException:
        _exit(1)
    _exit(0)


def open_standard_files() -> None:
    """Make new sys.stdin and sys.stdout, because those of the parent belong to other files."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


def new_module(name: str) -> ModuleType:
    """Make a module that can be imported."""
    module = sys.modules[name] = ModuleType(name)
    vars(module)["__file__"] = os.path.abspath(PROGRAM_FILE)
    return module


def execute(module: ModuleType, prefix: str, program: str) -> None:
    """Run the prefix and the program in one namespace. Each is compiled alone, as __future__ imports come first."""
    for source in (prefix, program.removeprefix(_BYTE_ORDER_MARK)):
        exec(compile(source, PROGRAM_FILE, "exec", dont_inherit=True), module.__dict__)


def defined_names(module: ModuleType, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names that the program has defined, without those of the prefix (`before`)."""
    return {name: value for name, value in vars(module).items() if name not in before or before[name] is not value}


def find_function(names: Mapping[str, Any], fn_name: str) -> Callable[..., Any]:
    """Return the function: the method of a new Solution object if the program has one, else that of the module.

    Args:
        names: the names that the program has defined.
        fn_name: "solve" or "Solution.solve"; each of them finds both forms.

    Raises:
        KeyError: if the program does not define it.
    """
    owner_name, _, name = fn_name.rpartition(".")
    owner = names.get(owner_name or "Solution")
    return getattr(owner(), name) if hasattr(owner, name) else names[name]


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is not plain data")


def _finish(module: ModuleType, code: int) -> None:
    """Do those steps of the interpreter's shutdown that affect the output; a full shutdown takes much longer."""
    try:
        threading._shutdown()  # waits for threads
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        module.__dict__.clear()  # flushes the files that are only referenced by a global variable
    except BaseException:
        _exit(1)
    _exit(code)
