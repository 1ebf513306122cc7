"""In the sandbox: the part of pytest that tests of one function use. Tests import it as `pytest`.

The real pytest needs more files and time than a test, and prints failures instead of raising them.
"""

import inspect
import itertools
import math
import re
import unittest
import warnings as _warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any


class ExceptionInfo:
    """The `info` of `with raises(...) as info`; `info.value` is set after the block."""

    value: BaseException

    @property
    def type(self) -> type[BaseException]:
        """The class of the exception."""
        return type(self.value)

    def match(self, pattern: str) -> bool:
        """Assert that the message matches this pattern."""
        assert re.search(pattern, str(self.value)), f"{pattern!r} is not in {str(self.value)!r}"
        return True


class _Raises:
    def __init__(self, expected: Any, match: str | None):
        self._expected, self._match, self._info = expected, match, ExceptionInfo()

    def __enter__(self) -> ExceptionInfo:
        return self._info

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        assert error is not None, "nothing was raised"
        if not isinstance(error, self._expected):
            return False
        self._info.value = error
        return self._match is None or self._info.match(self._match)


def raises(expected: Any, *call: Any, match: str | None = None, **kwargs: Any) -> Any:
    """Expect an exception from a block or a call."""
    context = _Raises(expected, match)
    if not call:
        return context
    with context as info:
        call[0](*call[1:], **kwargs)
    return info


class approx:
    """Equal to numbers that are close, also in lists and dicts."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False):
        self._expected, self._rel, self._abs, self._nan_ok = expected, rel, abs, nan_ok

    def __eq__(self, actual: Any) -> bool:
        return self._close(actual, self._expected)

    def _close(self, actual: Any, expected: Any) -> bool:
        if hasattr(expected, "tolist"):
            expected = expected.tolist()
        if hasattr(actual, "tolist") and type(actual).__module__ == "numpy":
            actual = actual.tolist()
        if isinstance(expected, dict):
            return (
                isinstance(actual, dict)
                and actual.keys() == expected.keys()
                and all(self._close(actual[key], expected[key]) for key in expected)
            )
        if isinstance(expected, list | tuple):
            return (
                isinstance(actual, list | tuple)
                and len(actual) == len(expected)
                and all(map(self._close, actual, expected))
            )
        if actual == expected:
            return True
        numbers = (int, float, complex)
        if isinstance(actual, bool) or not isinstance(actual, numbers) or not isinstance(expected, numbers):
            try:  # Decimal and Fraction
                return math.isclose(actual, expected, rel_tol=self._rel or 1e-6, abs_tol=self._abs or 1e-12)
            except TypeError:
                return False
        if actual != actual and expected != expected:
            return self._nan_ok
        absolute = 1e-12 if self._abs is None else self._abs
        relative = (1e-6 if self._abs is None else 0.0) if self._rel is None else self._rel
        difference = abs(actual - expected)
        return difference < math.inf and difference <= max(absolute, relative * abs(expected))


def fail(reason: str = "", pytrace: bool = True) -> None:
    """Fail."""
    raise AssertionError(reason)


class _Skipped(Exception):
    pass


def skip(reason: str = "", **kwargs: Any) -> None:
    """End this test; it neither passes nor fails."""
    raise _Skipped(reason)


def importorskip(name: str, *args: Any, **kwargs: Any) -> Any:
    """Import a module."""
    return __import__(name)


def fixture(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Mark a function that makes an argument of tests."""
    if function is None:
        return lambda function: fixture(function, **options)
    function._fixture = options
    return function


def param(*values: Any, **options: Any) -> Any:
    """One set of arguments of `parametrize`."""
    return _Param(values)


class _Param(tuple):
    pass


def warns(*args: Any, **kwargs: Any) -> Any:
    """Catch warnings of the tests; those of the program stay in its process."""
    return _warnings.catch_warnings(record=True)


class _Mark:
    """`pytest.mark`: only `parametrize` has an effect; every other mark is ignored."""

    def __getattr__(self, name: str) -> Any:
        def mark(*args: Any, **kwargs: Any) -> Any:
            only_function = len(args) == 1 and not kwargs and callable(args[0])
            return args[0] if only_function else lambda function: function

        return mark

    @staticmethod
    def parametrize(names: Any, values: Any, **options: Any) -> Callable[..., Any]:
        """Run a test once for each of the values."""
        split = [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)

        def mark(test: Any) -> Any:
            sets = []
            for value in values:
                several = isinstance(value, _Param) or len(split) > 1
                sets.append(dict(zip(split, value if several else [value], strict=True)))
            test._parameters = [*getattr(test, "_parameters", []), sets]
            return test

        return mark


mark = _Mark()


def run_tests(names: dict[str, Any]) -> None:
    """Run the functions, methods and cases of unittest that pytest would collect."""
    fixtures = {name: value for name, value in names.items() if hasattr(value, "_fixture")}
    for name, value in list(names.items()):
        if getattr(value, "__module__", None) != names["__name__"]:
            continue
        if inspect.isfunction(value) and name.startswith("test"):
            _run_function(value, fixtures)
        elif isinstance(value, type) and issubclass(value, unittest.TestCase):
            result = unittest.defaultTestLoader.loadTestsFromTestCase(value).run(unittest.TestResult())
            assert result.wasSuccessful(), (result.errors, result.failures)
        elif isinstance(value, type) and name.startswith("Test"):
            _run_class(value, fixtures)


def _run_class(kind: type, fixtures: dict[str, Any]) -> None:
    class_parameters = getattr(kind, "_parameters", [])
    for name, member in vars(kind).items():
        if not name.startswith("test") or not callable(getattr(kind, name)):
            continue
        instance = kind()
        own = {key: getattr(instance, key) for key in dir(kind) if hasattr(getattr(kind, key), "_fixture")}
        for before in ("setup_class", "setup_method", "setUp"):
            _call_hook(getattr(instance, before, None), member)
        _run_function(getattr(instance, name), fixtures | own, class_parameters)
        _call_hook(getattr(instance, "teardown_method", None), member)


def _call_hook(hook: Any, member: Any) -> None:
    if hook is not None:
        hook(*[member][: len(inspect.signature(hook).parameters)])


def _run_function(test: Any, fixtures: dict[str, Any], class_parameters: list[Any] = ()) -> None:
    for chosen in itertools.product(*getattr(test, "_parameters", []), *class_parameters):
        arguments = {name: value for values in chosen for name, value in values.items()}
        with _fixtured(fixtures, arguments) as make:
            try:
                test(**{name: make(name) for name in inspect.signature(test).parameters})
            except (_Skipped, unittest.SkipTest):
                continue


@contextmanager
def _fixtured(fixtures: dict[str, Any], arguments: dict[str, Any]) -> Iterator[Callable[[str], Any]]:
    """Make fixtures when they are needed, once each, and finish those that are generators in reverse order."""
    made, generators = dict(arguments), []

    def make(name: str) -> Any:
        if name not in made:
            source = fixtures[name]
            request = SimpleNamespace(param=None)
            wanted = {key: request if key == "request" else make(key) for key in inspect.signature(source).parameters}
            made[name] = source(**wanted)
            if inspect.isgenerator(made[name]):
                generators.append(made[name])
                made[name] = next(made[name])
        return made[name]

    for name, source in fixtures.items():
        if source._fixture.get("autouse"):
            make(name)
    yield make
    for generator in reversed(generators):
        next(generator, None)
