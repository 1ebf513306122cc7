"""Estimates of the KL divergence from the reference policy."""

from collections.abc import Callable

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import clamped_log_ratio

KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    # Functions of d = log pi_ref - log pi_theta; see http://joschu.net/blog/kl-approx.html
    "k1": lambda d: -d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: torch.expm1(d) - d,  # in fp32, exp(d) - d - 1 would be only rounding error at a typical d of 1e-4
}


def kl_penalty(
    logprobs: Tensor, ref_logprobs: Tensor, loss_mask: Tensor, estimator: str = "k3", *, clamp: float | None = None
) -> Tensor:
    """An estimate of KL(pi_theta || pi_ref) per token, `[B, T]`, 0 on padding, differentiable in `logprobs`.

    d = ref_logprobs - logprobs is clamped to +-20.

    estimator: "k3" is that of GRPO (arXiv 2402.03300 eq. 4) and never negative. If the estimate is used as a loss
        on-policy, the gradient of "k1" has the mean zero, and that of "k2" is the gradient of the true KL.
    clamp: the estimate is limited to +-clamp and has no gradient beyond it. verl and Archer2.0 use 10. Without it a
        single token at d = 15 counts e**15 - 16 = 3.3 million.
    """
    estimate = KL_ESTIMATORS[estimator](clamped_log_ratio(ref_logprobs, logprobs, loss_mask))
    return estimate if clamp is None else _clamp_finite(estimate, clamp)


def _clamp_finite(values: Tensor, limit: float) -> Tensor:
    """Clamp finite values only: the learner skips a step whose values are not finite."""
    return torch.where(values.isfinite(), values.clamp(-limit, limit), values)
