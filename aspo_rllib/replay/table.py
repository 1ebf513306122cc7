"""A replay as text: a line per optimizer step, then the completions and tokens that weigh most in one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from aspo_rllib.replay.recorder import Step
from aspo_rllib.replay.replaying import Replay

GRAD_NORM = "optim/grad_norm"
COLUMNS = {
    "loss": "learners/default_policy/total_loss",
    "grad norm": GRAD_NORM,
    "ratio": "ratio/mean",
    "min": "ratio/min",
    "max": "ratio/max",
    "clip+": "clip/pos_frac",
    "clip-": "clip/neg_frac",
    "kl/old": "kl/old",
    "kl/ref": "kl/ref",
}
_WIDTH = 11
_BEFORE, _AFTER = 12, 6  # tokens that are shown around one
_TEXT_WIDTH = 100  # characters of a prompt or of a completion


def describe_start(replay: Replay) -> str:
    """Which weights the replay began with, and how far they are from the run's."""
    start, wanted = replay.start, replay.batch.weights_version
    where = "the initial model" if start.path is None else f"{_short(start.path)}, of iteration {start.iteration}"
    off = wanted - start.weights_version
    if not off:
        return f"weights     {where}: version {wanted}, as in the run"
    side = "before" if off > 0 else "after"
    return (
        f"weights     {where}: version {start.weights_version}, {abs(off)} update{'s' * (abs(off) > 1)} {side} the "
        f"run's version {wanted}. The numbers differ from the run's."
    )


def describe_steps(replay: Replay) -> str:
    """A line per optimizer step, one for the whole update and, where its result is known, one for the run's own."""
    shown = {h: name for h, name in COLUMNS.items() if any(name in s.metrics for s in replay.steps) or h == "grad norm"}
    lines = ["step".rjust(6) + "".join(heading.rjust(_WIDTH) for heading in shown)]
    rows: list[tuple[str, Mapping[str, Any]]] = [
        (str(number), step.metrics | {GRAD_NORM: step.grad_norm}) for number, step in enumerate(replay.steps, start=1)
    ]
    rows.append(("all", replay.metrics))
    if replay.of_run:
        rows.append(("run", replay.of_run))
    return "\n".join(lines + [_line(title, values, shown) for title, values in rows])


def _line(title: str, values: Mapping[str, Any], shown: Mapping[str, str]) -> str:
    cells = (f"{values[name]:.4g}" if name in values else "-" for name in shown.values())
    return title.rjust(6) + "".join(cell.rjust(_WIDTH) for cell in cells)


def largest_step(replay: Replay) -> int:
    """The number, from 1, of the step with the largest gradient norm; one that is not finite counts as larger."""
    norms = [step.grad_norm if math.isfinite(step.grad_norm) else math.inf for step in replay.steps]
    return int(np.argmax(norms)) + 1


def describe_step(replay: Replay, number: int, tokenizer: PreTrainedTokenizerBase, top: int) -> str:
    """The completions and the tokens with the largest parts of a step's gradient norm. number: from 1."""
    step = replay.steps[number - 1]
    finite = math.isfinite(step.grad_norm)
    total = sum(float(row.parts.sum()) for row in step.rows)
    head = f"step {number}: gradient norm {step.grad_norm:.4g}"
    head += f"; the parts of all tokens add up to {total:.4g}" if finite else "; sizes of dL/dlogp instead of parts"
    return "\n".join(
        [
            head,
            "",
            f"{'part':>10}{'task':>9}{'sample':>8}{'reward':>9}{'advantage':>11}{'tokens':>8}  completion",
            *_completions(replay, step, tokenizer, top),
            "",
            f"{'part':>10}{'task':>9}{'sample':>8}{'token':>7}{'p':>9}{'ratio':>9}{'weight':>9}{'advantage':>11}  text",
            *_tokens(replay, step, tokenizer, top),
        ]
    )


def _completions(replay: Replay, step: Step, tokenizer: PreTrainedTokenizerBase, top: int) -> Iterator[str]:
    for row in sorted(step.rows, key=lambda row: -abs(float(row.parts.sum())))[:top]:
        group, sample, rollout = replay.rollouts[row.number]
        prompt, completion = (_cut(_text(ids, tokenizer)) for ids in (rollout.prompt_ids, rollout.completion_ids))
        yield (
            f"{row.parts.sum():10.4g}{group.index:9}{sample:8}{rollout.reward:9.3g}"
            f"{replay.advantages[row.number]:11.3g}{len(row.parts):8}  {prompt} -> {completion}"
        )


def _tokens(replay: Replay, step: Step, tokenizer: PreTrainedTokenizerBase, top: int) -> Iterator[str]:
    places = [(row, t) for row in step.rows for t in range(len(row.parts))]
    for row, t in sorted(places, key=lambda place: -abs(place[0].parts[place[1]]))[:top]:
        group, sample, rollout = replay.rollouts[row.number]
        yield (
            f"{row.parts[t]:10.4g}{group.index:9}{sample:8}{t + 1:7}{math.exp(row.logprobs[t]):9.3g}"
            f"{row.ratios[t]:9.3g}{row.token_weights[t]:9.3g}{replay.advantages[row.number]:11.3g}  "
            f"{_around(rollout.prompt_ids, rollout.completion_ids, t, tokenizer)}"
        )


def _around(prompt: np.ndarray, completion: np.ndarray, t: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """A token in its text, in double square brackets."""
    ids, at = np.concatenate([prompt, completion]), len(prompt) + t
    parts = ids[max(0, at - _BEFORE) : at], ids[at : at + 1], ids[at + 1 : at + 1 + _AFTER]
    before, token, after = (_text(part, tokenizer) for part in parts)
    return f"{before}[[{token}]]{after}"


def _cut(text: str) -> str:
    half = _TEXT_WIDTH // 2
    return text if len(text) <= _TEXT_WIDTH else f"{text[:half]} ... {text[-half:]}"


def _text(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokens' text in one line."""
    text = str(tokenizer.decode(ids))
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def _short(path: Path) -> str:
    return path.name or str(path)
