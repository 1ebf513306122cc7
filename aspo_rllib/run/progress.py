"""Output of a run: a line per iteration while it trains, and its curves and some completions at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import gymnasium as gym
import pandas as pd
import torch
from ray.tune import Callback
from ray.tune.experiment import Trial
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from aspo_rllib.rollout.prompts import PromptEncoder
from aspo_rllib.run.profiling import StageTimes

# column: heading, width, format
_COLUMNS = {
    "accuracy": ("accuracy", 9, ".3f"),
    "held_out": ("held-out", 9, ".3f"),
    "entropy": ("entropy", 8, ".3f"),
    "clip": ("clip+", 6, ".3f"),
    "kl": ("kl/old", 8, ".4f"),
    "tokens_per_s": ("tok/s", 6, ".0f"),
    "eta": ("eta", 8, "s"),
}


class ProgressCallback(Callback):
    """A Tune callback that prints one line per training iteration, and a table of the stages' times at the end.

    iterations: number of iterations of each trial, for the ETA.
    stream: where to print; None: sys.stdout.
    """

    def __init__(self, iterations: int, stream: TextIO | None = None):
        self._iterations = iterations
        self._stream = stream  # sys.stdout itself cannot be stored here, because Tune pickles callbacks
        self._trials_shown: set[str] = set()
        self._times = StageTimes()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        done, evaluation = result["training_iteration"], result.get("evaluation", {})
        self._times.add(result)
        if not self._trials_shown:
            headings = " ".join(f"{heading:>{width}}" for heading, width, _ in _COLUMNS.values())
            self._print(f"{'trial':<16} {'iter':>9} {headings}")
        if trial.trial_id not in self._trials_shown and "evaluation_at_start" in result:
            self._line(trial, 0, held_out=result["evaluation_at_start"].get("accuracy"))
        self._trials_shown.add(trial.trial_id)
        seconds_left = int((self._iterations - done) * result["time_total_s"] / done)
        self._line(
            trial,
            done,
            accuracy=result["reward"].get("accuracy"),
            held_out=evaluation.get("accuracy") if evaluation.get("iteration") == done else None,
            entropy=_known(result, "entropy", "mean"),
            clip=_known(result, "clip", "pos_frac"),
            kl=_known(result, "kl", "old"),
            tokens_per_s=result["tokens"]["completion"] / result["time_this_iter_s"],
            eta=str(timedelta(seconds=seconds_left)),
            note=_without_update(result),
        )

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        if self._times.iterations:  # 0 if the resumed run was already finished
            self._print(self._times.table())

    def _line(self, trial: Trial, done: int, *, note: str = "", **values: float | str | None) -> None:
        cells = [
            f"{values[name]:>{width}{form}}" if values.get(name) is not None else " " * width
            for name, (_, width, form) in _COLUMNS.items()
        ]
        name = trial.custom_trial_name or trial.trial_id
        self._print(f"{name:<16} {done:>4}/{self._iterations:<4} {' '.join(cells)}  {note}".rstrip())

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _known(result: Mapping[str, Any], group: str, name: str) -> float | None:
    """A metric of the update; None if there was no update, for which RLlib writes NaN after the first one."""
    return result.get(group, {}).get(name) if _was_updated(result) else None


def _was_updated(result: Mapping[str, Any]) -> bool:
    return not math.isnan(result["time"].get("update_s", math.nan))


def _without_update(result: Mapping[str, Any]) -> str:
    """What the line of an iteration without an update says of it."""
    if _was_updated(result):
        return ""
    groups = result.get("groups", {})
    if "all_right_frac" not in groups:
        return "no update: the rewards within each group are equal"
    right, wrong = groups["all_right_frac"], groups["all_wrong_frac"]
    return f"no update: {right:.0%} of the groups all right, {wrong:.0%} all wrong"


def plot_curves(progress: pd.DataFrame, path: Path, title: str) -> None:
    """Draw a run's accuracy, entropy, token weights and clip fractions over its iterations into a PNG.

    progress: a trial's progress.csv, as Tune's CSV logger writes it.
    """
    # The Agg backend draws into files and needs no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = {
        "accuracy": {"reward/accuracy": "training prompts", "evaluation/accuracy": "held-out prompts"},
        "entropy (nats)": {"entropy/mean": "mean token entropy"},
        "mean token weight": {"weight/pos_mean": "A > 0", "weight/neg_mean": "A < 0"},
        "share of tokens": {
            "clip/pos_frac": "clipped, A > 0",
            "clip/neg_frac": "clipped, A < 0",
            "cap/pos_frac": "capped, A > 0",
            "cap/neg_frac": "capped, A < 0",
        },
    }
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (label, series) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for (column, name), style in zip(series.items(), ("-", "--", ":", "-."), strict=False):
            if column not in progress:
                continue
            known = progress[["training_iteration", column]].dropna()
            if column.startswith("evaluation"):
                known = evaluations(progress)[["training_iteration", column]]
            marker = "o" if column.startswith("evaluation") else None
            axes.plot(known["training_iteration"], known[column], style, marker=marker, label=name)
        axes.set(xlabel="iteration", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        # Above the panel, where it covers no curve.
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(series), fontsize=8)
    figure.savefig(path, dpi=130)


def evaluations(progress: pd.DataFrame) -> pd.DataFrame:
    """The rows of a progress.csv with a new evaluation; the one before training is iteration 0."""
    rows = progress[progress["evaluation/iteration"] == progress["training_iteration"]]
    if not progress.columns.str.startswith("evaluation_at_start/").any():
        return rows
    start = progress.iloc[[0]].assign(training_iteration=0)
    for column in progress.columns[progress.columns.str.startswith("evaluation_at_start/")]:
        start[column.replace("_at_start", "")] = start[column]
    return pd.concat([start, rows], ignore_index=True)


def greedy_completions(
    model: str, env: gym.Env[str, str], indices: Sequence[int], max_completion_tokens: int
) -> list[str]:
    """The greedy completions (temperature 0) of the model in a Hugging Face folder for these tasks of a text env."""
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model)
    hf_model: Any = AutoModelForCausalLM.from_pretrained(model)
    completions = []
    prompts = PromptEncoder(env, tokenizer)
    for index in indices:
        ids = torch.from_numpy(prompts.encode(index).ids[None]).long()
        output = hf_model.generate(ids, max_new_tokens=max_completion_tokens, do_sample=False)
        answer = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        assert isinstance(answer, str)  # a list only for several answers
        completions.append(answer)
    return completions
