"""What a run shows: a line per iteration while it goes on, its curves and a few completions when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import gymnasium as gym
import pandas as pd
from ray.tune import Callback
from transformers import AutoModelForCausalLM, AutoTokenizer

_HEADER = f"{'trial':<12} {'iter':>9} {'accuracy':>9} {'held-out':>9} {'entropy':>8} {'clip+':>6} {'kl/old':>8} {'tok/s':>6} {'eta':>6}"


class ProgressCallback(Callback):
    """A Tune callback that prints one line per training iteration.

    iterations: how many each trial will run, for the ETA.
    """

    def __init__(self, iterations: int, stream: TextIO | None = None):
        self._iterations = iterations
        self._stream = stream or sys.stdout
        self._held_out: dict[str, float] = {}
        self._header_due = True

    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        if self._header_due:
            self._print(_HEADER)
            if before := result.get("evaluation_at_start"):
                self._print(self._line(trial, 0, held_out=before["accuracy"]))
            self._header_due = False
        if "evaluation" in result:
            self._held_out[trial.trial_id] = result["evaluation"]["accuracy"]
        done = result["training_iteration"]
        seconds_left = (self._iterations - done) * result["time_total_s"] / done
        self._print(
            self._line(
                trial,
                done,
                accuracy=result["reward"]["accuracy"],
                held_out=result.get("evaluation", {}).get("accuracy"),
                entropy=result.get("entropy", {}).get("mean"),
                clip=result.get("clip", {}).get("pos_frac"),
                kl=result.get("kl", {}).get("old"),
                tokens_per_s=result["tokens"]["completion"] / result["time_this_iter_s"],
                eta=time.strftime("%M:%S" if seconds_left < 3600 else "%H:%M:%S", time.gmtime(seconds_left)),
            )
        )

    def _line(
        self,
        trial,
        done: int,
        *,
        accuracy: float | None = None,
        held_out: float | None = None,
        entropy: float | None = None,
        clip: float | None = None,
        kl: float | None = None,
        tokens_per_s: float | None = None,
        eta: str = "",
    ) -> str:
        numbers = (
            (accuracy, 9, ".3f"),
            (held_out, 9, ".3f"),
            (entropy, 8, ".3f"),
            (clip, 6, ".3f"),
            (kl, 8, ".4f"),
            (tokens_per_s, 6, ".0f"),
        )
        cells = " ".join(" " * width if value is None else f"{value:>{width}{form}}" for value, width, form in numbers)
        return f"{trial.trial_id:<12} {done:>4}/{self._iterations:<4} {cells} {eta:>6}"

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def plot_curves(progress: pd.DataFrame, path: Path, title: str) -> None:
    """Draw a run's accuracy, entropy, token weights and clip fractions over its iterations into a PNG.

    progress: a trial's progress.csv, as Tune's CSV logger writes it.
    """
    # Agg: figures for files, wherever this runs.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
            start = f"{column.split('/')[0]}_at_start/accuracy"
            if start in progress:
                known.loc[-1] = [0, progress[start].dropna().iloc[0]]
                known = known.sort_values("training_iteration")
            marker = "o" if column.startswith("evaluation") else None
            axes.plot(known["training_iteration"], known[column], style, marker=marker, label=name)
        axes.set(xlabel="iteration", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def greedy_completions(model: str, env: gym.Env, indices: Sequence[int], max_completion_tokens: int) -> list[str]:
    """What the model in a Hugging Face folder most likely answers to these tasks of a text env."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    hf_model = AutoModelForCausalLM.from_pretrained(model)
    completions = []
    for index in indices:
        prompt, _ = env.reset(options={"index": index})
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        output = hf_model.generate(**inputs, max_new_tokens=max_completion_tokens, do_sample=False)
        completions.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return completions
