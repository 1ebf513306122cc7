"""What holds for every text environment, and for aspo/Arithmetic-v0."""

import copy
import os
import pickle
import re
import subprocess
import sys
import textwrap
import unicodedata
from dataclasses import FrozenInstanceError
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

import envs
from envs import text_env
from envs.arithmetic import ArithmeticEnv, _permuted
from envs.text_env import Grade, SingleTurnTextEnv, Task, TextSpace

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = [(operation, digits, split) for operation in "+-*" for digits in (1, 2, 3, 9) for split in ("train", "test")]


def make(**kwargs) -> ArithmeticEnv:
    return gymnasium.make("aspo/Arithmetic-v0", **kwargs).unwrapped


def run_python(code: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=cwd, env=os.environ | environ, capture_output=True, text=True, timeout=60)


# --- TextSpace


@pytest.mark.parametrize("text", ["", "x", r"\boxed{\frac{1}{2}}", "two\nlines", "naïve ٣ 😀 \x00", "7" * 100_000])
def test_text_space_contains_every_string(text):
    assert text in TextSpace()


@pytest.mark.parametrize("value", [None, 5, b"bytes", ["a"], np.zeros(3)])
def test_text_space_contains_only_strings(value):
    assert value not in TextSpace()


def test_text_space_samples_short_printable_strings_from_its_own_generator():
    np.random.seed(0)
    first = [space.sample() for space in [TextSpace(seed=3)] for _ in range(50)]
    np.random.seed(1)
    second = [space.sample() for space in [TextSpace(seed=3)] for _ in range(50)]
    assert first == second
    assert len(set(first)) > 40
    assert all(len(text) <= 32 and text.isascii() and (text.isprintable() or not text) for text in first)


def test_text_space_equality_repr_and_pickle():
    space = TextSpace(seed=1)
    clone = pickle.loads(pickle.dumps(space))
    assert clone == space == TextSpace()
    assert space != gymnasium.spaces.Text(5)
    assert clone.sample() == space.sample()
    assert repr(space) == "TextSpace()"


# --- the contract of SingleTurnTextEnv


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kwargs", [{}, {"operation": "*", "digits": 1, "split": "test"}])
def test_check_env_passes_without_warnings(kwargs, monkeypatch):
    monkeypatch.setattr(text_env, "perf_counter", lambda: 0.0)  # a preempted process would look non-deterministic
    check_env(make(**kwargs))


def test_reset_and_step_return_what_the_runner_reads():
    env = make(digits=3)
    prompt, info = env.reset(seed=1, options={"index": 7})
    task = env.task(7)
    assert prompt == task.prompt
    assert info == {"index": 7, "data_source": "arithmetic/add_3"}
    observation, reward, terminated, truncated, info = env.step(f" {task.answer}\n")
    assert (observation, reward, terminated, truncated) == ("", 1.0, True, False)
    assert info.pop("grade_seconds") >= 0
    assert info == {
        "data_source": "arithmetic/add_3",
        "index": 7,
        "extracted": task.answer,
        "correct": True,
        "grade_status": "ok",
    }


@pytest.mark.parametrize("index", [0, np.int64(41)])
def test_same_index_asks_the_same_prompt_whatever_the_seed(index):
    env, other = make(), make()
    assert env.reset(seed=0, options={"index": index})[0] == other.reset(seed=5, options={"index": index})[0]


def test_without_an_index_the_env_draws_tasks_from_its_own_generator():
    env = make(num_tasks=1000)

    def draw(global_seed):
        np.random.seed(global_seed)
        return [env.reset(seed=9)[1]["index"], *(env.reset()[1]["index"] for _ in range(20))]

    assert draw(0) == draw(1)
    assert len(set(draw(0))) > 15


@pytest.mark.parametrize("index", [10, -1, 10**30, 1.0, "3", None])
def test_bad_index_is_named(index):
    with pytest.raises(ValueError, match=rf"index={re.escape(repr(index))} is not an integer in 0\.\.9"):
        make(num_tasks=10).reset(options={"index": index})


def test_unknown_option_is_named():
    with pytest.raises(ValueError, match=r"unknown reset option.* indx; the only option is index"):
        make().reset(options={"indx": 3})


def test_a_failed_reset_leaves_nothing_to_step_with():
    env = make()
    with pytest.raises(ValueError):
        env.reset(options={"index": -1})
    with pytest.raises(ResetNeeded):
        env.step("1")


def test_step_needs_a_reset_each_time():
    env = make()
    with pytest.raises(ResetNeeded):
        env.step("1")
    env.reset()
    env.step("1")
    with pytest.raises(ResetNeeded):
        env.step("1")


def test_action_must_be_text():
    env = make()
    env.reset()
    with pytest.raises(InvalidAction, match="ndarray"):
        env.step(np.array([1, 2]))


def test_state_replays_in_another_env():
    env, other = make(), make()
    env.reset(seed=3)
    state = copy.deepcopy(env.get_state())
    expected = [env.step("7")[4]["index"]] + [env.reset()[1]["index"] for _ in range(5)]
    other.set_state(state)
    assert [other.step("7")[4]["index"]] + [other.reset()[1]["index"] for _ in range(5)] == expected


def test_pickle_continues_mid_episode():
    env = gymnasium.make("aspo/Arithmetic-v0", digits=2)
    env.reset(seed=4)
    clone = pickle.loads(pickle.dumps(env))
    assert clone.step("12")[4]["index"] == env.step("12")[4]["index"]
    assert clone.reset() == env.reset()


def test_grade_rejects_unknown_status():
    with pytest.raises(ValueError, match="status='great' is not one of ok, wrong"):
        Grade(1.0, True, "5", "great")
    with pytest.raises(FrozenInstanceError):
        Task("1+1=", "2", "arithmetic").answer = "3"


def test_grading_time_is_measured(monkeypatch):
    clock = iter([10.0, 12.3456])
    monkeypatch.setattr(text_env, "perf_counter", lambda: next(clock))
    env = make()
    env.reset()
    assert env.step("1")[4]["grade_seconds"] == 2.346


@pytest.mark.filterwarnings("error")
def test_the_family_in_the_docstring_works_and_is_short():
    lines = textwrap.dedent(SingleTurnTextEnv.__doc__).splitlines()
    start = next(i for i, line in enumerate(lines) if "class ReverseEnv" in line)
    end = max(i for i, line in enumerate(lines) if line.startswith("            "))
    source = textwrap.dedent("\n".join(lines[start : end + 1]))
    assert len(source.splitlines()) < 20
    namespace = {"SingleTurnTextEnv": SingleTurnTextEnv, "Task": Task, "Grade": Grade}
    exec(source, namespace)
    env = namespace["ReverseEnv"]()
    assert env.system_prompt == "Write the word backwards."
    assert env.reset(options={"index": 0})[0] == "stressed"
    assert env.step("desserts")[1] == 1.0
    assert [env.reset(options={"index": 1}) and env.step(text)[1] for text in ("", "drawer")] == [0.0, 0.0]


# --- aspo/Arithmetic-v0


@pytest.mark.parametrize(("operation", "digits", "split"), FAMILIES)
def test_gold_answer_scores_one(operation, digits, split):
    env = make(operation=operation, digits=digits, split=split, seed=3)
    for index in {*range(min(200, len(env))), len(env) - 1}:
        prompt, _ = env.reset(options={"index": index})
        left, right = map(int, re.fullmatch(rf"(\d+)\{operation}(\d+)=", prompt).groups())
        assert len(str(left)) == len(str(right)) == digits
        gold = {"+": left + right, "-": left - right, "*": left * right}[operation]
        assert env.step(str(gold))[1] == 1.0


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("", "no_answer"),
        (" \n", "no_answer"),
        ("garbage", "no_answer"),
        ("={answer}", "no_answer"),
        ("{answer}.", "no_answer"),
        ("{answer} {answer}", "no_answer"),
        ("+{answer}", "no_answer"),
        ("-{answer}", "wrong"),
        ("0{answer}", "wrong"),
        ("{answer}0", "wrong"),
        ("{answer}\x00", "no_answer"),
        ("\u00a0{answer}", "no_answer"),
        ("1_0", "no_answer"),
        ("1e3", "no_answer"),
        ("x" * 100_000, "no_answer"),
        ("7" * 100_000, "wrong"),
        ("\ud800", "no_answer"),
    ],
)
def test_anything_but_the_integer_scores_zero(completion, status):
    env = make()
    env.reset(options={"index": 0})
    _, reward, _, _, info = env.step(completion.replace("{answer}", env.task(0).answer))
    assert (reward, info["correct"], info["grade_status"]) == (0.0, False, status)
    assert info["grade_seconds"] < 0.1


SCRIPTS = {
    "arabic-indic": "ARABIC-INDIC DIGIT {}",
    "superscript": "SUPERSCRIPT {}",
    "fullwidth": "FULLWIDTH DIGIT {}",
    "mathematical bold": "MATHEMATICAL BOLD DIGIT {}",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_digits_of_other_scripts_score_zero(script):
    env = make()
    env.reset(options={"index": 0})
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    digits = "".join(unicodedata.lookup(SCRIPTS[script].format(name)) for name in names)
    _, reward, _, _, info = env.step(env.task(0).answer.translate(str.maketrans("0123456789", digits)))
    assert (reward, info["grade_status"]) == (0.0, "no_answer")


@pytest.mark.parametrize("operation", ["+", "-"])
@pytest.mark.parametrize("digits", [1, 2])
def test_splits_cover_every_pair_once_and_share_none(operation, digits):
    def pairs(split, seed, num_tasks=None):
        env = make(operation=operation, digits=digits, split=split, seed=seed, num_tasks=num_tasks)
        return [frozenset(env.task(i).prompt[:-1].split(operation)) for i in range(len(env))]

    train, test = pairs("train", 0), pairs("test", 1)
    operands = 10 if digits == 1 else 90
    assert len(train) + len(test) == len({*train, *test}) == operands * (operands + 1) // 2
    assert set(pairs("train", 5)) == set(train)
    assert pairs("train", 5, num_tasks=20) == pairs("train", 5)[:20] != train[:20]


def test_held_out_pairs_are_an_ordinary_sample():
    """Neither small sums nor one order of the operands may be missing from a split."""
    env = make(digits=3, split="test")
    operands = np.array([[int(x) for x in env.task(i).prompt[:-1].split("+")] for i in range(2000)])
    assert abs(operands.sum(1).mean() - 1099) < 20
    assert abs((operands[:, 0] < operands[:, 1]).mean() - 0.5) < 0.04


def test_permutation_is_one():
    for size in (1, 2, 5, 64, 1000):
        assert sorted(_permuted(i, size, "key") for i in range(size)) == list(range(size))


def test_tasks_are_the_same_in_every_process():
    code = """
        from envs.arithmetic import ArithmeticEnv
        env = ArithmeticEnv(digits=4, seed=7, split="test")
        print(*(env.task(i).prompt for i in range(100)), env.reset(seed=1)[0])
    """
    results = [run_python(code, ROOT, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    assert results[0].stdout == results[1].stdout
    assert len(results[0].stdout.split()) == 101, results[0].stderr


def test_the_largest_split_is_made_at_once():
    env = make(digits=9)
    assert len(env) > 10**17
    assert re.fullmatch(r"\d{9}\+\d{9}=", env.reset(options={"index": len(env) - 1})[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"operation": "/"}, r"operation='/' is not one of '\+', '-', '\*'"),
        ({"digits": 0}, r"digits=0 is not an integer in 1\.\.9"),
        ({"digits": 10}, r"digits=10 is not an integer in 1\.\.9"),
        ({"digits": 2.0}, r"digits=2\.0 is not"),
        ({"digits": True}, r"digits=True is not"),
        ({"split": "dev"}, "split='dev' is not one of 'train', 'test'"),
        ({"num_tasks": 0}, r"num_tasks=0 is not an integer in 1\.\.364905"),
        ({"num_tasks": 41_000, "split": "test"}, r"num_tasks=41000 is not an integer in 1\.\.40545"),
        ({"seed": -1}, r"seed=-1 is not an integer in 0\.\."),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticEnv(**kwargs)


# --- registration


@pytest.mark.parametrize(
    "code",
    [
        "import gymnasium; env = gymnasium.make('envs:aspo/Arithmetic-v0', digits=2)",
        "import envs; import gymnasium; env = gymnasium.make('aspo/Arithmetic-v0', digits=2)",
        "import gymnasium, envs; envs.register_envs(); env = gymnasium.make('aspo/Arithmetic-v0', digits=2)",
    ],
)
@pytest.mark.parametrize("anywhere", [False, True], ids=["in the working directory", "installed"])
def test_env_id_is_found_without_a_warning(code, anywhere, tmp_path):
    result = run_python(f"{code}; print(env.reset(seed=0)[0])", tmp_path if anywhere else ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"\d\d\+\d\d=\n", result.stdout)


@pytest.mark.filterwarnings("error")
def test_registering_twice_changes_nothing():
    spec = gymnasium.spec("aspo/Arithmetic-v0")
    envs.register_envs()
    assert gymnasium.spec("aspo/Arithmetic-v0") is spec
