"""TRL: `GRPOTrainer(reward_funcs=correctness_reward, ...)`."""

from typing import Any

from envs.adapters.grade import grade
from envs.layouts import to_task


def correctness_reward(prompts: list, completions: list, **columns: Any) -> list[float | None]:
    """Grade a batch by the columns of its data set, in any layout of `envs.layouts`.

    A completion on which the grader itself failed gets None, which TRL leaves out of the advantage.

    Raises:
        ValueError: for a row without a gold answer or tests.
    """
    return [_reward(prompts, completions, columns, i) for i in range(len(completions))]


def _reward(prompts: list, completions: list, columns: dict[str, Any], i: int) -> float | None:
    # TRL also passes arguments that are not columns of the data set. These are not lists with one item per completion.
    row = {name: values[i] for name, values in columns.items() if isinstance(values, list)}
    task = to_task({"prompt": prompts[i], **row})
    completion = completions[i]
    verdict = grade(task.answer, completion if isinstance(completion, str) else completion[-1]["content"])
    return None if verdict.status == "sandbox_error" else verdict.reward
