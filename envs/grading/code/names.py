"""Find the owner of each name in a test program: the tests, the judge, or the program under test."""

import ast
import builtins
import importlib
import importlib.util
import re
import symtable
import sys
import warnings
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cache

from envs.grading.answers import CodeTests
from envs.grading.sandbox.sandbox_given import GIVEN_MODULES, given_names

PROGRAM_MODULES = ("solution", "main", "program", "submission", "answer", "candidate", "your_module", "your_solution")
_GIVEN_BY_THE_SANDBOX = {"pytest"}
_CLASS = re.compile(r"^[ \t]*class[ \t]+(\w+)", re.MULTILINE)


def parsed(source: str) -> ast.Module:
    """Return the tree of a test program.

    Raises:
        ValueError: for a text that is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a string
        try:
            return ast.parse(source)
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"the tests are not Python: {error}") from None


def classes_in(source: str) -> set[str]:
    """Return the classes that a text defines; it may be Python, or a problem statement that contains Python."""
    return set(_CLASS.findall(source))


def functions_in(source: str) -> list[str]:
    """Return the functions and classes at the top level of a program; none if the text is not Python."""
    try:
        return [node.name for node in parsed(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    except ValueError:
        return []


def function_under_test(tree: ast.Module, reference: Collection[str] = ()) -> str | None:
    """Return the function under test.

    It is a function that the tests import from the program, or that the row's own program defines, or the first one
    that an assertion calls and that neither Python nor the test program defines. Names of the judge are tried last: a
    problem may ask for its own `gcd`, but `is_same_list(f(x), y)` tests `f`.
    """
    imported = imported_from_program(tree)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    called = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    for names in (imported, reference):
        found = next((name for name in called if name in names and name not in defined), None)
        if found:
            return found
    if imported:
        return imported[0]
    others = [name for name in called if name not in defined and not hasattr(builtins, name)]
    judges = _given() | _star_names(tree)
    return next((name for name in others if name not in judges), others[0] if others else None)


def imported_from_program(tree: ast.Module) -> list[str]:
    """Return the names that the tests import from the program, or use as attributes of its module."""
    modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in PROGRAM_MODULES
    }
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in PROGRAM_MODULES:
            names += [alias.asname or alias.name for alias in node.names if alias.name != "*"]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            names.append(node.attr)
    return names


def with_own_classes(tests: CodeTests, own: Collection[str]) -> CodeTests:
    """Let the tests import the classes that belong to the program, and search for names without a definition.

    An undefined name must not be looked up in the program: the program would get the expected value and decide itself.

    Args:
        tests: assertions.
        own: classes that the row shows, defines in its own program, or has in its starter code.

    Raises:
        ValueError: for tests that need a name or a module that does not exist.
    """
    tree = parsed(tests.check)
    _check_modules(tree)
    undefined = _undefined(tests)
    imported = sorted(undefined & set(own))
    strange = sorted(undefined - set(own))
    if strange:
        raise ValueError(f"the tests use {', '.join(strange)}, which neither they nor their judge define")
    if not imported:
        return tests
    line = f"from {PROGRAM_MODULES[0]} import {', '.join(imported)}\n"
    future = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    lines = tests.check.splitlines(keepends=True)
    position = future[-1].end_lineno or 0 if future else 0
    return replace(tests, check="".join([*lines[:position], line, *lines[position:]]))


def _undefined(tests: CodeTests) -> set[str]:
    known = {"__file__", "__name__", *dir(builtins), *_given(), (tests.fn_name or "").partition(".")[0]}
    bound, used = set(), set()
    for source in (tests.prefix, tests.check):
        tree = parsed(source)
        if not _star_modules(tree) <= {*GIVEN_MODULES, *PROGRAM_MODULES}:
            return set()  # this may define any name
        bound |= _star_names(tree)
        for table in _tables(_symbols(source)):
            for symbol in table.get_symbols():
                is_top = table.get_type() == "module"
                if (is_top or symbol.is_declared_global()) and (symbol.is_assigned() or symbol.is_imported()):
                    bound.add(symbol.get_name())
                if symbol.is_referenced() and (is_top or symbol.is_global()) and source is tests.check:
                    used.add(symbol.get_name())
    return used - bound - known


def _star_modules(tree: ast.Module) -> set[str]:
    """Return the modules from which a test program imports everything."""
    return {
        node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    }


def _star_names(tree: ast.Module) -> set[str]:
    """Return the names of these modules, for the modules that judges provide."""
    modules = _star_modules(tree) & set(GIVEN_MODULES)
    return set().union(*(vars(importlib.import_module(module)) for module in modules))


def _symbols(source: str) -> symtable.SymbolTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return symtable.symtable(source, "tests", "exec")


def _tables(table: symtable.SymbolTable) -> Iterable[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _check_modules(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in modules:
            if not _is_known(name.partition(".")[0]):
                raise ValueError(f"the tests import {name}, which is not installed")


@cache
def _is_known(module: str) -> bool:
    if module in sys.stdlib_module_names or module in PROGRAM_MODULES or module in _GIVEN_BY_THE_SANDBOX:
        return True
    return bool(module) and importlib.util.find_spec(module) is not None


@cache
def _given() -> frozenset[str]:
    return frozenset(given_names())
