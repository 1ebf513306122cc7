"""The evaluation sets: one set of prompts, or several with names, each with its env and sampling settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aspo_rllib.config.eval_sets import set_configs
from aspo_rllib.rollout.prompts import PromptEncoder

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings


@dataclass(frozen=True)
class EvaluationSet:
    """The prompts of one set, on the driver.

    config: a complete evaluation config, whose env and sampling settings are used.
    """

    config: ASPOSettings
    prompts: PromptEncoder

    def tasks(self) -> tuple[list[tuple[int, int]], int]:
        """The first `evaluation_duration` tasks as (position, index), and the number of those that were too long.

        Tasks that are too long are left out. Position and index are equal, so that all evaluations use the same seeds.
        """
        asked = range(min(self.config.evaluation_duration, len(self.prompts)))
        limit = self.config.max_prompt_tokens
        tasks = [(i, i) for i in asked if self.prompts.num_tokens(i) <= limit]
        return tasks, len(asked) - len(tasks)


def open_sets(config: ASPOSettings, make_prompts: Callable[[ASPOSettings], PromptEncoder]) -> dict[str, EvaluationSet]:
    """Create the prompts of every evaluation set of a training config."""
    sets = {}
    for name, set_config in set_configs(config).items():
        try:
            sets[name] = EvaluationSet(set_config, make_prompts(set_config))
        except Exception as error:
            error.add_note(f"This is the env of the evaluation set {name!r}.")
            raise
    return sets


def load_report(prompts: PromptEncoder, sets: Mapping[str, EvaluationSet]) -> dict[str, Any]:
    """Report how the data of the training env and of every evaluation set were loaded, and which questions they share.

    Envs that do not read data have no entry.
    """
    train = _questions(prompts)
    report: dict[str, Any] = {"train": _reports(prompts), "evaluation": {}, "shared_questions": {}}
    for name, evaluation_set in sets.items():
        report["evaluation"][name] = _reports(evaluation_set.prompts)
        asked = _questions(evaluation_set.prompts)
        if train is not None and asked is not None:
            asked = asked[: evaluation_set.config.evaluation_duration]
            report["shared_questions"][name] = {"shared": int(np.isin(asked, train).sum()), "of": len(asked)}
    return report


def print_load_report(report: dict[str, Any]) -> None:
    """Print the load report, and warn for every evaluation set that shares questions with the training set."""
    for label, reports in {"data": report["train"], **report["evaluation"]}.items():
        for name, one in reports.items():
            print(f"{label}{' ' if name else ''}{name}: {one['text']}", flush=True)
    for name, counts in report["shared_questions"].items():
        if counts["shared"]:
            warnings.warn(
                f"{counts['shared']} of the {counts['of']} questions of the evaluation set {name!r} are in the "
                "training set, too: its accuracy does not measure performance on new questions. Use held_out_frac to "
                "exclude a share of the questions from training.",
                stacklevel=2,
            )


def _reports(prompts: PromptEncoder) -> dict[str, Any]:
    reports: dict[str, Any] = getattr(prompts.env.unwrapped, "load_reports", dict)()
    return {name: {"text": report.details(), **asdict(report)} for name, report in reports.items()}


def _questions(prompts: PromptEncoder) -> np.ndarray | None:
    questions = getattr(prompts.env.unwrapped, "questions", None)
    return None if questions is None else questions()
