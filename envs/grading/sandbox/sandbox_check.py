"""In the sandbox: run a test program for the program under test, which is in another process.

The test program has its own names, the names that judges provide (`sandbox_given`), and the stand-in for the function
or class under test. It has other names of the program only if it imports them: `from solution import Stack`.
"""

import ast
import os
import sys
import types
import unittest
from typing import Any

import sandbox_pytest
from sandbox_given import NODES, PYTHONS_OWN
from sandbox_run import PROGRAM_MODULES, VERDICT_FD, open_standard_files
from sandbox_stand_ins import StandIns

ALL_HELD = b"all assertions held"
_MODULE = "tests"


class _Solution(types.ModuleType):
    """The module name by which the tests import the program."""

    def __init__(self, name: str, stand_ins: StandIns):
        super().__init__(name)
        self._stand_ins = stand_ins

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._stand_ins.ask("name", name)


def run_check(prefix: str, check: str, fn_name: str | None, max_bytes: int) -> None:
    """Run the test program, and write ALL_HELD to VERDICT_FD if it passes and has called the program."""
    open_standard_files()
    tree = ast.parse(check)
    names = {"__name__": _MODULE} | NODES
    stand_ins = StandIns(max_bytes, names, own_classes(tree, fn_name))
    for name in PROGRAM_MODULES:
        sys.modules[name] = _Solution(name, stand_ins)
    sys.modules["pytest"] = sandbox_pytest
    unittest.main = lambda *args, **kwargs: None  # its test cases are run below
    exec(compile(prefix, "prefix.py", "exec", dont_inherit=True), names)
    has_check = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    root = (fn_name or "").partition(".")[0]
    # In tests that get the function as an argument, the name of a builtin means the builtin.
    if root and not (has_check and root in PYTHONS_OWN):
        names[root] = stand_ins.ask("function" if root == fn_name else "name", root)
    exec(compile(tree, "check.py", "exec", dont_inherit=True), names)
    if has_check and fn_name:
        names["check"](stand_ins.ask("function", fn_name))
    sandbox_pytest.run_tests(names)
    if stand_ins.num_calls:
        os.write(VERDICT_FD, ALL_HELD)
    os._exit(0)


def own_classes(tree: ast.Module, fn_name: str | None) -> set[str]:
    """Return the names that the tests use as classes of the program.

    These are names that the tests import from the program, and the name under test. They must be written like class
    names, and the tests must use an attribute of their objects, or combine two of these objects. If the tests expect a
    value, an object of such a class is never equal to it.
    """
    candidates = {fn_name or ""} | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in PROGRAM_MODULES
        for alias in node.names
    }
    candidates = {name for name in candidates if name[:1].isupper() and "." not in name}
    return {name for name in candidates if _used_as_class(tree, name, "candidate" if name == fn_name else name)}


def _used_as_class(tree: ast.Module, name: str, alias: str) -> bool:
    made: set[str] = set()

    def is_made(node: ast.AST) -> bool:
        if isinstance(node, ast.Call):
            return isinstance(node.func, ast.Name) and node.func.id in (name, alias)
        return isinstance(node, ast.Name) and node.id in made

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and is_made(node.value):
            made |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.withitem) and is_made(node.context_expr):
            return True
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (
            is_made(node.value) or (isinstance(node.value, ast.Name) and node.value.id == name)
        ):
            return True
        if isinstance(node, ast.BinOp) and is_made(node.left) and is_made(node.right):
            return True
        if isinstance(node, ast.Compare) and is_made(node.left) and all(map(is_made, node.comparators)):
            return True
        if isinstance(node, ast.Call) and any(isinstance(part, ast.Name) and part.id == name for part in node.args):
            return True
    return False
