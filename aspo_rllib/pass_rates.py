"""How often each prompt was solved, written down for the next run's choice of tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ray.rllib.callbacks.callbacks import RLlibCallback

from aspo_rllib.trial_folder import trial_folder

if TYPE_CHECKING:
    from aspo_rllib.aspo import ASPO

FILE_NAME = "pass_rates.jsonl"


class PassRatesCallback(RLlibCallback):
    """Appends the pass rates of every iteration's prompts to `pass_rates.jsonl` in the trial's folder.

    `.callbacks(PassRatesCallback)` in one run, `env_config={"pass_rates": ".../pass_rates.jsonl", "pass_rate_range":
    (0.1, 0.9)}` in the next: envs over data then leave out what was too easy or too hard. A prompt that was asked
    several times has several rows; readers average them, weighted by `num_samples`.
    """

    def on_train_result(self, *, algorithm: ASPO, result: dict[str, Any], **kwargs: Any) -> None:
        with (trial_folder(algorithm) / FILE_NAME).open("a", encoding="utf-8") as file:
            for group in algorithm.latest_groups:
                verdicts = [rollout.correct for rollout in group.rollouts]
                row = {
                    "prompt": group.prompt,
                    "pass_rate": sum(verdicts) / len(verdicts),
                    "num_samples": len(verdicts),
                    "training_iteration": result["training_iteration"],
                }
                file.write(json.dumps(row) + "\n")
