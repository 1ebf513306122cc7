"""verl: `custom_reward_function.path=envs/adapters/verl.py custom_reward_function.name=compute_score`."""

from functools import lru_cache
from typing import Any

from envs.adapters.grade import grade
from envs.grading.answers import Answer
from envs.layouts import to_task


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Grade one completion; verl takes "score" as the reward and logs the rest.

    Raises:
        ValueError: for a ground truth that is neither a gold answer nor the tests of a program.
        RuntimeError: when the grader itself failed twice. A reward of 0 would be wrong, and verl has no value for this
            case.
    """
    verdict = grade(_answer(ground_truth), solution_str)
    if verdict.status == "sandbox_error":
        raise RuntimeError(f"the grader failed on a completion of {data_source}")
    return {"score": verdict.reward, "acc": verdict.correct, "pred": verdict.extracted, "status": verdict.status}


@lru_cache(maxsize=1024)
def _answer(ground_truth: Any) -> Answer:
    # A row must have a prompt, but grading does not use it.
    return to_task({"prompt": "-", "reward_model": {"ground_truth": ground_truth}}).answer
