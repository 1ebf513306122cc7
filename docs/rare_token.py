"""Show when the flip of ASPO helps a rare good token: `python docs/rare_token.py` draws docs/rare_token.png.

A softmax policy chooses one of three actions in each of two contexts. The first action is rare and good in context 0.
All actions of a batch are weighed by their exact probabilities, so that nothing is sampled and nothing is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from aspo_rllib.losses import LOSSES, policy_loss

METHODS = ("aspo", "no_is", "grpo")
CLIP = 0.2
WEIGHT_CAP = 3.0
BATCHES = 10
PROBS = [[0.05, 0.55, 0.40], [0.40, 0.20, 0.40]]  # of the actions, before training, in each context
REWARDS = [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]  # the action that is rare and good in context 0 is bad in context 1
CONTEXT_FRACS = [0.1, 0.9]  # of the prompts
STYLES = {
    "aspo": {"color": "#d55e00", "linewidth": 2.5},
    "no_is": {"color": "#0072b2", "linewidth": 1.8, "linestyle": (0, (7, 2, 1.5, 2))},
    "grpo": {"color": "black", "linewidth": 1.8, "linestyle": (0, (5, 2))},
}


@dataclass(frozen=True)
class Setting:
    """How the policy is trained.

    Attributes:
        coupling: how strongly an action's logit depends on the parameter that both contexts share. 0: not at all.
        steps: optimizer steps per batch, >= 1.
        lr: step size of gradient descent.
    """

    coupling: float
    steps: int
    lr: float


ALONE = Setting(coupling=0.0, steps=16, lr=1.0)
PUSHED_DOWN = Setting(coupling=2.0, steps=16, lr=1.0)
TABLE = (
    *(ALONE, PUSHED_DOWN),
    Setting(coupling=2.0, steps=1, lr=1.0),
    Setting(coupling=2.0, steps=16, lr=0.2),
    Setting(coupling=2.0, steps=64, lr=0.5),
    Setting(coupling=1.0, steps=16, lr=1.0),
)


@cache
def rare_token_path(loss: str, setting: Setting, batches: int = BATCHES) -> Tensor:
    """The probability of the rare good action in context 0: `[batches, steps + 1]`, before and after each step."""
    own = torch.tensor(PROBS, dtype=torch.float64).log().requires_grad_()  # [contexts, actions]
    shared = torch.zeros(3, dtype=torch.float64, requires_grad=True)  # [actions]
    optimizer = torch.optim.SGD([own, shared], lr=setting.lr)
    path = []
    for _ in range(batches):
        old_logprobs = (own + setting.coupling * shared).log_softmax(-1).detach()
        path.append([float(old_logprobs[0, 0].exp())])
        for _ in range(setting.steps):
            logprobs = (own + setting.coupling * shared).log_softmax(-1)
            optimizer.zero_grad()
            exact_loss(loss, logprobs, old_logprobs).backward()
            optimizer.step()
            path[-1].append(float((own + setting.coupling * shared).detach().softmax(-1)[0, 0]))
    return torch.tensor(path, dtype=torch.float64)


def exact_loss(loss: str, logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """The expected loss over contexts and actions `[contexts, actions]`. Each action is a completion of one token."""
    old_probs, rewards = old_logprobs.exp(), torch.tensor(REWARDS, dtype=torch.float64)
    mean = (old_probs * rewards).sum(-1, keepdim=True)
    std = (old_probs * (rewards - mean).square()).sum(-1, keepdim=True).sqrt()
    fracs = torch.tensor(CONTEXT_FRACS, dtype=torch.float64).unsqueeze(-1)
    return policy_loss(
        logprobs.reshape(-1, 1),
        old_logprobs.reshape(-1, 1),
        ((rewards - mean) / std).flatten(),
        torch.ones(logprobs.numel(), 1, dtype=torch.bool),
        loss=LOSSES[loss].token_weight,
        coefficients=(fracs * old_probs).reshape(-1, 1),
        clip_low=CLIP,
        clip_high=CLIP,
        weight_cap=WEIGHT_CAP,
    ).loss


def draw_probs(axes: Axes, setting: Setting, title: str) -> None:
    """The probability of the rare good action after each batch."""
    for name in METHODS:
        path = rare_token_path(name, setting)
        axes.plot(range(BATCHES + 1), [*path[:, 0], path[-1, -1]], label=name, **STYLES[name])
    axes.set(title=title, xlabel="batch", ylim=(0, 1), xlim=(0, BATCHES))


def draw_ratios(axes: Axes, setting: Setting, title: str) -> None:
    """The ratio of the rare good action after each step of the first batch."""
    for name in METHODS:
        path = rare_token_path(name, setting, batches=1)[0]
        axes.plot(range(setting.steps + 1), path / path[0], **STYLES[name])
    axes.axhline(1, color="black", linewidth=0.7, alpha=0.5)
    axes.set_yscale("log")
    axes.set_yticks([0.1, 0.3, 1], ["0.1", "0.3", "1"])
    axes.minorticks_off()
    axes.set_xticks(range(0, setting.steps + 1, 4))
    axes.set(title=title, xlabel="step of the first batch", ylabel="ratio r", xlim=(0, setting.steps))


def draw(path: Path) -> None:
    """Write the figure as a PNG."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    alone, pushed_down, ratios = figure.subplots(1, 3)
    draw_probs(alone, ALONE, "nothing pushes it down")
    draw_probs(pushed_down, PUSHED_DOWN, "another context pushes it down")
    draw_ratios(ratios, PUSHED_DOWN, "another context pushes it down")
    alone.set_ylabel("probability of the rare good action")
    figure.legend(*alone.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


def table() -> str:
    """A Markdown table: the probability of the rare good action after ten batches, by setting and method."""
    lines = ["| coupling | steps per batch | step size | " + " | ".join(f"`{name}`" for name in METHODS) + " |"]
    lines.append("|---" * (3 + len(METHODS)) + "|")
    for setting in TABLE:
        finals = [float(rare_token_path(name, setting)[-1, -1]) for name in METHODS]
        cells = [f"{setting.coupling:g}", str(setting.steps), f"{setting.lr:g}", *(f"{p:.3f}" for p in finals)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    draw(Path(__file__).with_name("rare_token.png"))
    print(table())
