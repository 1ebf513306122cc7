"""The tests of programs, in the formats of public data sets."""

import base64
import json
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from envs.grading.answers import CodeTests
from envs.grading.code import formats as code_formats
from envs.grading.code.formats import assertions, code_tests, decode_private_tests
from envs.grading.exact_json import integer_text, parse_json, to_json

ROOT = Path(__file__).resolve().parents[3]
DIGITS = "7" * 5000  # int() and str() refuse more than 4300
CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"
SOLUTION = "class Solution:\n    def f(self, x: int) -> int:\n"


def stdin(inputs, outputs, **fields):
    return CodeTests("stdin", tuple(inputs), tuple(outputs), **fields)


def call(fn_name, inputs, outputs, **fields):
    return CodeTests("call", tuple(inputs), tuple(outputs), fn_name=fn_name, **fields)


def asserts(fn_name, check, **fields):
    return CodeTests("assert", fn_name=fn_name, check=check, **fields)


FORMATS = {
    "stdin": ({"inputs": ["3\n"], "outputs": ["6\n"]}, {}, stdin(["3\n"], ["6\n"])),
    "stdin as JSON": ('{"inputs": ["3"], "outputs": ["6"]}', {}, stdin(["3"], ["6"])),
    "lists of lines": ({"inputs": [["2", "1 2"]], "outputs": [["3", 4]]}, {}, stdin(["2\n1 2"], ["3\n4"])),
    "numbers": ({"inputs": [5], "outputs": [2.5]}, {}, stdin(["5"], ["2.5"])),
    "a null name": ({"inputs": ["3"], "outputs": ["6"], "fn_name": None}, {}, stdin(["3"], ["6"])),
    "calls": ({"inputs": [[1, 2]], "outputs": [3], "fn_name": "f"}, {}, call("f", ["[1, 2]"], ["3"])),
    "wrapped values": ({"inputs": [[1]], "outputs": [[6]], "fn_name": "f"}, {}, call("f", ["[1]"], ["6"])),
    "wrapped lists": (
        {"inputs": [[1], [2]], "outputs": [[[6]], [[]]], "fn_name": "f"},
        {},
        call("f", ["[1]", "[2]"], ["[6]", "[]"]),
    ),
    "lists, one longer": (
        {"inputs": [[1], [2]], "outputs": [[6], [6, 7]], "fn_name": "f"},
        {},
        call("f", ["[1]", "[2]"], ["[6]", "[6, 7]"]),
    ),
    "lists by the annotation": (
        {"inputs": [[1]], "outputs": [[6]], "fn_name": "f"},
        {"starter_code": "class Solution:\n    def f(self, x: int) -> List[int]:\n"},
        call("Solution.f", ["[1]"], ["[6]"]),
    ),
    "a method": (
        {"inputs": [[1]], "outputs": [6], "fn_name": "f"},
        {"starter_code": SOLUTION},
        call("Solution.f", ["[1]"], ["6"]),
    ),
    "another method": (
        {"inputs": [[1]], "outputs": [6], "fn_name": "g"},
        {"starter_code": SOLUTION},
        call("g", ["[1]"], ["6"]),
    ),
    "a name from outside": (
        {"inputs": [["a\n"]], "outputs": ["b"]},
        {"fn_name": "f"},
        call("f", ['["a\\n"]'], ['"b"']),
    ),
    "cases": ([{"input": "3", "output": "6", "type": "stdin_stdout"}], {}, stdin(["3"], ["6"])),
    "functional cases": (
        '[{"input": "[1, 2]\\n\\"a\\"", "output": "3", "testtype": "functional", "metadata": {"func_name": "f"}}]',
        {"starter_code": SOLUTION},
        call("Solution.f", ['[[1, 2], "a"]'], ["3"]),
    ),
    "functional": ({"functional": CHECK + "\n\ncheck(Solution().f)"}, {}, asserts("Solution.f", CHECK + "\n\n")),
    "functional, plain": ({"functional": "assert len(f(1)) == 2"}, {}, asserts("f", "assert len(f(1)) == 2")),
    "Skywork": (
        {
            "entry_point": "Solution().f",
            "import_prefix": "import math",
            "test_code": CHECK,
            "inputs": None,
            "outputs": None,
        },
        {},
        asserts("Solution.f", CHECK, prefix="import math\n"),
    ),
    "Skywork, null prefix": (
        {"entry_point": "f", "import_prefix": None, "test_code": CHECK},
        {"prefix": "import os\n"},
        asserts("f", CHECK, prefix="import os\n"),
    ),
    "assert statements": (
        ["assert f(1) == 2", "assert f(2) == 3"],
        {},
        asserts("f", "assert f(1) == 2\nassert f(2) == 3"),
    ),
    "a source": (
        "import math\nassert set(g(1)) == {math.pi}",
        {},
        asserts("g", "import math\nassert set(g(1)) == {math.pi}"),
    ),
    "seconds": (
        {"inputs": ["3"], "outputs": ["6"]},
        {"time_limit": "2.0 seconds"},
        stdin(["3"], ["6"], time_limit_s=2.0),
    ),
    "seconds and nanos": (
        {"inputs": ["3"], "outputs": ["6"]},
        {"time_limit": {"seconds": 1, "nanos": 500_000_000}},
        stdin(["3"], ["6"], time_limit_s=1.5),
    ),
    "no limit": (
        {"inputs": ["3"], "outputs": ["6"]},
        {"time_limit": {"seconds": None, "nanos": 0}},
        stdin(["3"], ["6"]),
    ),
    "another unit": ({"inputs": ["3"], "outputs": ["6"]}, {"time_limit": "None"}, stdin(["3"], ["6"])),
    "a long integer": (
        f'{{"inputs": [[{DIGITS}]], "outputs": [-{DIGITS}], "fn_name": "f"}}',
        {},
        call("f", [f"[{DIGITS}]"], [f"-{DIGITS}"]),
    ),
    "a long integer to read": (f'{{"inputs": [{DIGITS}], "outputs": ["1"]}}', {}, stdin([DIGITS], ["1"])),
    "a long integer in a line": (
        [{"input": DIGITS, "output": f'{{"a": [{DIGITS}, true, "x"]}}', "testtype": "functional"}],
        {"fn_name": "f"},
        call("f", [f"[{DIGITS}]"], [f'{{"a": [{DIGITS}, true, "x"]}}']),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_format_is_read(name):
    raw, options, expected = FORMATS[name]
    assert code_tests(raw, **options) == expected


REFUSED = {
    "nothing": (None, "there are no tests"),
    "empty text": ("", "there are no tests"),
    "empty list": ("[]", "there are no tests"),
    "no tests": ({"inputs": [], "outputs": []}, "0 inputs and 0 outputs"),
    "all null": ({"inputs": None, "outputs": None}, "there are no tests"),
    "no outputs": ({"inputs": ["1"]}, "inputs and outputs must both be lists"),
    "different lengths": ({"inputs": ["1", "2"], "outputs": ["1"]}, "2 inputs and 1 outputs"),
    "different lengths of calls": ({"inputs": [[1], [2]], "outputs": [1], "fn_name": "f"}, "2 inputs and 1 outputs"),
    "a null input": ({"inputs": [None], "outputs": ["1"]}, "a test has a NoneType"),
    "a bool output": ({"inputs": ["1"], "outputs": [True]}, "a test has a bool"),
    "no argument list": ({"inputs": [{"x": 1}], "outputs": [1], "fn_name": "f"}, "a call to f is a dict, not a list"),
    "unknown keys": ({"stdin": "1"}, "the keys stdin have none of functional, test_code, inputs"),
    "broken JSON": ('{"inputs": ["1"', "Expecting"),
    "deep JSON": ("[" * 100_000, "nested too deeply"),
    "mixed kinds": (
        [{"input": "1", "output": "1", "testtype": "stdin"}, {"input": "1", "output": "1", "testtype": "functional"}],
        "'functional', 'stdin' cannot be run together",
    ),
    "unknown kind": ([{"input": "1", "output": "1", "testtype": "gui"}], "kinds 'gui'"),
    "two functions": (
        [{"input": "1", "output": "1", "testtype": "functional", "metadata": {"func_name": name}} for name in "fg"],
        "cannot be run together",
    ),
    "nameless function": ([{"input": "1", "output": "1", "testtype": "functional"}], "nothing names the function"),
    "no JSON argument": (
        [{"input": "x y", "output": "1", "testtype": "functional", "metadata": {"func_name": "f"}}],
        "Expecting value",
    ),
    "a test without output": ([{"input": "1"}], "without input or without output"),
    "a test that is a number": ([1, 2], "tests of type list"),
    "no Python": ({"functional": "assert f(1) =="}, "the tests are not Python"),
    "asserts nothing": ({"functional": "print(f(1))"}, "asserts nothing"),
    "nobody to check": ({"functional": CHECK}, "nothing names the function to check"),
    "no text": ({"functional": 5}, "functional is a int, not a text"),
    "a strange name": ({"test_code": CHECK, "entry_point": "f(); import os"}, r"fn_name='f\(\); import os'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_test_is_refused_with_a_reason(name):
    raw, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        code_tests(raw)


@pytest.mark.parametrize("limit", [-1, 0, True, [2], {"seconds": "2"}, {"seconds": 10**400}])
def test_a_time_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="time_limit"):
        code_tests({"inputs": ["1"], "outputs": ["1"]}, time_limit=limit)


def test_a_check_that_calls_itself_is_cut_off_and_its_own_helpers_are_not_under_test():
    source = "def same(a, b):\n    return a == b\ndef check(candidate):\n    assert same(candidate(1), 1)\ncheck(f)\n"
    tests = assertions(source)
    assert tests.fn_name == "f"
    assert not tests.check.rstrip().endswith("check(f)")
    assert assertions("def same(a):\n    return a\nassert same(sorted(g(1))) == [1]").fn_name == "g"


def test_escapes_in_a_test_program_are_no_error(recwarn):
    assert assertions('assert f("\\d") == 1').fn_name == "f"
    assert not recwarn.list


# --- LiveCodeBench's private tests

CASES = json.dumps([{"input": "1\n", "output": "é\n", "testtype": "stdin"}])


def packed(value, protocol=4) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


@pytest.mark.parametrize("text", [CASES, *(packed(CASES, protocol) for protocol in range(6))])
def test_private_tests_are_decoded(text):
    assert decode_private_tests(text) == CASES


@pytest.mark.parametrize("length", [0, 255, 256, 70_000])
def test_private_tests_of_any_length_are_decoded(length):
    assert decode_private_tests(packed("é" * length)) == "é" * length


class Command:
    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return os.system, (self.text,)


def test_a_malicious_pickle_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    hostile = packed(Command(f"touch {marker}"))
    pickle.loads(zlib.decompress(base64.b64decode(hostile)))
    assert marker.exists(), "the pickle of this test is harmless"
    marker.unlink()
    with pytest.raises(ValueError, match="only a text is read"):
        decode_private_tests(hostile)
    assert not marker.exists()


HUGE_MEMO = b"\x80\x04X\x01\x00\x00\x00ar\xff\xff\xff\x7f."  # LONG_BINPUT: an unpickler would reserve 16 GiB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (packed(["a"]), "only a text is read"),
        (packed(b"bytes"), "only a text is read"),
        (packed(5), "only a text is read"),
        (packed(None), "only a text is read"),
        ("not base64!", "neither JSON nor base64"),
        (base64.b64encode(b"no zlib").decode(), "neither JSON nor base64"),
        (packed(CASES)[:40], "cut short|neither JSON"),
        (base64.b64encode(zlib.compress(b"")).decode(), "pickle"),
        (base64.b64encode(zlib.compress(b"\x80\x04.")).decode(), "a pickle of 0 texts"),
        (base64.b64encode(zlib.compress(b"\x80\x04X\xff\xff\xff\x7fa.")).decode(), "expected .* bytes"),
        ("é", "neither JSON nor base64"),
    ],
)
def test_other_private_tests_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        decode_private_tests(text)


def test_a_huge_memo_reserves_no_memory():
    assert decode_private_tests(base64.b64encode(zlib.compress(HUGE_MEMO)).decode()) == "a"


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(code_formats, "MAX_PRIVATE_BYTES", 100_000)
    with pytest.raises(ValueError, match="larger than 100000 bytes"):
        decode_private_tests(packed("a" * 1_000_000))


# --- integers of any length


@pytest.mark.parametrize("text", ["0", "-1", DIGITS, f"-{DIGITS}", "1180591620717411303424"])
def test_integers_of_any_length_go_through_json(text):
    value = parse_json(f"[{text}]")
    assert to_json(value) == f"[{text}]"
    assert integer_text(value[0]) == text


def test_the_limit_of_the_process_stays_as_it_is():
    code = f"""
import sys
from envs.grading.exact_json import parse_json, to_json
before = sys.get_int_max_str_digits()
assert to_json(parse_json("{DIGITS}")) == "{DIGITS}"
assert sys.get_int_max_str_digits() == before == 4300
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
