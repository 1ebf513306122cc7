"""The families whose tasks come from elsewhere: data sets (math, code) and reasoning-gym."""

import ast
import copy
import importlib.util
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import reasoning, text_env
from envs.code import CodeEnv
from envs.grading.answers import MathAnswer
from envs.grading.code.grader import Limits
from envs.math import MathEnv
from envs.reasoning import LEFT_OUT, ReasoningEnv

ROOT = Path(__file__).resolve().parents[2]

MATH_ROWS = [
    {"problem": "What is 1+1?", "answer": "2", "data_source": "sums"},
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Half?"}], "answer": "1/2"},
    {"question": "A program?", "input_output": {"inputs": ["1"], "outputs": ["1"]}},
    {"question": "Apples?", "answer": "3 and 4.\n#### 1,007"},
]
CODE_ROWS = [
    {"question": "Print the double.", "input_output": {"inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"]}},
    {"question": "Double.", "input_output": {"inputs": [[2]], "outputs": [[4]], "fn_name": "double"}},
    {
        "prompt": "import math\n\ndef area(r):\n    ...\n",
        "entry_point": "area",
        "test": "def check(candidate):\n    assert candidate(1) == math.pi\n",
    },
    {"problem": "No program.", "answer": "5"},
]
PROGRAMS = ["print(2 * int(input()))", "def double(x):\n    return 2 * x", "def area(r):\n    return math.pi * r * r"]
HOSTILE = [
    "",
    "\ud800",
    "\x00",
    "{" * 5000,
    "x" * 100_000,
    "</think>" * 1000,
    "9" * 5000,
    "\\boxed{" * 2000,
    "```" * 999,
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for name, rows in (("math", MATH_ROWS), ("code", CODE_ROWS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def math_env(files):
    env = gymnasium.make("aspo/Math-v0", data=files / "math.jsonl", cache_dir=files / "cache")
    yield env
    env.close()


@pytest.fixture(scope="module")
def code_env(files):
    env = gymnasium.make("aspo/Code-v0", data=files / "code.jsonl", cache_dir=files / "cache", limits=Limits(wall_s=5))
    yield env
    env.close()


@pytest.fixture(scope="module")
def reasoning_env():
    return gymnasium.make("aspo/Reasoning-v0", tasks={"chain_sum": 3, "knights_knaves": {"config": {"n_people": 2}}})


@pytest.fixture(params=["math_env", "code_env", "reasoning_env"])
def env(request):
    return request.getfixturevalue(request.param).unwrapped


def step(env, index, completion):
    env.reset(options={"index": index})
    _, reward, _, _, info = env.step(completion)
    assert info["correct"] == (reward == 1.0) == (info["grade_status"] == "ok")
    return reward, info["grade_status"]


# --- all of them


@pytest.mark.filterwarnings("error")
def test_check_env_passes_without_warnings(env, monkeypatch):
    monkeypatch.setattr(text_env, "perf_counter", lambda: 0.0)  # a preempted process would look non-deterministic
    check_env(env)


@pytest.mark.parametrize("completion", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_is_judged(env, completion):
    for text in (completion, f"<answer>{completion}</answer>", f"\\boxed{{{completion}}}"):
        start = perf_counter()
        reward, status = step(env, 0, text)
        assert (reward, status in ("wrong", "no_answer", "guarded")) == (0.0, True)
        assert perf_counter() - start < 20  # the first one starts the graders


def test_state_replays_in_another_env(env):
    env.reset(seed=3)
    state = copy.deepcopy(env.get_state())
    expected = [env.step("")[4]["index"]] + [env.reset()[1]["index"] for _ in range(5)]
    other = pickle.loads(pickle.dumps(env))
    other.set_state(state)
    assert [other.step("")[4]["index"]] + [other.reset()[1]["index"] for _ in range(5)] == expected
    other.close()


def test_a_pickled_env_asks_and_grades_the_same(env):
    clone = pickle.loads(pickle.dumps(env))
    for index in range(min(len(env), 5)):
        assert clone.task(index) == env.task(index)
        assert step(clone, index, "\\boxed{0}<answer>0</answer>") == step(env, index, "\\boxed{0}<answer>0</answer>")
    clone.close()


def test_system_prompt_asks_for_what_is_graded(math_env, code_env, reasoning_env):
    assert r"\boxed{}" in math_env.unwrapped.system_prompt
    assert "```python" in code_env.unwrapped.system_prompt
    assert "<answer>" in reasoning_env.unwrapped.system_prompt


@pytest.mark.parametrize(("given", "expected"), [("Hello.", "Hello."), ("", None), (None, "class")])
def test_system_prompt_can_be_replaced(files, given, expected):
    tables = {"cache_dir": files / "cache", "system_prompt": given}
    made = [
        MathEnv(files / "math.jsonl", **tables),
        CodeEnv(files / "code.jsonl", **tables),
        ReasoningEnv("chain_sum", system_prompt=given),
    ]
    for env in made:
        assert env.system_prompt == (type(env).system_prompt if expected == "class" else expected)
        env.close()


# --- math and code


@pytest.mark.parametrize("family", [MathEnv, CodeEnv])
def test_data_is_needed_and_the_error_says_what_it_may_be(family):
    with pytest.raises(ValueError, match=rf"data is missing: give {family.__name__} a \.jsonl"):
        family()


@pytest.mark.parametrize(
    ("family", "kwargs", "message"),
    [
        (MathEnv, {"decimals": "some"}, "decimals='some'"),
        (MathEnv, {"limit": 0}, "limit=0"),
        (CodeEnv, {"packages": ["nope_x"]}, "nope_x"),
    ],
)
def test_bad_arguments_are_named(files, family, kwargs, message):
    with pytest.raises(ValueError, match=message):
        family(files / "math.jsonl", cache_dir=files / "cache", **kwargs)


def test_math_takes_the_problems_and_leaves_the_programs(math_env):
    env = math_env.unwrapped
    assert [env.task(i).answer.golds for i in range(len(env))] == [("2",), ("1/2",), ("1007",)]
    assert env.reset(options={"index": 0}) == ("What is 1+1?", {"index": 0, "data_source": "sums"})
    assert env.reset(options={"index": 1})[1]["history"] == [{"role": "system", "content": "Be brief."}]


@pytest.mark.parametrize(
    ("index", "completion", "status"),
    [
        (0, r"So \boxed{2}.", "ok"),
        (0, r"\boxed{3}, no: \boxed{2.0}", "ok"),
        (0, r"<think>\boxed{3}</think> \boxed{2}", "ok"),
        (1, r"\boxed{\frac{1}{2}}", "ok"),
        (1, r"\boxed{0.5}", "ok"),
        (2, r"\boxed{1007}", "ok"),
        (2, r"\boxed{1,007}", "ok"),
        (0, r"\boxed{3}", "wrong"),
        (0, r"<think>\boxed{2}</think> \boxed{4}", "wrong"),
        (0, "2", "no_answer"),
        (0, r"<think>\boxed{2}", "no_answer"),
        (0, r"\boxed{2", "no_answer"),
    ],
)
def test_math_grades(math_env, index, completion, status):
    assert step(math_env.unwrapped, index, completion) == (float(status == "ok"), status)


def test_code_grades(code_env):
    env = code_env.unwrapped
    assert len(env) == 3
    for index, program in enumerate(PROGRAMS):
        assert step(env, index, f"Like this:\n```python\n{program}\n```") == (1.0, "ok")
        assert step(env, index, program) == (0.0, "no_answer")
        assert step(env, index, "```python\nprint(7)\n```") == (0.0, "wrong")
        assert step(env, index, f"<think>```python\n{program}\n```</think> done") == (0.0, "no_answer")


def test_a_program_that_never_ends_is_a_timeout(files):
    env = CodeEnv(files / "code.jsonl", cache_dir=files / "cache", limits=Limits(wall_s=0.5, cpu_s=0.5))
    assert step(env, 0, "```python\nwhile True: pass\n```") == (0.0, "timeout")
    assert step(env, 0, f"```python\n{PROGRAMS[0]}\n```") == (1.0, "ok")
    env.close()


def test_columns_and_limit_reach_the_table(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"Frage": "1+1?", "Wert": 2}\n{"Frage": "1+2?", "Wert": 3.0}\n')
    columns = {"prompt": "Frage", "answer": "Wert"}
    env = MathEnv(tmp_path / "own.jsonl", columns=columns, limit=1, cache_dir=tmp_path)
    assert [env.task(i).answer for i in range(len(env))] == [MathAnswer(("2",))]
    env.close()


# --- reasoning


def sets() -> list[str]:
    return sorted(reasoning._reasoning_gym().factory.DATASETS.keys() - LEFT_OUT)


@pytest.fixture(scope="module")
def first_tasks():
    """Three tasks of every set, and their env."""
    made = {name: ReasoningEnv(name, num_tasks=5, split="test", seed=2) for name in sets()}
    return {name: (env, [env.task(i) for i in range(3)]) for name, env in made.items()}


def test_the_answers_of_every_set_score_one_and_garbage_does_not(first_tasks):
    assert len(first_tasks) == 89
    for name, (env, tasks) in first_tasks.items():
        for task in tasks:
            gold = task.answer[1]["answer"]
            assert (task.prompt != "", task.data_source) == (True, f"reasoning/{name}")
            if gold is not None:  # five sets only have a check
                grade = env.grade(task, f"<think><answer>no</answer></think>So <answer>\n{gold} </answer>.")
                assert (grade.reward, grade.correct, grade.status) == (1.0, True, "ok"), (name, gold)
            for completion, status in (("<answer>garbage</answer>", "wrong"), (str(gold), "no_answer")):
                grade = env.grade(task, completion)
                assert (grade.reward, grade.correct, grade.status) == (0.0, False, status), (name, completion)


# Right answers to tasks that come without one, worked out by what the set's own rules say.
def test_a_set_that_only_has_a_check_can_be_solved(first_tasks):
    env, tasks = first_tasks["graph_color"]
    for task in tasks:
        puzzle = task.answer[1]["metadata"]["puzzle"]
        coloring: dict[int, int] = {}
        assert _colored(puzzle, coloring)
        assert env.grade(task, f"<answer>{json.dumps(coloring)}</answer>").reward == 1.0
        coloring[puzzle["edges"][0][0]] = coloring[puzzle["edges"][0][1]]
        assert env.grade(task, f"<answer>{json.dumps(coloring)}</answer>").reward == 0.0


def _colored(puzzle, coloring) -> bool:
    free = [vertex for vertex in puzzle["vertices"] if vertex not in coloring]
    if not free:
        return True
    for color in puzzle["color_options"]:
        if all(coloring.get(b if a == free[0] else a) != color for a, b in puzzle["edges"] if free[0] in (a, b)):
            coloring[free[0]] = color
            if _colored(puzzle, coloring):
                return True
            del coloring[free[0]]
    return False


HOSTILE_ANSWERS = [
    "nan", "NaN", "inf", "nan+nanj", "[]", "{}", "[[]]", "null", "[null]", "[{}]", "[NaN]", "1e999999999", "1/0", "-1",
    "9" * 4000, "9" * 9000, "(" * 9000, "[" * 9000, "¬" * 3000, "¬" * 150, "(P ∧ " * 1500, "\x00", "\ud800", "R" * 9000,
    "R99999999", "R1000000000", "F+1000000000", "A=1," * 2000, "9999 \u00d7 " * 1000, '{"a": 1}', "1:1:1.1.1", "5 days",
]  # fmt: skip


def test_hostile_answers_neither_raise_nor_hang_nor_pass(first_tasks):
    for name, (env, (task, *_)) in first_tasks.items():
        before = copy.deepcopy(task.answer)
        lists = [json.dumps([float("nan")] * length) for length in range(2, 30)] if name == "number_sorting" else []
        for answer in HOSTILE_ANSWERS + lists:
            start = perf_counter()
            grade = env.grade(task, f"<answer>{answer}</answer>")
            assert perf_counter() - start < 20, (name, answer[:20])
            if answer != task.answer[1]["answer"]:
                assert (grade.reward, grade.status in ("wrong", "guarded")) == (0.0, True), (name, answer[:20])
        assert task.answer == before, name


# Calls that would run a text as code, anywhere in the package but in the sets that are left out. None of these sees
# an answer: they compute with the generator's own numbers. `compile` and `parse_expr` are functions of the package.
REVIEWED_CALLS = {
    ("algorithmic/number_sorting.py", "score_answer", "eval"),  # of the gold
    ("arithmetic/basic_arithmetic.py", "eval_floordiv", "eval"),
    ("arithmetic/bitwise_arithmetic.py", "generate_problem", "eval"),
    ("arithmetic/bitwise_arithmetic.py", "verify_solution", "eval"),
    ("arithmetic/gsm_symbolic/generators_00_49.py", "generate_example", "eval"),
    ("arithmetic/gsm_symbolic/generators_50_99.py", "generate_from_variables", "eval"),
    ("code/bf.py", "compile_bfit_code_to_bf", "compile"),
    ("logic/propositional_logic.py", "from_string", "parse_expr"),
    ("logic/propositional_logic.py", "parse_expr", "parse_expr"),
}
CODE_RUNNERS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "import_module",
    "parse_expr",
    "sympify",
    "literal_eval",
    "system",
}
CODE_RUNNERS |= {"Popen", "run", "check_output", "run_path", "run_module"}


def calls_in(path: Path):
    def visit(node, function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            is_regex = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", None) == "re"
            if name in CODE_RUNNERS and not is_regex:
                yield function, name
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    yield from visit(ast.parse(path.read_text()), "")


def test_no_scorer_runs_the_answer_as_code():
    package = Path(importlib.util.find_spec("reasoning_gym").origin).parent
    found = set()
    for path in package.rglob("*.py"):
        if path.stem not in LEFT_OUT and "contrib/bfit" not in path.as_posix():  # bfit makes tasks: it is a compiler
            name = path.relative_to(package).as_posix()
            found |= {(name, function, call) for function, call in calls_in(path)}
    assert found == REVIEWED_CALLS


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_sets_that_are_left_out_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=f"tasks: '{name}' is left out: {LEFT_OUT[name][:20]}"):
        ReasoningEnv(["chain_sum", name])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tasks": "chain_sums"}, "reasoning-gym has no 'chain_sums'; it has ab, acre"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": 5}, "tasks=5 is neither a name"),
        ({"tasks": ["ab", "ab"]}, "has a name twice"),
        ({"tasks": {"ab": 0}}, r"tasks\['ab'\]: weight=0 is not a number above 0"),
        ({"tasks": {"ab": float("nan")}}, r"tasks\['ab'\]: weight=nan"),
        ({"tasks": {"ab": {"wight": 2}}}, r"tasks\['ab'\]=.*the keys are weight and config"),
        ({"tasks": {"ab": {"config": {"lenght": 2}}}}, "config {'lenght': 2} of 'ab' is refused"),
        ({"tasks": {"chain_sum": {"config": {"min_terms": 9, "max_terms": 2}}}}, "of 'chain_sum' is refused"),
        ({"tasks": {"ab": {"config": {"seed": 2}}}}, "the config of 'ab' sets seed or size"),
        ({"tasks": "ab", "num_tasks": 0}, "num_tasks=0 is not an integer in 1"),
        ({"tasks": "ab", "seed": -1}, "seed=-1 is not an integer in 0"),
        ({"tasks": "ab", "split": "dev"}, "split='dev' is not one of 'train', 'test'"),
    ],
)
def test_bad_reasoning_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ReasoningEnv(**kwargs)


def test_another_version_of_reasoning_gym_is_refused(monkeypatch):
    monkeypatch.setattr(reasoning, "version", lambda name: "0.2.0")
    with pytest.raises(ImportError, match=r"reasoning-gym 0\.2\.0 was not reviewed"):
        ReasoningEnv("ab")


def test_a_mixture_follows_its_weights_and_configs():
    env = ReasoningEnv({"chain_sum": 3, "letter_counting": 1, "leg_counting": {"weight": 0.5}}, num_tasks=900)
    names = [env.task(i).data_source.removeprefix("reasoning/") for i in range(900)]
    shares = {name: names.count(name) / 900 for name in set(names)}
    assert shares == pytest.approx(
        {"chain_sum": 3 / 4.5, "letter_counting": 1 / 4.5, "leg_counting": 0.5 / 4.5}, abs=0.04
    )
    short = ReasoningEnv({"chain_sum": {"config": {"min_terms": 2, "max_terms": 2}}})
    assert all(short.task(i).answer[1]["metadata"]["num_terms"] == 2 for i in range(20))


def test_splits_and_seeds_give_other_tasks():
    def prompts(**kwargs):
        env = ReasoningEnv("cryptarithm", num_tasks=40, **kwargs)
        return {env.task(i).prompt for i in range(40)}

    assert prompts() == prompts()
    assert not prompts() & prompts(split="test")
    assert not prompts() & prompts(seed=1)


def test_tasks_are_functions_of_the_index_and_leave_random_generators_alone():
    names = ["list_functions", "pool_matrix", "maze"]  # the first two use the generators of the process
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    env, other = ReasoningEnv(names, num_tasks=400), ReasoningEnv(names, num_tasks=400)
    tasks = [env.task(i) for i in range(400)]  # more than are kept
    assert (random.random(), np.random.random()) == expected
    assert [other.task(i) for i in reversed(range(400))][::-1] == tasks
    assert [env.task(i) for i in range(5)] == tasks[:5]


def prompts_in_another_process(names: list[str], hash_seed: int) -> str:
    code = f"""
from envs.reasoning import ReasoningEnv
for name in {names}:
    env = ReasoningEnv(name, num_tasks=9)
    print(repr([env.task(i) for i in range(9)]))
"""
    environ = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, timeout=500)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_tasks_are_the_same_in_every_process():
    assert prompts_in_another_process(sets(), 1) == prompts_in_another_process(sets(), 2)
