"""Registers algorithms with Ray Tune, and repairs its CSV logger, without importing Ray, torch or the algorithms.

Tune's registry stores pickled objects. The objects registered here are pickled as a module and a name in it; the module
is imported when a trial uses the algorithm. Importing Tune's registry takes three CPU seconds. A program without Tune
does not need that import, so that the registration waits until other code has imported the registry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from aspo_rllib.internals import keep_csv_columns, register_pickled

REGISTRY = "ray.tune.registry"
CSV_LOGGER = "ray.tune.logger.csv"


def register_with_tune(modules: Mapping[str, str]) -> None:
    """Register classes with Ray Tune, now or when Tune is imported.

    modules: the name of each class (the same in Tune and in its module) -> the name of its module.
    """

    def register(registry: Any) -> None:
        for name, module in modules.items():
            register_pickled(registry, name, _ClassReference(module, name))

    _after_import(REGISTRY, register)


def repair_progress_csv() -> None:
    """Repair Tune's CSV logger, now or when Tune is imported: see `internals.keep_csv_columns`."""
    _after_import(CSV_LOGGER, keep_csv_columns)


def _after_import(name: str, func: Callable[[ModuleType], None]) -> None:
    """Call `func(module)` now, or right after other code has imported the module."""
    if name in sys.modules:
        func(sys.modules[name])
    else:
        sys.meta_path.insert(0, _AfterImport(name, func))


class _ClassReference:
    """An object that becomes a class when it is unpickled."""

    def __init__(self, module: str, name: str):
        self._module = module
        self._name = name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return _load, (self._module, self._name)


def _load(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


class _AfterImport(MetaPathFinder):
    """Calls `func(module)` once, right after a module has been imported for the first time."""

    def __init__(self, name: str, func: Callable[[ModuleType], None]):
        self._name = name
        self._func = func

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            self._func(module)

        spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec
