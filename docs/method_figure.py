"""Draw docs/method.png, the token weights of a few losses: `python docs/method_figure.py`."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from aspo_rllib.losses import LOSSES, policy_loss

WEIGHT_CAP = 3.0
OLD_PROB = 0.1  # of every token in the panels over r: up to r = 10 the new probability is one
LOGIT_SHIFT = -1.0
# A wide curve under thin broken ones: those that coincide stay visible, without colours too.
STYLES = {
    "aspo": {"color": "#d55e00", "linewidth": 5.5, "alpha": 0.55, "solid_capstyle": "butt"},
    "grpo": {"color": "black", "linewidth": 1.8, "linestyle": (0, (5, 2)), "zorder": 3},
    "no_is": {"color": "#0072b2", "linewidth": 1.8, "linestyle": (0, (7, 2, 1.5, 2))},
    "cispo": {"color": "#777777", "linewidth": 1.8, "linestyle": (0, (1, 1.4))},
}
GUIDE = {"color": "black", "linewidth": 0.7, "alpha": 0.5, "zorder": 0}


def token_weights(loss: str, ratios: Tensor, *, advantage: float, old_probs: Tensor | float = OLD_PROB) -> Tensor:
    """The weight `[N]` of tokens at `ratios` `[N]`, as the gradient of `policy_loss` shows it: grad / -advantage.

    Each token is a response of its own, under the published settings of `LOSSES[loss]` and the cap `WEIGHT_CAP`.
    """
    method = LOSSES[loss]
    old_logprobs = torch.as_tensor(old_probs, dtype=torch.float64).log().expand_as(ratios).unsqueeze(-1)
    logprobs = (old_logprobs + ratios.log().unsqueeze(-1)).requires_grad_()
    out = policy_loss(
        logprobs,
        old_logprobs,
        torch.full_like(ratios, advantage),
        torch.ones_like(logprobs, dtype=torch.bool),
        loss=method.token_weight,
        coefficients=torch.ones_like(logprobs),
        clip_low=method.clip_low,
        clip_high=method.clip_high,
        weight_cap=WEIGHT_CAP,
    )
    out.loss.backward()
    return logprobs.grad.squeeze(-1) / -advantage


def ratios_to_draw() -> Tensor:
    """Ratios from 0.1 to 6, with both sides of every edge, so that jumps are upright."""
    edges = {1 / WEIGHT_CAP, WEIGHT_CAP}
    for name in STYLES:
        edges |= {1 - LOSSES[name].clip_low, 1 + LOSSES[name].clip_high}
    sides = [edge * (1 + side) for edge in edges if edge > 0 for side in (-1e-9, 1e-9)]
    grid = torch.linspace(math.log(0.1), math.log(6), 400, dtype=torch.float64).exp()
    return torch.cat([grid, torch.tensor(sides, dtype=torch.float64)]).sort().values


def ratio_after_shift(old_probs: Tensor, shift: float) -> Tensor:
    """r of tokens `[N]` when their logit moves by `shift` and those of all other tokens stay: exact for a softmax."""
    return (old_probs.logit() + shift).sigmoid() / old_probs


def draw_over_ratio(axes: Axes, advantage: float) -> None:
    """The weights over r, for one sign of the advantage."""
    ratios = ratios_to_draw()
    for name, style in STYLES.items():
        axes.plot(ratios, token_weights(name, ratios, advantage=advantage), label=name, **style)
    grpo = LOSSES["grpo"]
    if advantage > 0:
        marks = {1 / WEIGHT_CAP: "1/c", 1 + grpo.clip_high: f"clip {1 + grpo.clip_high:g}"}
    else:
        marks = {1 - grpo.clip_low: f"clip {1 - grpo.clip_low:g}", WEIGHT_CAP: "c"}
    for x, text in marks.items():
        axes.axvline(x, **GUIDE)
        axes.text(x * 1.04, 4.75, text)
    axes.axhline(WEIGHT_CAP, **GUIDE)
    axes.text(0.105, WEIGHT_CAP + 0.12, f"cap c = {WEIGHT_CAP:g}")
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.set(xlim=(0.1, 6), ylim=(-0.12, 5.2), xlabel="ratio r = new / old probability")


def draw_over_old_prob(axes: Axes) -> None:
    """The weights of positive tokens over their old probability, after the same shift of their logits."""
    old_probs = torch.linspace(1e-3, 1 - 1e-3, 400, dtype=torch.float64)
    ratios = ratio_after_shift(old_probs, LOGIT_SHIFT)
    for name, style in STYLES.items():
        axes.plot(old_probs, token_weights(name, ratios, advantage=1.0, old_probs=old_probs), **style)
    axes.axhline(WEIGHT_CAP, **GUIDE)
    axes.set(xlim=(0, 1), xlabel="old probability of the token")


def draw(path: Path) -> None:
    """Write the figure as a PNG."""
    figure = Figure(figsize=(11, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    positive, negative, by_prob = figure.subplots(1, 3, sharey=True)
    draw_over_ratio(positive, 1.0)
    draw_over_ratio(negative, -1.0)
    draw_over_old_prob(by_prob)
    positive.set(title="A > 0", ylabel="token weight w")
    negative.set_title("A < 0")
    by_prob.set_title(f"A > 0, its logit has fallen by {-LOGIT_SHIFT:g}")
    figure.legend(*positive.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    draw(Path(__file__).with_name("method.png"))
