"""Write the tables of losses and advantages into docs/method.md from their rows: `python docs/method_tables.py`."""

from __future__ import annotations

import math
import re
from pathlib import Path

from aspo_rllib.learner.advantages import ADVANTAGES, Advantage
from aspo_rllib.losses import LOSSES, Loss

PAGE = Path(__file__).with_name("method.md")

GRPO = ("as `grpo`", "as `grpo`")
# The weights at A > 0 and at A < 0. docs/method.md explains the symbols.
WEIGHTS = {
    "aspo": ("min(1/r, c); 0 if r > 1+h", "min(r, c); 0 if r < 1-l"),
    "grpo": ("r; 0 if r > 1+h", "r; 0 if r < 1-l or r > c"),
    "dapo": GRPO,
    "dr_grpo": GRPO,
    "no_is": ("1; 0 if r > 1+h", "1; 0 if r < 1-l or r > c"),
    "positive_mean": ("mean of r over the completion; 0 if r > 1+h", "as `grpo`"),
    "gspo": ("g; 0 if g > 1+h", "g; 0 if g < 1-l"),
    "luspo": ("as `gspo`", "as `gspo`"),
    "gmpo": ("exp(mean of min(log r, h)); 0 if log r > h", "exp(mean of max(log r, -l)); 0 if log r < -l"),
    "cispo": ("r, clamped to [1-l, 1+h]", "r, clamped to [1-l, 1+h]"),
    "gppo": ("min(r, 1+h)", "max(r, 1-l); 0 if r > c"),
    "ce_gppo": ("min(r, 1+h)", "r; 0.75 (1-l) if r < 1-l; 0 if r > c"),
    "topr": ("1", "min(q, 1)"),
    "topr_token": ("1", "min(r, 1)"),
    "sapo": ("4 r s (1-s), s = sigmoid(r - 1)", "4 r s (1-s), s = sigmoid(1.05 (r - 1))"),
    "dgpo": ("r; r ((1+h)/r)^½ if r > 1+h", "r; r (r/(1-l)) if r < 1-l"),
    "maspo": (
        "r; r exp(-(r-1)²/2s²) if r > 1, s = min(π_old^-0.3, 10) (1+0.03A)",
        "r; r exp(-(r-1)²/2s²) if r < 1, s = min(π_old^-0.3, 10) / (1+0.03\\|A\\|)",
    ),
    "vespo": ("q² exp(3 (1-q))", "q³ exp(2 (1-q))"),
    "dppo": ("r; 0 if π - π_old > 0.15", "r; 0 if π - π_old < -0.15"),
    "kl_cov": ("r; r - sign(log r)/A for the 0.2 % of tokens with the highest covariance", "the same"),
    "clip_cov": (
        "r; 0 if r > 1+h; 0 for 0.02 % of tokens, drawn from those with a covariance of 1 to 5",
        "r; 0 if r < 1-l; 0 for the drawn tokens",
    ),
    "double_sided": ("r; 0 outside of 1-l and 1+h", "r; 0 outside of 1-l and 1+h"),
    "sequence_masked": ("as `grpo`", "as `grpo`; 0 for the whole completion if mean of log 1/r > 0.5"),
}
FORMULAS = {
    "grpo": "(R - mean) / (std + 1e-6)",
    "dr_grpo": "R - mean",
    "rloo": "R - mean of the other completions",
    "maxrl": "(R - mean) / (mean + 1e-6)",
    "pass_at_k": "4 times the mean of max(R - best of 3 others, 0) over all choices of 3 other completions",
    "gdpo": "as `grpo` for each named reward; A is their weighted sum; then (A - mean) / (std + 1e-4) over the batch",
    "reinforce_plus_plus": "R - mean; then normalized to zero mean and unit variance over the tokens of the batch",
}


def number(value: float | None) -> str:
    """ "n/a" for a bound that the loss does not have, "none" for one that it has but does not use."""
    if value is None:
        return "n/a"
    return "none" if math.isinf(value) else f"{value:g}"


def loss_row(name: str, loss: Loss) -> str:
    return f"| `{name}` | {' | '.join(WEIGHTS[name])} | {loss.source} |"


def settings_row(name: str, loss: Loss) -> str:
    clip = "n/a" if loss.clip_low is None else f"{loss.clip_low:g}/{loss.clip_high:g}"
    cells = [clip, number(loss.weight_cap), loss.aggregation, number(loss.kl_coef)]
    return f"| `{name}` | {' | '.join(cells)} | `{loss.advantage}` | {loss.old_logprobs} |"


def advantage_row(name: str, advantage: Advantage) -> str:
    return f"| `{name}` | {FORMULAS[name]} | {advantage.source} |"


def tables() -> dict[str, str]:
    """The tables, by the name of their marker in the page."""
    losses = [
        "| `loss` | weight at A > 0 | weight at A < 0 | source |",
        "|---|---|---|---|",
        *(loss_row(name, loss) for name, loss in LOSSES.items()),
    ]
    settings = [
        "| `loss` | l/h | c | `aggregation` | `kl_coef` | `advantage` | ratio to |",
        "|---|---|---|---|---|---|---|",
        *(settings_row(name, loss) for name, loss in LOSSES.items()),
    ]
    advantages = [
        "| `advantage` | of a group | source |",
        "|---|---|---|",
        *(advantage_row(name, advantage) for name, advantage in ADVANTAGES.items()),
    ]
    found = {"losses": losses, "settings": settings, "advantages": advantages}
    return {name: "\n".join(rows) for name, rows in found.items()}


def page(text: str) -> str:
    """The page's text with current tables."""
    for name, table in tables().items():
        place = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
        text, found = place.subn(lambda match, table=table: f"{match[1]}{table}{match[2]}", text)
        assert found == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
