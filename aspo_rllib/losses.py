"""The loss family. Every method has the gradient `token_weight(r, A) * A * grad log pi`, so a method is one
small function from `TokenInputs` to a weight `[B, T]`, plus one row of `LOSSES` with its published settings.

To add a loss: write the function, add the row, add golden rows to `tests/test_losses.py`.
Shapes: B completions, T completion tokens, right-padded. r = pi_theta / pi_old of a token, A its advantage.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # e**20 = 4.9e8: far beyond every bound below, far from overflow in fp32
AGGREGATIONS = ("token", "sequence", "constant")


@dataclass(frozen=True)
class TokenInputs:
    """What a token weight may look at, all `[B, T]` and without gradient; the clip bounds may be floats."""

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    loss_mask: Tensor
    clip_low: float | Tensor
    clip_high: float | Tensor
    weight_cap: float = 3.0

    @cached_property
    def log_ratio(self) -> Tensor:
        """log r, clamped to +-20; 0 on padding, whatever it held."""
        return _log_ratio(self.logprobs, self.old_logprobs, self.loss_mask)

    @cached_property
    def ratio(self) -> Tensor:
        """r; 1 on padding."""
        return self.log_ratio.exp()

    positive = property(lambda self: self.advantages > 0)
    lower = property(lambda self: 1 - self.clip_low)
    upper = property(lambda self: 1 + self.clip_high)

    def response_mean(self, values: Tensor) -> Tensor:
        """The mean of `[B, T]` values over each response's unmasked tokens: `[B, 1]`; 0 if it has none."""
        mask = self.loss_mask.bool()
        return torch.where(mask, values, 0.0).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)


def aspo(x: TokenInputs) -> Tensor:
    """ASPO, arXiv 2510.06062. Positives weigh 1/r instead of r (the flip); both sides are capped at c with
    their gradient kept (soft dual clip); PPO's hard masks are tested on the unflipped r."""
    flipped = (-x.log_ratio).exp().clamp(max=x.weight_cap) * (x.ratio <= x.upper)
    plain = x.ratio.clamp(max=x.weight_cap) * (x.ratio >= x.lower)
    return torch.where(x.positive, flipped, plain)


def _ppo_mask(x: TokenInputs) -> Tensor:
    """True where PPO-clip with the hard dual clip c keeps a gradient."""
    return torch.where(x.positive, x.ratio <= x.upper, (x.ratio >= x.lower) & (x.ratio <= x.weight_cap))


def grpo(x: TokenInputs) -> Tensor:
    """PPO-clip, arXiv 1707.06347 eq. 7, with the dual clip of 1912.09729: w = r inside the clip range.
    GRPO (2402.03300), DAPO (2503.14476) and Dr. GRPO (2503.20783) differ only in their rows of `LOSSES`."""
    return x.ratio * _ppo_mask(x)


def no_is(x: TokenInputs) -> Tensor:
    """ASPO's ablation without importance sampling: w = 1 under GRPO's mask."""
    return torch.ones_like(x.ratio) * _ppo_mask(x)


def positive_mean(x: TokenInputs) -> Tensor:
    """ASPO's other ablation: positive tokens weigh the mean r of their response, under GRPO's mask."""
    return torch.where(x.positive, x.response_mean(x.ratio), x.ratio) * _ppo_mask(x)


def gspo(x: TokenInputs) -> Tensor:
    """GSPO, arXiv 2507.18071 eq. 5 and 7: one ratio s = exp(mean log r) for the whole response, which is kept
    or clipped as one. With "sequence" aggregation this is exactly the paper's gradient."""
    s = x.response_mean(x.log_ratio).exp()
    return s * torch.where(x.positive, s <= x.upper, s >= x.lower)


def gmpo(x: TokenInputs) -> Tensor:
    """GMPO, arXiv 2507.20673, its clipped objective: the geometric mean of ratios clipped on the pessimistic
    side; a clipped token counts in the mean and gets no gradient. Exact with "sequence" aggregation. The
    bounds are distances of *log* r from 0: r is clipped to (e**-clip_low, e**clip_high)."""
    inside = torch.where(x.positive, x.log_ratio <= x.clip_high, x.log_ratio >= -x.clip_low)
    clipped = torch.where(x.positive, x.log_ratio.clamp(max=x.clip_high), x.log_ratio.clamp(min=-x.clip_low))
    return x.response_mean(clipped).exp() * inside


def cispo(x: TokenInputs) -> Tensor:
    """CISPO, MiniMax-M1, arXiv 2506.13585 eq. 4-5: w = min(r, 1 + clip_high); no token is ever masked."""
    return x.ratio.clamp(max=x.upper)


def gppo(x: TokenInputs) -> Tensor:
    """GPPO, Klear-Reasoner, arXiv 2508.07629: a clipped token weighs the clip edge instead of nothing."""
    return torch.where(x.positive, x.ratio.clamp(max=x.upper), x.ratio.clamp(min=x.lower))


def topr(x: TokenInputs) -> Tensor:
    """TOPR, arXiv 2503.14286: positives weigh 1, negatives clip(r, 0, 1). Here r is the token's; the paper's
    is the whole completion's, which vanishes for negatives thousands of tokens long."""
    return torch.where(x.positive, 1.0, x.ratio.clamp(max=1.0))


def sapo(x: TokenInputs, *, tau_positive: float = 1.0, tau_negative: float = 1.05) -> Tensor:
    """SAPO, arXiv 2511.20347: a soft gate instead of a clip, w = 4 r s (1 - s), s = sigmoid(tau (r - 1))."""
    z = torch.where(x.positive, tau_positive * (x.ratio - 1), tau_negative * (x.ratio - 1))
    return 4 * x.ratio * torch.sigmoid(z) * torch.sigmoid(-z)  # sigmoid(-z) is 1 - s without cancellation


def dppo(x: TokenInputs, *, delta: float = 0.15) -> Tensor:
    """DPPO, arXiv 2602.04879, binary total variation: w = r, masked where the token's *probability* has moved
    outward by more than delta: 0.15 in the paper's TV runs, where r is not truncated either."""
    shift = x.logprobs.exp() - x.old_logprobs.exp()
    return x.ratio * torch.where(x.positive, shift <= delta, shift >= -delta)


def _check_aggregation(aggregation: str) -> None:
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {aggregation!r}: give one of {AGGREGATIONS}")


@dataclass(frozen=True)
class Loss:
    """A method: its token weight and its published settings, which config fields left at None take over.

    `normalize_std` goes to `advantages.group_advantages`. Raises ValueError on an unknown `aggregation`.
    """

    token_weight: Callable[[TokenInputs], Tensor]
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: str = "token"
    kl_coef: float = 0.001
    normalize_std: bool = True

    def __post_init__(self) -> None:
        _check_aggregation(self.aggregation)


LOSSES: dict[str, Loss] = {
    "aspo": Loss(aspo, aggregation="sequence"),
    "grpo": Loss(grpo, aggregation="sequence"),
    "dapo": Loss(grpo, clip_high=0.28, kl_coef=0.0),
    "dr_grpo": Loss(grpo, aggregation="constant", kl_coef=0.0, normalize_std=False),
    "no_is": Loss(no_is, aggregation="sequence"),
    "positive_mean": Loss(positive_mean, aggregation="sequence"),
    "gspo": Loss(gspo, clip_low=3e-4, clip_high=4e-4, aggregation="sequence", kl_coef=0.0),
    "gmpo": Loss(gmpo, clip_low=0.4, clip_high=0.4, aggregation="sequence", kl_coef=0.0),
    "cispo": Loss(cispo, clip_low=1.0, clip_high=4.0, kl_coef=0.0),  # M1 gives no number: cap r at 5
    "gppo": Loss(gppo, kl_coef=0.0),
    "topr": Loss(topr, aggregation="constant", kl_coef=0.0, normalize_std=False),
    "sapo": Loss(sapo, aggregation="sequence", kl_coef=0.0),
    "dppo": Loss(dppo, aggregation="constant", kl_coef=0.0, normalize_std=False),
}


def resolve_loss(loss: str | Loss | Callable[[TokenInputs], Tensor]) -> Loss:
    """The `Loss` meant by a name, a `Loss`, or a token-weight function (which gets the defaults of `Loss`).

    Raises ValueError naming the value and the nearest known name.
    """
    if isinstance(loss, Loss):
        return loss
    if callable(loss):
        return Loss(loss)
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    near = get_close_matches(str(loss), LOSSES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown loss {loss!r}: {hint}Known: {sorted(LOSSES)}; or give a Loss or a function.")


def aggregation_coefficients(
    loss_mask: Tensor,
    aggregation: str,
    *,
    num_loss_tokens: int,
    num_sequences: int,
    max_completion_tokens: int,
) -> Tensor:
    """Each token's share of the loss, `[B, T]` float64; 0 on padding and for empty completions.

    The counts are those of the whole optimizer step, over all micro-batches and ranks, so that the sum of the
    shares does not depend on how the step's batch is cut. "token": 1 / num_loss_tokens (DAPO). "sequence":
    the mean over sequences of token means, 1 / (num_sequences * |y_i|) (GRPO). "constant": 1 / (num_sequences
    * max_completion_tokens) (Dr. GRPO). Raises ValueError on another `aggregation`.
    """
    _check_aggregation(aggregation)
    mask = loss_mask.bool()
    denominators = {
        "token": num_loss_tokens,
        "sequence": num_sequences * mask.sum(-1, keepdim=True),
        "constant": num_sequences * max_completion_tokens,
    }
    denominator = torch.as_tensor(denominators[aggregation], device=mask.device)
    return mask.double() / denominator.clamp(min=1)  # a step without any token has the share 0, not 0/0


class PolicyLoss(NamedTuple):
    """`loss` is a differentiable scalar; `token_weight` (0 on padding), `ratio` (1): detached `[B, T]`."""

    loss: Tensor
    token_weight: Tensor
    ratio: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    loss: Callable[[TokenInputs], Tensor],
    coefficients: Tensor,
    clip_low: float | Tensor,
    clip_high: float | Tensor,
    weight_cap: float,
) -> PolicyLoss:
    """The surrogate sum(coefficients * -A * w), whose gradient is sum(coefficients * -A * w * grad logprobs).

    `advantages` is `[B]` or `[B, T]`, the rest `[B, T]` (bounds may be floats); `loss` is a token weight.
    Computed in fp32, or float64 if given it. Padding may hold anything. A non-finite value of an unmasked
    token makes the loss NaN: the learner skips such steps. Raises ValueError on shapes that do not match.
    """
    if advantages.shape == logprobs.shape[:1]:
        advantages = advantages.unsqueeze(-1).expand(logprobs.shape)
    tensors = {"old_logprobs": old_logprobs, "advantages": advantages, "loss_mask": loss_mask}
    for name, tensor in tensors.items():
        if tensor.shape != logprobs.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, logprobs {tuple(logprobs.shape)}")
    mask = loss_mask.bool()
    logprobs = _zero_padding(logprobs, mask)
    with torch.no_grad():
        inputs = TokenInputs(
            logprobs=logprobs.detach(),
            old_logprobs=_zero_padding(old_logprobs, mask).to(logprobs),
            advantages=_zero_padding(advantages, mask).to(logprobs),
            loss_mask=mask,
            clip_low=torch.as_tensor(clip_low, dtype=logprobs.dtype, device=logprobs.device),
            clip_high=torch.as_tensor(clip_high, dtype=logprobs.dtype, device=logprobs.device),
            weight_cap=weight_cap,
        )
        token_weight = torch.where(mask & (inputs.advantages != 0), loss(inputs), 0.0).to(logprobs)
        # Comparisons turn NaN into False, so a weight function may hide a broken token behind a weight of 0.
        token_weight = torch.where(inputs.log_ratio.isfinite(), token_weight, torch.nan)
        scale = 0.0 - inputs.advantages * token_weight  # unary minus would make -0.0 of every masked token
    carrier = (logprobs - logprobs.detach()).exp()  # value 1, gradient that of logprobs
    return PolicyLoss((coefficients.to(logprobs) * scale * carrier).sum(), token_weight, inputs.ratio)


KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    # Of d = log pi_ref - log pi_theta; see http://joschu.net/blog/kl-approx.html
    "k1": lambda d: -d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: torch.expm1(d) - d,  # exp(d) - d - 1 is nothing but rounding error in fp32 for the usual d of 1e-4
}


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, loss_mask: Tensor, estimator: str = "k3") -> Tensor:
    """Per-token estimate of KL(pi_theta || pi_ref) with d = ref - logprobs clamped to +-20; k3 is that of GRPO (arXiv
    2402.03300 eq. 4), never negative. `[B, T]`, 0 on padding, differentiable in `logprobs`. As a loss, k1 has a
    gradient of mean zero and k2 that of the true KL (on-policy)."""
    return KL_ESTIMATORS[estimator](_log_ratio(ref_logprobs, logprobs, loss_mask))


def entropy_class(entropy: Tensor, loss_mask: Tensor, quantile: float = 0.8) -> Tensor:
    """True for the high-entropy tokens: those above the `quantile` of the unmasked token entropies of their
    own response (Archer, arXiv 2507.15778). `[B, T]` bool, False on padding."""
    values = torch.where(loss_mask.bool(), entropy.detach().float(), torch.nan)
    return values > torch.nanquantile(values, quantile, dim=-1, keepdim=True)


def clip_bounds(high_entropy: Tensor, low: float, high: float) -> Tensor:
    """A bound per entropy class: `high` where `high_entropy`, else `low`; `[B, T]` float64. archer2 is
    `clip_bounds(m, 0.2, 0.4)` for both clip bounds and `clip_bounds(m, 0.001, 0.0)` as KL coefficient."""
    return torch.where(high_entropy, high, torch.full_like(high_entropy, low, dtype=torch.float64))


def _zero_padding(values: Tensor, loss_mask: Tensor) -> Tensor:
    """In fp32 at least, 0 on padding."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return torch.where(loss_mask.bool(), values, 0.0)  # a product would keep NaN, in value and gradient


def _log_ratio(numerator: Tensor, denominator: Tensor, loss_mask: Tensor) -> Tensor:
    """numerator - denominator, clamped to +-20, 0 on padding; a non-finite difference stays what it is."""
    difference = _zero_padding(numerator, loss_mask) - _zero_padding(denominator, loss_mask)
    # A bare clamp would turn inf into 20 and give NaN a gradient of zero.
    return torch.where(difference.isfinite(), difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT), difference)
