"""The code grader: which programs are right. What programs can do to the grader is in test_sandbox.py."""

import time
from dataclasses import replace

import pytest
from sandboxes import PATIENT, STRICT

from envs.grading.answers import CodeTests
from envs.grading.code.compare import same_text, same_value
from envs.grading.code.extract import extract_program
from envs.grading.code.formats import assertions
from envs.grading.code.grader import CodeGrader
from envs.grading.sandbox import Limits

ADD_UP = CodeTests("stdin", ("3\n1 2 3\n", "1\n-41\n"), ("6\n", "-41\n"))
SUM = "input()\nprint(sum(map(int, input().split())))"


# --- the kinds of tests

PREFIX = """from typing import *
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
def linked(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head
def unlinked(node):
    return [] if node is None else [node.val, *unlinked(node.next)]
"""
REVERSE = """class Solution:
    def solve(self, head: Optional[ListNode]) -> Optional[ListNode]:
        last = None
        while head:
            last, head.next, head = head, last, head.next
        return last
"""
TALLY = "class Tally:\n def __init__(self, n): self.n = n\n def add(self, k): self.n += k; return self.n"
REVERSED = "assert unlinked(candidate(head=linked([1, 2, 3]))) == [3, 2, 1]"

ASSERTS = [
    # check, fn_name, program, status
    ("def check(candidate):\n    assert candidate(xs=[1, 2]) == 3", "add", "def add(xs): return sum(xs)", "ok"),
    ("def check(candidate):\n    assert candidate([1, 2]) == 3", "add", "def add(xs): return 4", "wrong"),
    ("def check(c):\n    assert c(1) == (1, {2: {3}})", "f", "def f(x): return (x, {2: {3}})", "ok"),
    ("assert f([1]) == [1]\nassert f([]) == []", None, "def f(x): return x", "ok"),
    ("assert f([1]) == [1]\nassert f([]) == [0]", "f", "def f(x): return x", "wrong"),
    ("import math\nassert math.isclose(f(2.0), 2 ** 0.5)", "f", "def f(x): return x ** 0.5", "ok"),
    ("import numpy as np\nassert np.allclose(f([1]), [1])", "f", "import numpy\ndef f(x): return numpy.array(x)", "ok"),
    (f"def check(candidate):\n    {REVERSED}\ncheck(Solution().solve)", None, REVERSE, "ok"),
    (f"def check(candidate):\n    {REVERSED}", "Solution.solve", REVERSE, "ok"),
    (f"def check(candidate):\n    {REVERSED}", "Solution.solve", REVERSE.replace("head:", "head.next:"), "wrong"),
    ("c = Tally(2)\nc.add(3)\nassert c.add(4) == 9 and c.n == 9", None, TALLY, "ok"),
    ("c = Tally(2)\nassert c.add(3) == 6", None, TALLY, "wrong"),
    ("def check(candidate): pass", "f", "def f(x): return x", "wrong"),  # asks for nothing
    ("assert f(1) == 1", "f", "", "wrong"),
    ("assert f(1) == 1", "f", "def f(x", "wrong"),
    ("assert f(1) == 1", "f", "class A:\n def __eq__(s, o): return True\ndef f(x): return A()", "wrong"),
    ("assert f(1) == 1", "f", "class A(int):\n def __eq__(s, o): return True\ndef f(x): return A(5)", "wrong"),
    ("assert f(1) == 1", "f", "import os\ndef f(x): os._exit(0)", "wrong"),
    ("assert f(1) == 1", "f", "import os\nfor fd in range(99):\n try: os.write(fd, b'all assertions held')\n"
     " except OSError: pass\nos._exit(0)", "wrong"),
    ("assert f(1) == 1", "f", "import builtins\nbuiltins.AssertionError = SystemExit\ndef f(x): return 2", "wrong"),
    ("assert f(1) == 'needle'", "f", "import gc\ndef f(x):\n return next(s for s in map(str, gc.get_objects()) if 'nee'"
     " 'dle' in s)", "wrong"),
    ("assert f(1) == 1", "f", "def f(x):\n while True: pass", "timeout"),
    ("assert f(1) == 1", "f", "def f(x): return 'x' * (1 << 22)", "wrong"),
    ("assert f(1) == 1", "f", "def f(x):\n a = []; a.append(a); return a", "wrong"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ASSERTS)))
def test_assertions_judge_the_program_from_another_process(number, patient, strict):
    check, fn_name, program, status = ASSERTS[number]
    grader = strict if status == "timeout" else patient
    tests = CodeTests("assert", check=check, fn_name=fn_name) if fn_name else assertions(check)
    grade = grader.grade_program(replace(tests, prefix=PREFIX), program)
    assert grade.status == status


CALLS = [
    # inputs, outputs, fn_name, program, status
    ("[1, 2]", "3", "add", "def add(a, b): return a + b", "ok"),
    ("[1, 2]", "3", "Solution.add", "class Solution:\n def add(self, a: int, b: int): return a + b", "ok"),
    ("[1, 2]", "3", "add", "class Solution:\n def add(self, a, b): return a + b", "ok"),
    ("[[3]]", "[3, 4]", "f", "def f(x): return tuple(x + [4])", "ok"),
    ("[1]", "null", "f", "def f(x): pass", "ok"),
    ("[1]", "1", "f", "print('debug')\ndef f(x): print(x); return x\nif __name__ == '__main__': f(input())", "ok"),
    ("[2]", '{"2": 2.5}', "f", "def f(x): return {x: 2.5}", "ok"),
    (f"[{'7' * 6000}]", "7" * 6000, "f", "def f(x): return x", "ok"),
    ("[1]", "1", "f", "import numpy\ndef f(x): return numpy.int64(x)", "ok"),
    ("[1]", "1", "f", "def g(x): return x", "wrong"),
    ("[1]", "1", "f", "def f(x): raise SystemExit(0)", "wrong"),
    ("[1]", "1", "f", "import os\ndef f(x):\n os.write(3, b'1')\n return x", "wrong"),
    ("[1]", "1", "f", "def f(x): return {x}", "wrong"),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_a_function_is_judged_by_its_value(number, patient):
    given, want, fn_name, program, status = CALLS[number]
    tests = CodeTests("call", (given,), (want,), fn_name=fn_name, prefix="from typing import *")
    assert patient.grade_program(tests, program).status == status


def test_prefix_comes_before_the_program_and_leaves_future_imports_first(patient):
    tests = CodeTests("stdin", ("",), ("3",), prefix="import math\nx = 1\n")
    assert patient.grade_program(tests, "from __future__ import annotations\nprint(x + int(math.sqrt(4)))").correct


# --- comparison


@pytest.mark.parametrize(
    ("got", "want", "same"),
    [
        ("6\n", "6", True),
        ("  6  \r\n\n", "6\n", True),
        ("1  2\t3", "1 2 3\n", True),
        ("1\n2", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("6.0", "6", True),
        ("6.0000001", "6", False),
        ("1e3", "1000", True),
        ("9e999", "1" + "0" * 320 + ".5", False),
        ("1" + "0" * 320 + ".5", "1" + "0" * 320 + ".25", True),
        ("9e99999999", "1.5", False),
        ("1e9999999999999999999999", "1.5", False),
        ("9" * 400 + ".0", "9" * 400, True),
        ("9" * 400 + ".0", "9" * 399 + "8", False),
        ("-9e999", "-1" + "0" * 320 + ".0", False),
        ("06", "6", False),
        ("0.333333334", "0.33333333", True),
        ("1", "1.0", True),
        ("1e-9", "0.0", True),
        ("0.334", "0.333", False),
        ("nan", "0.5", False),
        ("inf", "1e999", False),
        ("1_0.0", "10.0", False),
        ("٣", "3", False),
        ("YES", "yes", False),
        ("é\x85", "é\x85", True),
        ("", "6", False),
        ("6 6", "6", False),
    ],
)
def test_same_text(got, want, same):
    assert same_text(got.encode(), want) == same


@pytest.mark.parametrize(
    ("got", "want", "same"),
    [
        ("1", "1", True),
        ("1.0", "1", True),
        ("1.0000001", "1", False),
        ("1", "1.0", True),
        ("0.1000000001", "0.1", True),
        ("true", "1", False),
        ("1", "true", False),
        ("true", "1.0", False),
        ("true", "true", True),
        ("null", "false", False),
        ("NaN", "NaN", False),
        ("NaN", "1.0", False),
        ("Infinity", "1.0", False),
        ('"a"', '"a"', True),
        ('"1"', "1", False),
        ('{"tuple": [1, [2]]}', "[1, [2]]", True),
        ('{"set": [1]}', "[1]", False),
        ('{"dict": [["a", 1], [2, 3]]}', '{"2": 3, "a": 1}', True),
        ('{"dict": [[true, 1]]}', '{"True": 1}', False),
        ('{"dict": []}', "{}", True),
        ('{"dict": 5}', "{}", False),
        ('{"instance": ["X", {}]}', "{}", False),
        ("[" * 100_000, "[" * 20_000 + "]" * 20_000, False),
        ("[" * 900, "[]", False),
        ("[1, 2", "[1, 2]", False),
        ("1" * 5000, "1" * 5000, True),
        ("1" * 5000, "1" * 4999 + "2", False),
        ("1" * 400, "1.5", False),
        (" " * 10_000 + "1", "1", False),
    ],
)
def test_same_value(got, want, same):
    assert same_value(got.encode(), want) == same


# --- completions


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("Say\n```\nprint(1)\n```\nDone.", "print(1)\n"),
        ("```python\nold\n```\n```python\nnew\n```", "new\n"),
        ("```python\nx\n```\nIt prints:\n```\n6\n```", "x\n"),
        ("```python\nx\n```\n```text\n6\n```", "x\n"),
        ("<think>```python\nno\n```</think>```python\nyes\n```", "yes\n"),
        ("<think>\n```python\nno\n```\n</think>\n```py\nyes\n```", "yes\n"),
        ("no tag\n```python\nno\n```\n</think>\n```python\nyes\n```", "yes\n"),
        ("<think>\n```python\nno\n```", None),
        ("</think>\n```python\na\n```\n<think>", None),
        ("```python\nprint(1)", None),
        ("```python\na\n```\n```python\ncut", "a\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("  ```python\n  x\n  ```", "x\n"),
        ("1. Do\n\n   ```python\n   if x:\n       y\n\n   ```", "if x:\n    y\n\n"),
        ("- ```python\n  x\n    y\n  ```", "x\n  y\n"),
        ("\t```python\n\tx\n\t```", "x\n"),
        ("> ```python\n> if x:\n>     y\n> ```", "if x:\n    y\n"),
        ('```python title="x.py"\nx\n```', "x\n"),
        ("```{python}\nx\n```", "x\n"),
        ("```{python echo=FALSE}\nx\n```", "x\n"),
        ("```{.python .numberLines}\nx\n```", "x\n"),
        ("```{.line-numbers}\nx\n```", "x\n"),
        ("```python {.line-numbers}\nx\n```", "x\n"),
        ("```python{1,3}\nx\n```", "x\n"),
        ("```python:main.py\nx\n```", "x\n"),
        ("```python3.11\nx\n```", "x\n"),
        ('```title="out.txt"\nx\n```', "x\n"),
        ("```{r}\nx\n```", None),
        ("```{.cpp}\nx\n```\n```pythonic\ny\n```", None),
        ("Like ```python\nx\n```", None),
        ("```cpp\nint main(){}\n```", None),
        ("", None),
        ("print(1)", None),
        ("```python\r\nprint(1)\r\n```\r\n", "print(1)\r\n"),
    ],
)
def test_extract_program(completion, program):
    assert extract_program(completion) == program


def test_extraction_takes_time_in_proportion_to_the_length():
    start = time.monotonic()
    for hostile in (
        "```\n" * 200_000,
        "`" * 1_000_000,
        " " * 1_000_000 + "```",
        ("\t \n" * 300_000),
        "<think>" * 100_000,
    ):
        extract_program(hostile)
    assert time.monotonic() - start < 30


# --- the grader as a whole


def test_grade_of_a_completion(patient):
    right = patient.grade(ADD_UP, f"<think>hm</think>\n```python\n{SUM}\n```\n")
    assert (right.reward, right.correct, right.extracted, right.status) == (1.0, True, SUM + "\n", "ok")
    none = patient.grade(ADD_UP, "I give up.")
    assert (none.reward, none.correct, none.extracted, none.status) == (0.0, False, None, "no_answer")


def test_too_long_a_program_is_not_run(patient):
    program = "#" * PATIENT.program_bytes
    assert patient.grade_program(ADD_UP, SUM + "\n" + program).status == "guarded"


def test_too_large_an_input_is_named(patient):
    with pytest.raises(ValueError, match=r"tests\.inputs\[1\] has 33554433 bytes, more than scratch_mb=32"):
        patient.grade_program(CodeTests("stdin", ("", " " * (2**25 + 1)), ("", "")), SUM)


def test_stops_at_the_first_failing_test(strict):
    tests = CodeTests("stdin", ("1", "sleep", "sleep"), ("2", "0", "0"))
    start = time.monotonic()
    assert strict.grade_program(tests, "import time\nif input() == 'sleep': time.sleep(99)\nprint(1)").status == "wrong"
    assert time.monotonic() - start < STRICT.wall_s


@pytest.mark.parametrize("limit_s", [0.3, None])
def test_time_limit_is_that_of_the_tests_or_of_the_grader(limit_s, strict):
    tests = CodeTests("stdin", ("",), ("",), time_limit_s=limit_s)
    start = time.monotonic()
    assert strict.grade_program(tests, "import time; time.sleep(9)").status == "timeout"
    assert 0 <= time.monotonic() - start - (limit_s or STRICT.wall_s) < 2


@pytest.mark.parametrize("first", ["", "signal.signal(signal.SIGXCPU, signal.SIG_IGN)"], ids=["default", "ignored"])
def test_cpu_time_is_limited_whatever_a_program_does_about_the_signal(first, backend):
    start = time.monotonic()
    with CodeGrader(replace(STRICT, wall_s=60), backends=[backend]) as grader:
        program = f"import signal\n{first}\nwhile True: pass"
        assert grader.grade_program(CodeTests("stdin", ("",), ("",)), program).status == "timeout"
    assert time.monotonic() - start < 60


def test_total_time_is_capped(backend):
    tests = CodeTests("stdin", ("",) * 50, ("",) * 50)
    with CodeGrader(Limits(wall_s=2, total_s=0.8), backends=[backend]) as grader:
        grader.grade_program(CodeTests("stdin", ("",), ("",)), "")
        start = time.monotonic()
        assert grader.grade_program(tests, "import time; time.sleep(0.2)").status == "timeout"
        assert time.monotonic() - start < 8  # all of them take ten
