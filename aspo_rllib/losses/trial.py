"""Tests a user's token weight on a small example, to find a mistake before a run starts."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import TokenInputs
from aspo_rllib.losses.rows import Loss

# Two completions, of four and of three tokens: the ratios of the tokens, and the advantages of the completions.
_RATIOS = ((0.25, 0.9, 1.0, 4.0), (4.0, 1.0, 0.25, 1.0))
_ADVANTAGES = (1.0, -1.0)
_LENGTHS = (4, 3)


def example(loss: Loss) -> TokenInputs:
    """Inputs of two completions, with ratios on both sides of 1, both signs of the advantage, and padding."""
    old = torch.full((2, 4), -2.0)
    mask = torch.arange(4) < torch.tensor(_LENGTHS)[:, None]

    def bound(value: float | None) -> float:
        return math.inf if value is None else value

    return TokenInputs(
        logprobs=torch.where(mask, old + torch.tensor(_RATIOS).log(), 0.0),
        old_logprobs=torch.where(mask, old, 0.0),
        advantages=torch.where(mask, torch.tensor(_ADVANTAGES)[:, None], 0.0),
        loss_mask=mask,
        clip_low=bound(loss.clip_low),
        clip_high=bound(loss.clip_high),
        weight_cap=bound(loss.weight_cap),
    )


def check_token_weight(loss: Loss) -> None:
    """Raise ValueError with the function's name if its weights are not `[B, T]`, or not finite at unmasked tokens."""
    name, inputs = _name(loss.token_weight), example(loss)
    with torch.no_grad():
        try:
            weights = loss.token_weight(inputs)
        except Exception as error:
            raise ValueError(f"loss={name}: on a small example it raised {type(error).__name__}: {error}") from error
    if not isinstance(weights, Tensor) or weights.shape != inputs.logprobs.shape:
        got = f"shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else repr(weights)
        raise ValueError(
            f"loss={name}: it returned {got} for two completions of four tokens; expected one weight per token, a "
            f"tensor of shape {tuple(inputs.logprobs.shape)}, as x.logprobs has."
        )
    bad = (inputs.loss_mask & ~weights.isfinite()).nonzero().tolist()
    if bad:
        row, token = bad[0]
        raise ValueError(
            f"loss={name}: the weight of a token with ratio {inputs.ratio[row, token]:.3g} and advantage "
            f"{inputs.advantages[row, token]:g} is {weights[row, token]:g}; expected a finite number."
        )


def _name(function: Callable[[TokenInputs], Tensor]) -> str:
    """The function's name, with the file and line of its definition if they are known."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name
