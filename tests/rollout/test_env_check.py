"""Mistakes in an own env are found by one try of it, with the line of the user's file."""

import inspect
import re
from pathlib import Path

import gymnasium as gym
import pytest
from ray.exceptions import RayTaskError

from aspo_rllib.rollout.env_check import check_env
from aspo_rllib.rollout.errors import reason
from envs.arithmetic import ArithmeticEnv
from envs.grading.pool import GradingPool
from envs.text_env import Grade, SingleTurnTextEnv, Task


class GoodEnv(SingleTurnTextEnv):
    def __len__(self):
        return 3

    def task(self, index):
        return Task(prompt=f"{index}+1=", answer=str(index + 1), data_source="sums")

    def grade(self, task, completion):
        return Grade(float(completion == task.answer), completion == task.answer, completion, "ok")


class GradeRaises(GoodEnv):
    def grade(self, task, completion):
        return Grade(1.0, completion.split()[0] == task.answer, None, "ok")  # "" has no first word


class GradeIsFloat(GoodEnv):
    def grade(self, task, completion):
        return 1.0


class TaskIsText(GoodEnv):
    def task(self, index):
        return f"{index}+1="


class TaskRaises(GoodEnv):
    def task(self, index):
        return {}["no such column"]


class RewardIsNaN(GoodEnv):
    def grade(self, task, completion):
        return Grade(float("nan"), False, None, "wrong")


class Bare(gym.Env):
    """An env of one's own that is no SingleTurnTextEnv."""

    observation_space = action_space = gym.spaces.Text(1000)

    def __init__(self, begun=("1+1=", {}), ended=("", 1.0, True, False, {})):
        self.begun, self.ended = begun, ended

    def __len__(self):
        return 3

    def reset(self, *, seed=None, options=None):
        return self.begun

    def step(self, action):
        return self.ended


class LengthRaises(GoodEnv):
    def __len__(self):
        return len(self.rows)  # there are none


def line_of(method, text):
    lines, first = inspect.getsourcelines(method)
    return first + next(n for n, line in enumerate(lines) if text in line)


@pytest.mark.parametrize("make", [GoodEnv, Bare, lambda: ArithmeticEnv(digits=3)])
def test_a_good_env_passes(make):
    check_env(make(), "mine")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bare(begun="1+1="), "reset returned '1+1='; expected a prompt (str) and a dict"),
        (lambda: Bare(begun=(["1+1="], {})), "reset returned (['1+1='], {}); expected a prompt"),
        (lambda: Bare(ended=("", 1.0, True, {})), "step returned ('', 1.0, True, {}); expected observation, reward,"),
        (lambda: Bare(ended=("", 1.0, False, False, {})), "did not end the episode"),
        (
            LengthRaises,
            f"its length failed: {Path(__file__)}:{line_of(LengthRaises.__len__, 'rows')}, in __len__: AttributeError",
        ),
        (lambda: gym.make("CartPole-v1"), "CartPoleEnv has no length. An env is a numbered list of tasks"),
        (
            GradeRaises,
            f"grading the completion '' of task 0 failed: {Path(__file__)}:"
            f"{line_of(GradeRaises.grade, 'split')}, in grade: IndexError: list index out of range",
        ),
        (
            GradeIsFloat,
            f"TypeError: GradeIsFloat.grade ({Path(__file__)}:{line_of(GradeIsFloat.grade, 'def')}) returned 1.0; "
            "expected a Grade",
        ),
        (
            TaskIsText,
            f"TaskIsText.task ({Path(__file__)}:{line_of(TaskIsText.task, 'def')}) returned '0+1='; expected a Task",
        ),
        (TaskRaises, "in task: KeyError: 'no such column'"),
        (RewardIsNaN, "gave the reward nan; expected a finite number"),
    ],
)
def test_a_mistake_is_named_with_its_line(make, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        check_env(make(), "mine")
    assert str(error.value).startswith("env='mine': ")


def test_the_reason_of_a_graders_failure_is_its_error():
    pool = GradingPool(GradeRaises, num_workers=1, timeout_s=30)
    try:
        pool.submit("key", 0, "")
        with pytest.raises(RuntimeError, match="the env failed in a grading worker") as error:
            while pool.pending:
                pool.collect(wait_s=30)
    finally:
        pool.close()
    assert reason(error.value) == "IndexError: list index out of range"
    of_a_worker = RayTaskError("sample", "Traceback ...", error.value)
    assert reason(RayTaskError("step", "Traceback ...", of_a_worker)) == "IndexError: list index out of range"


def test_the_reason_of_a_message_is_the_message():
    assert reason(RuntimeError("3 env runners failed; the last error: KeyError: 'x'")) == (
        "RuntimeError: 3 env runners failed; the last error: KeyError: 'x'"
    )
