"""The arguments of calls, for cases where JSON is ambiguous."""

import re
from typing import Any

from envs.grading.answers import CodeTests
from envs.grading.exact_json import parse_json, to_json
from envs.grading.sandbox.code_values import to_tree

_MAYBE_INTEGER_KEY = re.compile(r'"-?\d+"\s*:')
_INTEGER = re.compile(r"-?\d+\Z", re.ASCII)


def readings(tests: CodeTests) -> tuple[tuple[str, ...], ...]:
    """Return the inputs as `to_tree` writes them; two versions if they can be read in two ways.

    JSON turns integer keys into strings. The judges of APPS and TACO turn them back, and other judges do not. If a key
    is the string of an integer, a program is right if it passes all tests with one of the two versions.
    """
    if tests.kind != "call" or not any("{" in text for text in tests.inputs):  # this JSON is already a tree
        return (tests.inputs,)
    with_texts = tuple(to_json(to_tree(parse_json(text), _refuse)) for text in tests.inputs)
    if not any(map(_MAYBE_INTEGER_KEY.search, tests.inputs)):
        return (with_texts,)
    with_integers = (to_json(to_tree(_with_integer_keys(parse_json(text)), _refuse)) for text in tests.inputs)
    return tuple(with_integers), with_texts


def _with_integer_keys(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_with_integer_keys, value))
    if isinstance(value, dict):
        items = {key: _with_integer_keys(item) for key, item in value.items()}
        return {int(key): item for key, item in items.items()} if all(map(_INTEGER.match, items)) else items
    return value


def _refuse(value: Any) -> Any:
    raise TypeError(f"JSON has no {type(value).__name__}")
