"""Rows of public data sets become tasks, and rows that are none are refused with a reason."""

import base64
import copy
import json
import math
import pickle
import zlib
from pathlib import Path

import pytest

from envs.grading.answers import CodeTests, MathAnswer
from envs.grading.code.grader import CodeGrader
from envs.grading.math.grader import MathGrader
from envs.layouts import FIELDS, to_task

DATA = Path(__file__).parents[1] / "data"
LAYOUTS = [json.loads(line) for line in (DATA / "dataset_layouts.jsonl").read_text().splitlines()]
NAN, INFINITY = math.nan, math.inf


def row_of(layout) -> dict:
    """The row, with what LiveCodeBench keeps in the place that the file only describes."""
    row = copy.deepcopy(layout["row"])
    if "private_test_cases" in row:
        cases = json.dumps([{"input": "4\n1 1 1 1\n", "output": "4\n", "testtype": "stdin"}])
        row["private_test_cases"] = base64.b64encode(zlib.compress(pickle.dumps(cases))).decode()
    return row


def verl(truth, **columns):
    return {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": truth}} | columns


def golds(row, **kwargs):
    return to_task(row, **kwargs).answer.golds


# --- the public data sets


@pytest.mark.parametrize("layout", LAYOUTS, ids=[layout["dataset"] for layout in LAYOUTS])
def test_layout_of_a_public_data_set(layout):
    normalized = layout["normalized"]
    task = to_task(row_of(layout), default_source="file")
    assert task.prompt
    assert task.data_source == layout["row"].get("data_source", "file")
    if normalized["kind"] == "math":
        gold = normalized["gold"]
        assert task.answer == MathAnswer(tuple(gold) if isinstance(gold, list) else (gold,))
        return
    assert task.answer.kind == normalized["kind"]
    assert task.answer.fn_name == normalized.get("fn", normalized.get("entry", task.answer.fn_name))
    if normalized["kind"] == "stdin" and "tests" in normalized:
        assert len(task.answer.inputs) == normalized["tests"]


RIGHT_PROGRAMS = {
    "stdin": "input()\nprint(sum(map(int, input().split())))",
    "CodeContests": "print(input())",
    "functions": "def solve(a, b=None):\n    return sum(a) if b is None else a + b\ndef add(xs):\n    return sum(xs)",
    "methods": "class Solution:\n    def solve(self, xs):\n        return sum(xs)",
}


def test_every_layout_can_be_solved_and_failed():
    with CodeGrader() as code_grader, MathGrader() as math_grader:
        for layout in LAYOUTS:
            task = to_task(row_of(layout))
            if isinstance(task.answer, MathAnswer):
                assert math_grader.grade(task.answer, f"\\boxed{{{task.answer.golds[0]}}}").status == "ok"
                assert math_grader.grade(task.answer, "\\boxed{12345}").status == "wrong"
                continue
            is_method = (task.answer.fn_name or "").startswith("Solution.")
            kind = "methods" if is_method else "functions" if task.answer.fn_name else "stdin"
            program = RIGHT_PROGRAMS.get(layout["dataset"], RIGHT_PROGRAMS[kind])
            assert code_grader.grade_program(task.answer, program).status == "ok", layout["dataset"]
            assert code_grader.grade_program(task.answer, "print(12345)").status == "wrong", layout["dataset"]


def by_name(name):
    return next(row_of(layout) for layout in LAYOUTS if layout["dataset"] == name)


def test_livecodebench_has_public_and_private_tests():
    answer = to_task(by_name("LiveCodeBench v5/v6")).answer
    assert answer.inputs == ("3\n1 2 3\n", "4\n1 1 1 1\n")
    row = by_name("LiveCodeBench v5/v6") | {
        "starter_code": "class Solution:\n    def add(self, x: int, s: str) -> int:\n        ",
        "metadata": '{"func_name": "add"}',
        "public_test_cases": '[{"input": "1\\n\\"a\\"", "output": "2", "testtype": "functional"}]',
        "private_test_cases": "",
    }
    task = to_task(row)
    assert task.answer == CodeTests("call", ('[1, "a"]',), ("2",), fn_name="Solution.add")
    assert row["starter_code"].rstrip() in task.prompt


def test_humaneval_keeps_what_comes_before_the_function():
    head = (
        'from typing import List\n\n\ndef poly(xs):\n    return 0\n\n\ndef zero(xs: List[int]):\n    """Find it."""\n'
    )
    task = to_task(
        {"prompt": head, "entry_point": "zero", "test": "def check(candidate):\n    assert poly(1) == candidate(1)"}
    )
    assert task.prompt == head
    assert task.answer.prefix == head[: head.index("def zero")]
    assert task.answer.fn_name == "zero"


def test_mbpp_shows_one_test_and_uses_the_longer_program():
    row = by_name("MBPP+") | {
        "test_imports": ["import math"],
        "test_list": ["assert add([1]) == 1", "assert add([2]) == 2"],
    }
    task = to_task(row)
    assert task.prompt.endswith("assert add([1]) == 1")
    assert task.answer.check == "assert add([1]) == 1\nassert add([2]) == 2"
    assert task.answer.prefix == "import math\n"
    longer = "for x, y in [([1], 1), ([2], 2)]:\n    assert add(x) == y"
    assert to_task(row | {"test": longer}).answer.check == longer
    original = {"text": "Add.", "code": "", "test_list": row["test_list"], "test_setup_code": "import os"}
    answer = to_task(original).answer
    assert answer.prefix == "" and answer.check.startswith("import os\nassert add([1])")


LEETCODE = {
    "task_id": "two-sum", "problem_description": "Add up.", "entry_point": "Solution().total",
    "starter_code": "class Solution:\n    def total(self, xs: List[int]) -> int:\n        ",
    "prompt": "import math\nfrom typing import *\nfrom functools import *\n", "completion": "", "query": "",
    "test": "def check(candidate):\n    assert candidate(xs = [1, 2]) == 3\n    assert candidate(xs = []) == 0\n",
}  # fmt: skip
KODCODE = {
    "question": "Write `add`.", "solution": "def add(a, b):\n    return a + b\n", "style": "instruct",
    "test": "from solution import add\n\ndef test_add():\n    assert add(1, 2) == 3\n",
    "test_info": [{"function_name": "add", "function_declaration": "def add(a, b):"}],
}  # fmt: skip


def test_leetcode_dataset_asks_the_description_and_its_prompt_runs_before_the_program():
    task = to_task(LEETCODE)
    assert task.prompt.startswith("Add up.") and "def total(self" in task.prompt and "import math" not in task.prompt
    assert (task.answer.prefix, task.answer.fn_name) == (LEETCODE["prompt"] + "\n", "Solution.total")


def test_kodcode_tests_import_the_function():
    task = to_task(KODCODE)
    assert task.prompt.startswith("Write `add`.") and "def add(a, b):" in task.prompt
    assert task.answer.fn_name == "add" and "from solution import add" in task.answer.check


def functional(test, solution="", problem="Do f.", **columns):
    return {"problem": problem, "solutions": solution, "tests": {"functional": test}} | columns


NODE = "class Node:\n    def __init__(self, v): self.v = v\ndef f(n): return n.v\n"


@pytest.mark.parametrize(
    ("row", "imported"),
    [
        (functional("assert f(Node(1)) == 1", NODE), "Node"),
        (functional("assert f(Node(1)) == 1", problem=f"Finish:\n```python\n{NODE}```"), "Node"),
        (functional("assert f(Node(1)) == 1", starter_code="class Node:\n    pass"), "Node"),
        ({"text": "q", "code": NODE, "test_setup_code": "n = Node(1)", "test_list": ["assert f(n) == 1"]}, "Node"),
        (functional("from __future__ import annotations\nassert f(Node(1)) == 1", NODE), "Node"),
    ],
)
def test_classes_that_the_row_calls_the_programs_are_imported_from_it(row, imported):
    check = to_task(row).answer.check
    assert f"from solution import {imported}\n" in check
    compile(check, "check", "exec")


@pytest.mark.parametrize(
    ("test", "names"),
    [
        ("assert same(f(1), 2)", "same"),
        ("def check(c):\n    assert equal(c(1), make([2]))\ncheck(f)", "equal, make"),
        ("x = [build(i) for i in range(2)]\nassert f(x) == 3", "build"),
        ("def helper(a):\n    return other(a)\nassert helper(f(1)) == 1", "other"),
        ("assert f(Node(1)) == 1", "Node"),
    ],
)
def test_a_row_whose_tests_use_names_from_nowhere_is_refused(test, names):
    with pytest.raises(ValueError, match=rf"tests=.*the tests use {names}, which neither they nor their judge define"):
        to_task({"problem": "q", "tests": {"functional": test}, "solutions": "def f(x): pass"})


@pytest.mark.parametrize(
    "test",
    [
        "assert is_same_list(f(list_node([1])), list_node([])) and f(inf) == math.inf",
        "from math import *\nassert isclose(f(pi), tau)",
        "global_one = 1\ndef g():\n    global two\n    two = 2\ng()\nassert f(global_one) == two",
        "assert [f(i) for i in range(2)] == sorted([1, 2], key=lambda v: v)",
        "import pytest\nfrom solution import f\ndef test_f():\n    with pytest.raises(KeyError):\n        f(1)",
        "import solution\nassert solution.f(1) == 2",
        "class A:\n    size = 3\n    def get(self):\n        return self.size\nassert f(A()) == 1",
    ],
)
def test_names_that_are_somebodys_are_no_reason_to_refuse(test):
    answer = to_task(functional(test)).answer
    assert (answer.kind, answer.fn_name) == ("assert", "f")


def test_tests_that_import_what_is_not_installed_are_refused():
    with pytest.raises(ValueError, match=r"the tests import nopackage\.sub, which is not installed"):
        to_task(functional("import nopackage.sub\nassert f(1) == 1"))


def test_new_layouts_and_setup_code_can_be_solved_and_failed():
    setup = {"text": "q", "code": NODE, "test_setup_code": "n = Node(1)\nn.v = 4", "test_list": ["assert f(n) == 4"]}
    builtin = {"text": "q", "code": "def max(a): return 7", "test_list": ["assert max(3) == 7"]}
    tree = functional("def check(c):\n    assert c(root = tree_node([1, None, 7])) == 7\ncheck(Solution().f)")
    rows = [
        (LEETCODE, "class Solution:\n    def total(self, xs: List[int]) -> int:\n        return reduce(add, xs, 0)"),
        (KODCODE, KODCODE["solution"]),
        (setup, NODE),
        (builtin, "def max(a): return 7"),
        (tree, "class Solution:\n    def f(self, root: Optional[TreeNode]): return root.right.val"),
    ]
    with CodeGrader() as grader:
        for row, program in rows:
            answer = to_task(row).answer
            assert grader.grade_program(answer, program).status == "ok", row
            assert grader.grade_program(answer, "x = 1").status == "wrong", row


def test_code_contests_joins_its_tests_and_reads_its_limit():
    task = to_task(by_name("CodeContests"))
    assert task.answer == CodeTests("stdin", ("1\n", "2\n"), ("1\n", "2\n"), time_limit_s=2.0)
    assert to_task(by_name("CodeContests") | {"time_limit": None, "private_tests": None}).answer.time_limit_s is None
    with pytest.raises(ValueError, match=r"input_file='input\.txt': .* standard input"):
        to_task(by_name("CodeContests") | {"input_file": "input.txt"})


def test_olympiadbench_reads_several_answers_tolerance_unit_and_context():
    row = by_name("OlympiadBench") | {
        "is_multiple_answer": True,
        "error": "1e-1",
        "unit": "m",
        "context": "A ball falls.",
    }
    task = to_task(row | {"question": "How far?", "final_answer": ["$-1,(2,3),\\frac{1}{2}$"]})
    assert task.answer == MathAnswer(("-1", "(2,3)", "\\frac{1}{2}"), require_all=True, tolerance=0.1)
    assert task.prompt == "A ball falls.\n\nHow far?\n\nGive the answer in the unit m."
    assert to_task(row | {"final_answer": ["1", "2"]}).answer.golds == ("1", "2")
    assert to_task(row | {"is_multiple_answer": False, "final_answer": ["1,2"]}).answer.golds == ("1,2",)
    with pytest.raises(ValueError, match="error='small': expected a number"):
        to_task(row | {"error": "small"})


def test_a_function_without_a_name_in_the_prompt_gets_one():
    assert to_task(by_name("TACO")).prompt.endswith("Write it as the function `solve`.")
    assert to_task(by_name("Skywork-OR1 code")).prompt.endswith("the method `solve` of a class `Solution`.")
    named = by_name("TACO") | {"question": "Write solve(a, b)."}
    assert to_task(named).prompt == "Write solve(a, b)."
    started = by_name("TACO") | {"starter_code": "def solve(a, b):\n    "}
    assert to_task(started).prompt.endswith("```python\ndef solve(a, b):\n```")


def test_a_row_that_calls_itself_code_holds_tests():
    with pytest.raises(ValueError, match=r"reward_model\.ground_truth='42': expected tests of a program"):
        to_task(verl("42", ability="code"))


# --- golds

GOLDS = [
    (verl("2"), ("2",)),
    (verl(27.0), ("27",)),
    (verl(0.5), ("0.5",)),
    (verl(1e-7), ("0.0000001",)),
    (verl(1e22), ("10000000000000000000000",)),
    (verl(-0.0), ("0",)),
    (verl(2**70), ("1180591620717411303424",)),
    (verl(int("7" * 4000) * 10**1000), ("7" * 4000 + "0" * 1000,)),
    (verl(["1", 2, 3.0]), ("1", "2", "3")),
    (verl('["1", "\\\\frac{1}{2}"]'), ("1", "\\frac{1}{2}")),
    (verl("[1, 2]"), ("[1, 2]",)),
    (verl("[0,1)"), ("[0,1)",)),
    (verl("{1,2}"), ("{1,2}",)),
    (verl("\\{1,2\\}"), ("\\{1,2\\}",)),
    (verl("9.6\n"), ("9.6",)),
    (verl("$2$"), ("2",)),
    (verl("$$2$$"), ("2",)),
    (verl("\\(2\\)"), ("2",)),
    (verl("\\[ 2 \\]"), ("2",)),
    (verl("\\boxed{2}"), ("2",)),
    (verl("$\\boxed{\\frac{1}{2}}$"), ("\\frac{1}{2}",)),
    (verl("\\boxed{$x$}"), ("x",)),
    (verl("$1$ or $2$"), ("$1$ or $2$",)),
    (verl("\\$5"), ("\\$5",)),
    (verl("033"), ("033",)),
    ({"question": "q", "answer": "a 1\n#### 2 then\n#### 1,234,567"}, ("1234567",)),
    ({"question": "q", "answer": "#### -1,000.50"}, ("-1000.50",)),
    ({"question": "q", "answer": "1,234"}, ("1,234",)),
    ({"question": "q", "answer": "####\n5"}, ("5",)),
    ({"problem": "q", "solution": "\\boxed{1} so \\boxed{\\sqrt{2}}."}, ("\\sqrt{2}",)),
    ({"problem": "q", "solution": "none", "answer": "3"}, ("3",)),
    ({"prompt": "q", "solution": "First,\n\nso \\boxed{7}."}, ("7",)),
    ({"prompt": "q", "solution": "7"}, ("7",)),
    ({"prompt": "q", "ground_truth": "7"}, ("7",)),
    ({"problem": "q", "expected_answer": "7"}, ("7",)),
    ({"Question": "q", "Answer": 7}, ("7",)),
    ({"messages": [{"role": "user", "content": "q"}], "answer": "7"}, ("7",)),
]


@pytest.mark.parametrize(("row", "expected"), GOLDS, ids=range(len(GOLDS)))
def test_gold_is_read(row, expected):
    task = to_task(row)
    assert (task.prompt, task.answer) == ("q", MathAnswer(expected))


@pytest.mark.parametrize("truth", [{"inputs": ["1"], "outputs": ["2"]}, '{"inputs": ["1"], "outputs": ["2"]}'])
def test_a_gold_that_is_a_mapping_is_tests(truth):
    assert to_task(verl(truth)).answer == CodeTests("stdin", ("1",), ("2",))
    assert to_task({"question": "q", "answer": truth}).answer.kind == "stdin"


# --- prompts


def chat(*messages, **columns):
    return {"prompt": [{"role": role, "content": content} for role, content in messages], "answer": "1"} | columns


def test_what_comes_before_the_last_user_message_is_history():
    task = to_task(chat(("system", "s"), ("user", "1+1?"), ("assistant", "2"), ("user", "q")))
    assert task.prompt == "q"
    assert task.history == (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
    )


def test_parts_of_a_message_are_joined_and_other_keys_ignored():
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": None}
    assert to_task({"messages": [message], "answer": 1}).prompt == "ab"


@pytest.mark.parametrize(
    "prompt",
    [
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\nWhat is 1+1?\n\n"
        'Remember to put your answer on its own line after "Answer:".',
        'What is 1+1? Let\'s think step by step and output the final answer after "####".',
        "What is 1+1?",
    ],
)
def test_instructions_for_other_graders_are_taken_out(prompt):
    assert to_task({"prompt": prompt, "answer": "2"}).prompt == "What is 1+1?"


BAD_PROMPTS = [
    ("", "prompt='': expected a text that is not empty"),
    (" \n", "prompt=' "),
    (None, "prompt=None: expected a text"),
    (5, "prompt=5: expected a text"),
    ([], r"prompt=\[\]: expected at least one message"),
    (["q"], r"prompt\[0\]='q': expected a message"),
    ([{"role": "user"}], r"prompt\[0\]=.*: expected a message"),
    ([{"role": "user", "content": None}], r"prompt\[0\]\.content=None"),
    ([{"role": "user", "content": ""}], r"prompt\[0\]\.content=''"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], r"prompt\[0\]\.content=.* of the type text"),
    ([{"role": "critic", "content": "q"}], r"prompt\[0\]\.role='critic': expected one of system, developer, user"),
    ([{"role": "assistant", "content": "a"}], r"prompt=.*at least one message of the user"),
    ([{"role": "user", "content": "q"}] * 2, r"prompt\[1\]=.*take turns"),
    ('[{"role": "user", "content": "q"', "prompt=.*looks like one"),
    ("<image>\nWhat is this?", "no <image>: this package asks with text alone"),
    ("half \ud800", r"prompt: half a surrogate pair.*'half \\ud800'"),
]


@pytest.mark.parametrize(("prompt", "message"), BAD_PROMPTS, ids=range(len(BAD_PROMPTS)))
def test_bad_prompt_is_refused(prompt, message):
    with pytest.raises(ValueError, match=message):
        to_task({"prompt": prompt, "answer": "1"})


BAD_GOLDS = [
    (None, "=None: expected a text or a number"),
    ("proof", "='proof': expected an answer, not a placeholder"),
    ("NaN", "='NaN': expected an answer, not a placeholder"),
    ("word " * 30, "expected a final answer, not prose; another column"),
    (NAN, "=nan: expected a finite number"),
    (-INFINITY, "=-inf: expected a finite number"),
    ("", "='': expected an answer that is not empty"),
    (" ", "=' ': expected an answer"),
    ("$ $", r"='\$ \$': expected an answer|golds"),
    ("\\boxed{}", "expected an answer that is not empty"),
    ([], r"=\[\]: expected at least one answer"),
    ("[]", r"=\[\]: expected at least one answer"),
    (["1", ""], r"\[1\]='': expected an answer"),
    (["1", None], r"\[1\]=None: expected a text or a number"),
    ([["1"]], r"\[0\]=\['1'\]: expected a text or a number"),
    (b"1", "=b'1': expected a text or a number"),
    ({"gold": "1"}, "the keys gold have none of"),
    ('{"inputs": ["1"', "expected tests of a program"),
    ("\udfff", "golds: half a surrogate pair"),
    ({"inputs": ["\udfff"], "outputs": ["1"]}, "inputs: half a surrogate pair"),
]


@pytest.mark.parametrize(("gold", "message"), BAD_GOLDS, ids=range(len(BAD_GOLDS)))
@pytest.mark.parametrize("column", ["reward_model.ground_truth", "answer"])
def test_bad_gold_is_refused(column, gold, message):
    row = {"question": "q", "answer": gold} if column == "answer" else verl(gold)
    with pytest.raises(ValueError, match=message) as error:
        to_task(row)
    assert "surrogate" in message or str(error.value).startswith(column)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "q", "solution": "It is 2."}, r"solution='It is 2\.': expected a solution that ends in \\boxed"),
        ({"prompt": "q", "solution": "It is\nlong."}, "solution=.*expected an answer, or a solution"),
        ({"question": "q", "input_output": ""}, "input_output='': .*there are no tests"),
        ({"question": "q", "input_output": "{}"}, "input_output='{}': .*there are no tests"),
        ({"question": "q", "answer": "E", "choices": ["1", "2"]}, "answer='E': expected one of A, B, .*choices"),
        ({"question": "q", "answer": 5, "choices": ["1", "2"]}, "answer=5: expected one of A, B"),
        ({"question": "q", "answer": "1", "options": "1 2 3"}, "options='1 2 3': expected options with letters"),
        ({"question": "q", "answer": "1", "context": {"a": 1}}, r"context=.*columns=\{\"context\": None\}"),
        ({"question": "q", "answer": "1", "image_path": "a.png"}, "image_path=.*no image"),
        ({"question": "q", "answer": "1", "images": [{"bytes": "AA"}]}, "images=.*no image"),
    ],
)
def test_other_bad_cells_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        to_task(row)


@pytest.mark.parametrize(
    "row", [{}, {"instruction": "q", "output": "a"}, {"input": "q", "target": {"a": 1}}, {"text": "q"}]
)
def test_an_unknown_layout_is_refused_with_its_columns(row):
    with pytest.raises(ValueError, match=r"no known layout has the columns .*columns=\{\"prompt\": ") as error:
        to_task(row)
    assert all(column in str(error.value) for column in row)


# --- what stands beside the question

TEXTS = ["21", "27", "29", "33"]
CHOICES = [
    {"choices": TEXTS, "answer": 2},
    {"choices": TEXTS, "answer": "C"},
    {"choices": TEXTS, "answer": "29"},
    {"options": json.dumps(TEXTS), "answer": "(c)"},
    {"options": str(TEXTS), "answer": ["C"]},
    {"options": "A) 21 B) 27 C) 29 D) 33", "Answer": "C"},
    {"options": "(A) 21\n(B) 27\n(C) 29\n(D) 33", "answer": "C. 29"},
    {"options": [f"{letter}){text}" for letter, text in zip("ABCD", TEXTS, strict=True)], "correct": "C"},
    {"options": dict(zip("ABCD", TEXTS, strict=True)), "label": "C"},
    {"choices": {"text": TEXTS, "label": list("ABCD")}, "answerKey": "C"},
    {"options": [{"key": k, "value": t} for k, t in zip("ABCD", TEXTS, strict=True)], "answer": "C"},
    {**dict(zip("ABCD", TEXTS, strict=True)), "answer": "C"},
    {"opa": "21", "opb": "27", "opc": "29", "opd": "33", "cop": 2},
    {"options": [21, 27, 29, 33], "answer": 29},
]


@pytest.mark.parametrize("columns", CHOICES, ids=range(len(CHOICES)))
def test_options_are_shown_and_the_gold_is_the_letter(columns):
    task = to_task({"question": "Which is prime?", **columns})
    assert task.prompt.startswith("Which is prime?\n\n") and all(text in task.prompt for text in TEXTS)
    assert task.answer.golds == ("C", "29")


def test_options_in_columns_of_right_and_wrong_ones_keep_their_order():
    row = {
        "Question": "q",
        "Correct Answer": "29",
        **{f"Incorrect Answer {i}": t for i, t in enumerate(TEXTS) if t != "29"},
    }
    task = to_task(row)
    assert task == to_task(dict(reversed(row.items())))
    letter, text = task.answer.golds
    assert text == "29" and f"{letter}) 29" in task.prompt


def test_options_that_the_prompt_has_are_not_shown_twice():
    row = {"question": "Which?\nA) 1\nB) 2", "options": ["1", "2"], "answer": "B"}
    assert to_task(row).prompt == row["question"]
    assert to_task({"question": "q", "options": ["1", "2"], "answer": "5"}, {"options": None}).answer.golds == ("5",)


@pytest.mark.parametrize("column", ["Body", "passage", "context", "table", "background"])
def test_what_a_question_is_about_comes_before_it(column):
    assert to_task({"question": "How many?", "answer": "3", column: "3 hens."}).prompt == "3 hens.\n\nHow many?"
    assert to_task({"question": "3 hens. How many?", "answer": "3", column: "3 hens."}).prompt == "3 hens. How many?"
    assert to_task({"question": "How many?", "answer": "3", column: None}).prompt == "How many?"


@pytest.mark.parametrize(
    ("value", "columns", "expected"),
    [
        ([1, 2], None, MathAnswer(("1", "2"), require_all=True)),
        ([0.5, 2], None, MathAnswer(("0.5", "2"), require_all=True)),
        ([3], None, MathAnswer(("3",))),
        (["1", "2"], None, MathAnswer(("1", "2"))),
        ("['1', '2']", None, MathAnswer(("1", "2"))),
        ([1, 2], {"prompt": "question", "answer_any": "answer"}, MathAnswer(("1", "2"))),
        (["1", "2"], {"answer_all": "answer"}, MathAnswer(("1", "2"), require_all=True)),
        (False, None, MathAnswer(("False",))),
        ("165 (pennies)", None, MathAnswer(("165",))),
        ("9 * 2 = 18 are earned.\nA: 18", None, MathAnswer(("18",))),
    ],
)
def test_lists_and_truth_values_as_golds(value, columns, expected):
    assert to_task({"question": "q", "answer": value}, columns).answer == expected


CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "it's q"},
    {"role": "assistant", "content": "5"},
]
SHAREGPT = [{"from": "system", "value": "s"}, {"from": "human", "value": "it's q"}, {"from": "gpt", "value": "5"}]


@pytest.mark.parametrize(
    "prompt", [CHAT, SHAREGPT, json.dumps(CHAT), str(CHAT), json.dumps(SHAREGPT), str(CHAT).replace("}, {", "}\n {")]
)
def test_chats_in_every_form(prompt):
    task = to_task({"messages": prompt, "answer": "5"})
    assert (task.prompt, task.history) == ("it's q", ({"role": "system", "content": "s"},))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", True),
        ("<s>[INST] q [/INST]", True),
        ("<bos><start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\n", True),
        ("<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>q<\uff5cAssistant\uff5c>", True),
        ("What does <|im_start|> mean?", False),
        ("User: q", False),
    ],
)
def test_templated_prompts_are_seen(prompt, expected):
    assert to_task({"prompt": prompt, "answer": "1"}).templated is expected


@pytest.mark.parametrize("value", ["", " ", None, {}, []])
def test_labels_never_cost_a_row(value):
    assert to_task(verl("1", data_source=value), default_source="file").data_source == "file"
    assert to_task(verl("1", data_source=5)).data_source == "5"
    assert to_task(verl("1", data_source=["a", "b"])).data_source == "a, b"


@pytest.mark.parametrize("value", [None, "", " "])
@pytest.mark.parametrize("solution", ["so \\boxed{18}", "9*2\n#### 18"])
def test_an_empty_answer_is_taken_from_the_solution(value, solution):
    assert golds({"problem": "q", "answer": value, "solution": solution}) == ("18",)
    with pytest.raises(ValueError, match="solution='none': expected a solution that ends"):
        to_task({"problem": "q", "answer": value, "solution": "none"})


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"query": "q", "golden": "1"}, 'columns={"prompt": "query", "answer": "golden"}'),
        ({"meta": {"question_text": "q"}, "target": 1}, 'columns={"prompt": "meta.question_text", "answer": "target"}'),
        ({"instruction": "q", "unit_tests": []}, '"tests": "unit_tests"}; the tests of programs are for aspo/Code-v0'),
    ],
)
def test_the_message_proposes_a_mapping(row, line):
    with pytest.raises(ValueError) as error:
        to_task(row)
    assert line in str(error.value)
    with pytest.raises(ValueError) as error:
        to_task({f"column{i}" * 20: 0 for i in range(5000)})
    assert len(str(error.value)) < 2000


# --- columns


def test_columns_are_mapped_by_dotted_paths():
    row = {"meta": {"q": "1+1?", "sys": "Be brief.", "from": "mine"}, "gold.value": 2}
    columns = {"prompt": "meta.q", "answer": "gold.value", "system": "meta.sys", "data_source": "meta.from"}
    task = to_task(row, columns)
    assert (task.prompt, task.answer, task.data_source) == ("1+1?", MathAnswer(("2",)), "mine")
    assert task.history == ({"role": "system", "content": "Be brief."},)


def test_columns_of_code_are_mapped():
    row = {
        "task": "Double.",
        "cases": {"inputs": [[1]], "outputs": [2]},
        "name": "f",
        "code": "def f(x):\n",
        "limit": 3,
    }
    columns = {"prompt": "task", "tests": "cases", "fn_name": "name", "starter_code": "code", "time_limit": "limit"}
    task = to_task(row, columns)
    assert task.answer == CodeTests("call", ("[1]",), ("2",), fn_name="f", time_limit_s=3)
    assert "def f(x):" in task.prompt


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"answer": "other"}, ("q", "8", "s")),
        ({"prompt": "level"}, ("easy", "7", "s")),
        ({"data_source": "level"}, ("q", "7", "easy")),
        (None, ("q", "7", "s")),
    ],
)
def test_what_is_not_mapped_is_recognised(columns, expected):
    task = to_task({"problem": "q", "answer": "7", "other": "8", "level": "easy", "data_source": "s"}, columns)
    assert (task.prompt, task.answer.golds[0], task.data_source) == expected


def test_one_mapped_column_completes_a_layout():
    assert golds({"Aufgabe": "q", "answer": "7"}, columns={"prompt": "Aufgabe"}) == ("7",)
    assert golds({"question": "q", "Ergebnis": "7"}, columns={"answer": "Ergebnis"}) == ("7",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"promt": "q"}, "columns: unknown field.* promt; the fields are prompt, answer, answer_all, "),
        ({"prompt": "q", "answer": "meta.gold"}, r"columns: the row has no meta\.gold; it has q, a, meta\.b"),
        ({"prompt": "q", "answer": "a", "tests": "a"}, "map answer or tests, not both"),
        ({"prompt": "q", "answer": "meta.b"}, r"meta\.b=None: expected a text or a number"),
    ],
)
def test_bad_columns_are_named(columns, message):
    with pytest.raises(ValueError, match=message):
        to_task({"q": "1+1?", "a": "2", "meta": {"b": None}}, columns)


# --- whatever a row holds

HOSTILE = [
    None, True, 0, 1.5, NAN, "", "x", "[", "{}", "[{}]", '{"inputs": 5, "outputs": ["1"]}', '{"functional": 5}',
    [], {}, [None], [[]], {"a": 1}, [{"role": "user", "content": None}], "\ud800", b"x", 10**5000, "[" * 100_000,
    {"inputs": ["1"], "outputs": ["2"], "fn_name": 5}, [{"input": 1, "output": None}], {"seconds": "a"},
    [{"input": "1", "output": "1", "metadata": "x"}], [{"input": "1", "output": "1", "testtype": ["a"]}],
]  # fmt: skip


def paths_in(value, path=()):
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths_in(item, (*path, key))


@pytest.mark.parametrize("layout", LAYOUTS, ids=[layout["dataset"] for layout in LAYOUTS])
def test_a_broken_cell_gives_a_task_or_a_value_error(layout):
    refused = 0
    for path in paths_in(layout["row"]):
        for value in HOSTILE:
            row = row_of(layout)
            holder = row
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = value
            try:
                task = to_task(row)
            except ValueError:
                refused += 1
            else:
                assert task.prompt and isinstance(task.answer, MathAnswer | CodeTests)
    assert refused > len(HOSTILE)


def test_the_module_docstring_names_every_field():
    assert all(f"\n    {field} " in to_task.__globals__["__doc__"] for field in FIELDS)


@pytest.mark.parametrize("name", ["str_int", "str_list", "str_dict", "bigint", "prompt_mixed", "extra_info_mixed"])
def test_rows_of_mixed_types_are_read(name):
    lines = (DATA / "bad_rows" / f"{name}.jsonl").read_text().splitlines()
    assert all(to_task(json.loads(line)) for line in lines if line)
