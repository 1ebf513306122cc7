"""Records how often each prompt was solved, so that a later run can select its tasks by difficulty."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ray.rllib.callbacks.callbacks import RLlibCallback

from aspo_rllib.run.trial_folder import trial_folder

if TYPE_CHECKING:
    from aspo_rllib.run.base_algorithm import TextAlgorithm

FILE_NAME = "pass_rates.jsonl"


class PassRatesCallback(RLlibCallback):
    """Appends the pass rates of every iteration's prompts to `pass_rates.jsonl` in the trial's folder.

    Use `.callbacks(PassRatesCallback)` in one run and `env_config={"pass_rates": ".../pass_rates.jsonl",
    "pass_rate_range": (0.1, 0.9)}` in the next one: envs over data then exclude tasks that were too easy or too hard. A
    prompt that was sampled several times has several rows; their mean, weighted by `num_samples`, is used.
    """

    def on_train_result(self, *, algorithm: TextAlgorithm, result: dict[str, Any], **kwargs: Any) -> None:
        with (trial_folder(algorithm) / FILE_NAME).open("a", encoding="utf-8") as file:
            for group in algorithm.latest_groups:
                verdicts = [rollout.correct for rollout in group.rollouts if rollout.correct is not None]
                if not verdicts:
                    continue  # the env gives rewards without a verdict
                row = {
                    "prompt": group.prompt,
                    "pass_rate": sum(verdicts) / len(verdicts),
                    "num_samples": len(verdicts),
                    "training_iteration": result["training_iteration"],
                }
                file.write(json.dumps(row) + "\n")
