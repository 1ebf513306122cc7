"""Word problems: right answers, disjoint splits, the same tasks everywhere, a grader that reads the last integer."""

import re

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from envs.word_problems import STORIES, WordProblemsEnv, is_held_out

NUMBERS = re.compile(r"[0-9]+")


def test_gymnasium_accepts_the_env():
    check_env(gymnasium.make("envs:aspo/WordProblems-v0").unwrapped, skip_render_check=True)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.formula)
def test_the_answer_is_the_value_of_the_formula(story):
    a, b, c = 7, 5, 3
    formula = {"ab/b": "a*b/b"}.get(story.formula, story.formula)
    assert story.answer(a, b, c) == eval(formula, {"a": a, "b": b, "c": c})


def test_every_number_of_the_calculation_is_in_the_question():
    env = WordProblemsEnv()
    for index in range(200):
        task = env.task(index)
        letters = set(task.data_source.removeprefix("words/")) & set("abc")
        assert len(NUMBERS.findall(task.prompt)) == len(letters), task


def test_no_calculation_of_the_test_split_is_trained_on():
    def calculations(split, seed):
        env = WordProblemsEnv(split=split, seed=seed, num_tasks=3000)
        tasks = [env.task(index) for index in range(len(env))]
        return {(task.data_source, *NUMBERS.findall(task.prompt)) for task in tasks}

    test = calculations("test", 0)
    assert len(test) > 300
    assert not test & calculations("train", 0)
    assert not test & calculations("train", 1)
    assert 0.1 < sum(is_held_out(("a+b", a, b)) for a in range(100) for b in range(100)) / 10_000 < 0.15


def test_a_seed_makes_the_same_tasks_in_every_process_and_another_seed_makes_others():
    first = WordProblemsEnv(steps=(1,)).task(0)
    assert first == WordProblemsEnv(steps=(1,), num_tasks=1).task(0)
    assert (
        first.prompt == "Carla has 16 pencils. David gives Carla 18 more pencils. How many pencils does Carla have now?"
    )
    assert first != WordProblemsEnv(steps=(1,), seed=1).task(0)


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        (" 16 + 18 = 34", "ok"),
        ("34 pencils.", "ok"),
        ("34, or rather 35", "wrong"),
        ("034", "wrong"),
        ("thirty-four", "no_answer"),
        ("", "no_answer"),
        ("9" * 5000, "wrong"),
    ],
)
def test_the_last_integer_counts(completion, status):
    env = WordProblemsEnv(steps=(1,))
    grade = env.grade(env.task(0), completion)
    assert (grade.status, grade.correct, grade.reward) == (status, status == "ok", float(status == "ok"))


@pytest.mark.parametrize("wrong", [{"steps": (3,)}, {"steps": ()}, {"split": "dev"}, {"num_tasks": 0}, {"seed": -1}])
def test_wrong_arguments_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}="):
        WordProblemsEnv(**wrong)
