r"""Read the tests of programs in public data sets into `CodeTests`.

`code_tests` takes the value in a row, and recognises its format by its shape:

    {"inputs": ["3\n"], "outputs": ["6\n"]}               a program (APPS, TACO, PRIME, DeepCoder, Archer2.0)
    {"inputs": [[1, 2]], "outputs": [3], "fn_name": "f"}  a function (the same sets)
    [{"input": "3", "output": "6", "testtype": "stdin"}]  cases, "stdin" or "functional" (LiveCodeBench, DeepCoder)
    {"functional": "def check(candidate): ..."}           assertions (Archer2.0)
    {"test_code": "...", "entry_point": "Solution().f"}   assertions (Skywork-OR1)
    ["assert f(1) == 2"], "assert f(1) == 2"              assertions (MBPP, HumanEval)

All of them may be given as JSON text.
"""

import ast
import base64
import pickletools
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from envs.grading.answers import CodeTests
from envs.grading.code.names import function_under_test, functions_in, parsed
from envs.grading.exact_json import integer_text, parse_json, to_json

MAX_PRIVATE_BYTES = 256 * 2**20

_PICKLED_TEXT = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_PICKLE_FRAMING = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}
_CHECK_CALL = re.compile(r"^check\((?P<function>[^\n]+)\)\s*\Z", re.MULTILINE)
_SECONDS = re.compile(r"(\d+(?:\.\d+)?) *s(?:ec|econds?)?\b")


def code_tests(
    raw: Any,
    *,
    fn_name: str | None = None,
    starter_code: str = "",
    solution: str = "",
    prefix: str = "",
    time_limit: Any = None,
) -> CodeTests:
    """Read the tests of one row.

    Args:
        raw: tests in one of the formats above, or their JSON text.
        fn_name: the function under test, if `raw` does not name it.
        starter_code: if it has a `class Solution` that defines the function, the function is that method.
        solution: a right program. It shows which function plain assertions test.
        prefix: Python source to run before the program.
        time_limit: seconds, "2.0 seconds" or {"seconds": 2, "nanos": 0}; None means the limit of the grader.

    Raises:
        ValueError: for a row without tests, and for tests in no known format.
    """
    if isinstance(raw, str) and raw.lstrip()[:1] in ("{", "["):
        raw = parse_json(raw)
    if isinstance(raw, Mapping):
        raw = {key: value for key, value in raw.items() if value is not None}
    if not raw:
        raise ValueError("there are no tests")
    if isinstance(raw, Mapping):
        tests = _from_mapping(raw, fn_name, starter_code, solution)
    elif isinstance(raw, str):
        tests = assertions(raw, fn_name, solution)
    elif isinstance(raw, Sequence) and all(isinstance(item, str) for item in raw):
        tests = assertions("\n".join(raw), fn_name, solution)
    elif isinstance(raw, Sequence) and all(isinstance(item, Mapping) for item in raw):
        tests = _from_cases(raw, fn_name, starter_code)
    else:
        raise ValueError(f"tests of type {type(raw).__name__} are neither a mapping, a list of cases nor Python source")
    return replace(tests, prefix=prefix + tests.prefix, time_limit_s=_seconds(time_limit))


def assertions(source: str, fn_name: str | None = None, solution: str = "") -> CodeTests:
    """Read Python source with assertions about a function.

    It either defines `check(candidate)`, with or without a final line `check(<function>)` that names the
    function, or uses the function by its name, in assert statements or in tests as pytest and unittest have them.

    Args:
        source: the test program.
        fn_name: the function under test, if the source does not name it.
        solution: a right program, if the row has one; it defines the function under test.

    Raises:
        ValueError: for source that is not Python, and for a `check` without a function to check.
    """
    call = _CHECK_CALL.search(source)
    if call:
        source, fn_name = source[: call.start()], fn_name or call["function"]
    tree = parsed(source)
    defines_check = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    if defines_check and not fn_name:
        raise ValueError("the tests define check(candidate), and nothing names the function to check")
    if not defines_check and not any(map(_asserts, ast.walk(tree))):
        raise ValueError("the test program asserts nothing")
    name = _dotted(fn_name) if fn_name else function_under_test(tree, functions_in(solution))
    return CodeTests("assert", fn_name=name, check=source)


def _asserts(node: ast.AST) -> bool:
    """Whether this is an assertion, a `raise`, or a call such as `self.assertEqual` or `pytest.raises`."""
    if isinstance(node, ast.Assert | ast.Raise):
        return True
    name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
    return name.startswith("assert") or name in ("raises", "fail")


def decode_private_tests(text: str) -> str:
    """Return the JSON of LiveCodeBench's `private_test_cases`: JSON itself, or base64(zlib(pickle(JSON))).

    The pickle is not loaded: its opcodes are read, and they may describe only one text.

    Raises:
        ValueError: for other formats, and for more than 256 MiB.
    """
    if text.lstrip().startswith("["):
        return text
    try:
        decompressor = zlib.decompressobj()
        pickled = decompressor.decompress(base64.b64decode(text, validate=True), MAX_PRIVATE_BYTES)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"the private tests are neither JSON nor base64 of zlib data: {error}") from None
    if not decompressor.eof:
        raise ValueError(f"the private tests are cut short, or larger than {MAX_PRIVATE_BYTES} bytes")
    texts = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _PICKLED_TEXT:
            texts.append(argument)
        elif opcode.name not in _PICKLE_FRAMING:
            raise ValueError(f"the private tests are a pickle with the opcode {opcode.name}: only a text is read")
    if len(texts) != 1:
        raise ValueError(f"the private tests are a pickle of {len(texts)} texts, not of one")
    return texts[0]


def _from_mapping(raw: Mapping[str, Any], fn_name: str | None, starter_code: str, solution: str) -> CodeTests:
    for key, read in _MAPPINGS.items():
        if key in raw:
            return read(raw, fn_name, starter_code, solution)
    raise ValueError(f"tests with the keys {', '.join(map(str, raw))} have none of {', '.join(_MAPPINGS)}")


def _from_functional(raw: Mapping[str, Any], fn_name: str | None, starter_code: str, solution: str) -> CodeTests:
    return assertions(_text(raw, "functional"), fn_name, solution)


def _from_test_code(raw: Mapping[str, Any], fn_name: str | None, starter_code: str, solution: str) -> CodeTests:
    tests = assertions(_text(raw, "test_code"), _text(raw, "entry_point", "") or fn_name)
    prefix = _text(raw, "import_prefix", "")
    return replace(tests, prefix=prefix if not prefix or prefix.endswith("\n") else prefix + "\n")


def _from_inputs(raw: Mapping[str, Any], fn_name: str | None, starter_code: str, solution: str) -> CodeTests:
    inputs, outputs = raw["inputs"], raw.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise ValueError("inputs and outputs must both be lists, one entry per test")
    name = _text(raw, "fn_name", "") or fn_name
    if not name:
        return CodeTests("stdin", tuple(map(_stdin_text, inputs)), tuple(map(_stdin_text, outputs)))
    # APPS and TACO wrap each value of a function in a list. The return type shows whether the value itself is a list.
    if not _returns_list(name, starter_code) and all(isinstance(out, list) and len(out) == 1 for out in outputs):
        outputs = [out[0] for out in outputs]
    return _calls(_method(name, starter_code), inputs, outputs)


def _from_cases(cases: Sequence[Mapping[str, Any]], fn_name: str | None, starter_code: str) -> CodeTests:
    if not all("input" in case and "output" in case for case in cases):
        raise ValueError("a test without input or without output")
    names, kinds = set(), set()
    for case in cases:
        metadata = case.get("metadata")
        if isinstance(metadata, Mapping) and metadata.get("func_name"):
            names.add(_text(metadata, "func_name"))
        kinds.add(_text(case, "testtype" if case.get("testtype") else "type", "stdin"))
    name = next(iter(names), fn_name)
    inputs, outputs = [case["input"] for case in cases], [case["output"] for case in cases]
    if kinds <= {"stdin", "stdin_stdout"}:
        return CodeTests("stdin", tuple(map(_stdin_text, inputs)), tuple(map(_stdin_text, outputs)))
    if kinds <= {"functional", "function_call"} and len(names) < 2:
        if not name:
            raise ValueError("functional tests, and nothing names the function")
        return _calls(_method(name, starter_code), inputs, outputs)
    raise ValueError(f"tests of the kinds {', '.join(sorted(map(repr, kinds)))} cannot be run together")


# The first key in the data decides.
_MAPPINGS: dict[str, Callable[[Mapping[str, Any], str | None, str, str], CodeTests]] = {
    "functional": _from_functional,
    "test_code": _from_test_code,
    "inputs": _from_inputs,
}


def _calls(fn_name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> CodeTests:
    arguments, values = [], []
    for call, value in zip(inputs, outputs, strict=False):
        if isinstance(call, str):  # LiveCodeBench: one JSON value per line, and the result is JSON too
            lines = [line for line in call.split("\n") if line.strip()]
            call, value = list(map(parse_json, lines)), parse_json(value) if isinstance(value, str) else value
        if not isinstance(call, list):
            raise ValueError(f"the input of a call to {fn_name} is a {type(call).__name__}, not a list of arguments")
        arguments.append(to_json(call))
        values.append(to_json(value))
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs: one each per test")
    return CodeTests("call", tuple(arguments), tuple(values), fn_name=fn_name)


def _stdin_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):  # one entry per line
        return "\n".join(map(_stdin_text, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return integer_text(value) if isinstance(value, int) else str(value)
    raise ValueError(f"a program reads and writes text, and a test has a {type(value).__name__}")


def _method(fn_name: str, starter_code: str) -> str:
    fn_name = _dotted(fn_name)
    in_class = rf"class Solution\b.*def {re.escape(fn_name)}\b"
    is_method = "." not in fn_name and re.search(in_class, starter_code, re.DOTALL)
    return f"Solution.{fn_name}" if is_method else fn_name


def _dotted(expression: str) -> str:
    name = expression.strip().replace("()", "")
    if not re.fullmatch(r"\w+(\.\w+)?", name):
        raise ValueError(f"fn_name={expression!r} is neither the name of a function nor of a method")
    return name


def _returns_list(fn_name: str, starter_code: str) -> bool:
    signature = rf"def {re.escape(fn_name)}\b[^\n]*->\s*['\"]?(typing\.)?list\b"
    return re.search(signature, starter_code, re.IGNORECASE) is not None


def _text(raw: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = raw.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{key} is a {type(value).__name__}, not a text")
    return value


def _seconds(limit: Any) -> float | None:
    """Read a time limit; None for an empty value or a text without seconds: the limit of the grader counts."""
    if isinstance(limit, Mapping):
        whole, nanos = limit.get("seconds") or 0, limit.get("nanos") or 0
        if not isinstance(whole, int) or not isinstance(nanos, int) or not 0 <= whole < 1e6 or not 0 <= nanos < 1e9:
            raise ValueError("time_limit: seconds and nanos must be whole numbers, 0..999999 and 0..999999999")
        return whole + nanos / 1e9 or None
    if isinstance(limit, str):
        found = _SECONDS.search(limit)
        return float(found[1]) or None if found else None
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < 1e6):
        raise ValueError(f"time_limit={limit!r} is not a number of seconds above 0")
    return limit
