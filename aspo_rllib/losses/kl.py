"""Estimates of the KL divergence from the reference policy."""

from collections.abc import Callable

import torch
from torch import Tensor

from aspo_rllib.losses.inputs import clamped_log_ratio

KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    # Of d = log pi_ref - log pi_theta; see http://joschu.net/blog/kl-approx.html
    "k1": lambda d: -d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: torch.expm1(d) - d,  # exp(d) - d - 1 is nothing but rounding error in fp32 for the usual d of 1e-4
}


def kl_penalty(
    logprobs: Tensor, ref_logprobs: Tensor, loss_mask: Tensor, estimator: str = "k3", *, clamp: float | None = None
) -> Tensor:
    """Per-token estimate of KL(pi_theta || pi_ref) with d = ref - logprobs clamped to +-20; k3 is that of GRPO (arXiv
    2402.03300 eq. 4), never negative. `[B, T]`, 0 on padding, differentiable in `logprobs`. As a loss, k1 has a
    gradient of mean zero and k2 that of the true KL (on-policy).

    clamp: the estimate is held within +-clamp, where it has no gradient, as verl and Archer2.0 do at 10. Without it a
    single token at d = 15 counts e**15 - 16 = 3.3 million.
    """
    estimate = KL_ESTIMATORS[estimator](clamped_log_ratio(ref_logprobs, logprobs, loss_mask))
    return estimate if clamp is None else _clamp_finite(estimate, clamp)


def _clamp_finite(values: Tensor, limit: float) -> Tensor:
    """Broken values stay broken, so that the learner skips their step."""
    return torch.where(values.isfinite(), values.clamp(-limit, limit), values)
