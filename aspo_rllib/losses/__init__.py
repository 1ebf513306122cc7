"""The loss family.

Every method has the gradient `token_weight(r, A) * A * grad log pi`, where r = pi_theta / pi_old is the ratio of a
token and A is its advantage. A method is therefore one small function from `TokenInputs` to a weight `[B, T]`, and one
row of `LOSSES` with its published settings. B is the number of completions and T that of their tokens, right-padded.

To add a loss, write the function, add the row, and add golden rows to `tests/test_losses.py`.
"""

from aspo_rllib.losses.aggregation import AGGREGATIONS, aggregation_coefficients
from aspo_rllib.losses.clipped import aspo, double_sided, dppo, grpo, no_is, positive_mean, sequence_masked
from aspo_rllib.losses.covariance import clip_cov, kl_cov
from aspo_rllib.losses.entropy import by_entropy_class, entropy_class
from aspo_rllib.losses.inputs import LOG_RATIO_LIMIT, TokenInputs
from aspo_rllib.losses.kl import KL_ESTIMATORS, kl_penalty
from aspo_rllib.losses.rows import LOSSES, Loss, resolve_loss
from aspo_rllib.losses.sequence import gmpo, gspo, topr, vespo
from aspo_rllib.losses.soft import ce_gppo, cispo, dgpo, gppo, maspo, sapo, topr_token
from aspo_rllib.losses.surrogate import PolicyLoss, policy_loss

__all__ = [
    "AGGREGATIONS",
    "KL_ESTIMATORS",
    "LOG_RATIO_LIMIT",
    "LOSSES",
    "Loss",
    "PolicyLoss",
    "TokenInputs",
    "aggregation_coefficients",
    "aspo",
    "by_entropy_class",
    "ce_gppo",
    "cispo",
    "clip_cov",
    "dgpo",
    "double_sided",
    "dppo",
    "entropy_class",
    "gmpo",
    "gppo",
    "grpo",
    "gspo",
    "kl_cov",
    "kl_penalty",
    "maspo",
    "no_is",
    "policy_loss",
    "positive_mean",
    "resolve_loss",
    "sapo",
    "sequence_masked",
    "topr",
    "topr_token",
    "vespo",
]
