"""Write the tables of losses and advantages into docs/method.md from their rows: `python docs/method_tables.py`."""

from __future__ import annotations

import math
import re
from pathlib import Path

from aspo_rllib.learner.advantages import ADVANTAGES, Advantage
from aspo_rllib.losses import LOSSES, Loss

PAGE = Path(__file__).with_name("method.md")

# The weight at A > 0; at A < 0. l, h: clip_low, clip_high; c: weight_cap.
WEIGHTS = {
    "aspo": "min(1/r, c), 0 above 1+h; min(r, c), 0 below 1-l",
    "grpo": "r, 0 above 1+h; r, 0 below 1-l and above c",
    "dapo": "as `grpo`",
    "dr_grpo": "as `grpo`",
    "no_is": "1 under `grpo`'s mask",
    "positive_mean": "the response's mean r; r; under `grpo`'s mask",
    "gspo": "s = exp(mean log r), 0 if s > 1+h; 0 if s < 1-l",
    "luspo": "as `gspo`",
    "gmpo": "exp(mean of clipped log r), 0 if log r > h; 0 if log r < -l",
    "cispo": "r within 1-l and 1+h, no mask",
    "gppo": "min(r, 1+h); max(r, 1-l), 0 above c",
    "ce_gppo": "as `gppo`, the lower edge times 0.75, the upper times 1",
    "topr": "1; min(R, 1), R the product of the completion's r",
    "topr_token": "1; min(r, 1)",
    "sapo": "4 r s (1-s), s = sigmoid(t (r-1)), t = 1; 1.05",
    "dgpo": "r up to u = 1+h, then r (u/r)^½; r down to v = 1-l, then r (r/v)",
    "maspo": "r exp(-(r-1)²/2s²) if r > 1; if r < 1; s = π_old^-0.3 up to 10, times 1+0.03A; over 1+0.03\\|A\\|",
    "vespo": "R² exp(3(1-R)); R³ exp(2(1-R)), R the product of the completion's r",
    "dppo": "r, 0 if π - π_old > 0.15; 0 if < -0.15",
    "kl_cov": "r, less sign(log r)/A for the 0.2 % of tokens of the highest covariance",
    "clip_cov": "r, 0 above 1+h; r, 0 below 1-l; 0 for 0.02 % drawn where the covariance is 1 to 5",
    "double_sided": "r, 0 outside of 1-l and 1+h",
    "sequence_masked": "as `grpo`; 0 for the completion if mean log 1/r > 0.5",
}
FORMULAS = {
    "grpo": "(R - mean) / (std + 1e-6)",
    "dr_grpo": "R - mean",
    "rloo": "R - mean of the others",
    "maxrl": "(R - mean) / (mean + 1e-6)",
    "pass_at_k": "4 times the mean gain over the best of 3 others",
    "gdpo": "as `grpo` for each named reward, weighted and added; then (A - mean) / (std + 1e-4) over the batch",
    "reinforce_plus_plus": "R - mean; then zero mean and unit variance over the batch's tokens",
}


def number(value: float | None) -> str:
    """For people: what a loss does not have, and what it does not use but can be given."""
    if value is None:
        return "n/a"
    return "none" if math.isinf(value) else f"{value:g}"


def loss_row(name: str, loss: Loss) -> str:
    clip = "n/a" if loss.clip_low is None else f"{loss.clip_low:g}/{loss.clip_high:g}"
    cells = [clip, number(loss.weight_cap), loss.aggregation, number(loss.kl_coef)]
    cells += [f"`{loss.advantage}`", loss.old_logprobs, loss.source]
    return f"| `{name}` | {WEIGHTS[name]} | {' | '.join(cells)} |"


def advantage_row(name: str, advantage: Advantage) -> str:
    return f"| `{name}` | {FORMULAS[name]} | {advantage.source} |"


def tables() -> dict[str, str]:
    """The tables by the name of their place in the page."""
    losses = [
        "| `loss` | weight at A > 0; at A < 0 | l/h | c | aggregation | KL | advantage | ratio to | from |",
        "|---|---|---|---|---|---|---|---|---|",
        *(loss_row(name, loss) for name, loss in LOSSES.items()),
    ]
    advantages = [
        "| `advantage` | of a group | from |",
        "|---|---|---|",
        *(advantage_row(name, advantage) for name, advantage in ADVANTAGES.items()),
    ]
    return {"losses": "\n".join(losses), "advantages": "\n".join(advantages)}


def page(text: str) -> str:
    """The page with its tables made anew."""
    for name, table in tables().items():
        place = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
        text, found = place.subn(lambda match, table=table: f"{match[1]}{table}{match[2]}", text)
        assert found == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
