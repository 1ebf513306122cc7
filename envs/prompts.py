"""Prompts without answers, judged by reward functions alone."""

from typing import Any

from envs.grading.answers import NoAnswer
from envs.reward_functions import summed
from envs.table_env import TableEnv
from envs.text_env import Grade, Task


class _NoGrader:
    def close(self) -> None:
        """Nothing to end."""


class PromptsEnv(TableEnv):
    """Every row with a prompt is a task, and the sum of the reward functions is the reward. There is no verdict.

        PromptsEnv("prompts.jsonl", rewards=["mine:brevity", "mine:politeness"])
        PromptsEnv("mine.parquet", columns={"prompt": "instruction"}, rewards=[brevity])

    Args:
        data: as `MathEnv` takes it. The prompt is in the column "prompt", a text or chat messages, or in one of the
            usual columns for questions. Rows that repeat a prompt are left out, whatever their other columns.
        rewards: functions, as `envs.reward_functions.RewardFunctions` takes them; they also get the row's columns.
        system_prompt: for rows without a system message; "" means none, and also removes those of the rows.
        data_options: `split`, `columns`, `limit` and the other arguments of `envs.data.open_tasks`.

    Raises:
        ValueError: without `rewards`, and as `MathEnv`.
    """

    def __init__(self, data: Any = None, *, rewards: Any = (), system_prompt: str | None = None, **data_options: Any):
        if not rewards:
            raise ValueError(
                "rewards is missing: give PromptsEnv functions that judge a completion, for example "
                'rewards=["module:function"]; to compare with answers in the data, use aspo/Math-v0'
            )
        super().__init__(data, NoAnswer, _NoGrader(), system_prompt, data_options | {"rewards": rewards})
        self.reward_names = self._functions.names

    def grade(self, task: Task, completion: str) -> Grade:
        """The rewards of the functions, which get the completion after `answer_prefix`."""
        rewards = self._functions.rewards(task, completion)
        return Grade(summed(rewards), None, None, "ok", rewards)

    def graded(self, task: Task, completion: str) -> Grade:
        """The same: there is no grader whose reward would be added."""
        return self.grade(task, completion)
