"""The table of losses: the token weight of each method, the settings that it was published with, and their source."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from aspo_rllib.losses import clipped, covariance, sequence, soft
from aspo_rllib.losses.aggregation import check_aggregation
from aspo_rllib.losses.inputs import TokenInputs
from aspo_rllib.names import nearest


@dataclass(frozen=True)
class Loss:
    """A method: its token weight and its published settings. A config field at None has the value in this row.

    clip_low, clip_high, weight_cap: None means that the loss has no such bound; a config that sets it is an error. An
        infinite `weight_cap` means that the method does not use the cap, but a config may set it.
    advantage: the method of the advantages, a name in `learner.advantages.ADVANTAGES`.
    old_logprobs: "learner" or "sampler": the policy in the denominator of the ratio.
    source: the paper, and the code from which the settings were read. If it names no code, they are the paper's.

    Raises ValueError on an unknown `aggregation`.
    """

    token_weight: Callable[[TokenInputs], Tensor]
    clip_low: float | None = 0.2
    clip_high: float | None = 0.2
    weight_cap: float | None = 3.0
    aggregation: str = "token"
    kl_coef: float = 0.001
    advantage: str = "grpo"
    old_logprobs: str = "learner"
    source: str = ""

    def __post_init__(self) -> None:
        check_aggregation(self.aggregation)


LOSSES: dict[str, Loss] = {
    "aspo": Loss(clipped.aspo, aggregation="sequence", source="arXiv 2510.06062; cap: code of Archer2.0"),
    "grpo": Loss(clipped.grpo, aggregation="sequence", source="arXiv 2402.03300; dual clip: code of verl"),
    "dapo": Loss(
        clipped.grpo, clip_high=0.28, weight_cap=10.0, kl_coef=0.0, source="arXiv 2503.14476; code of verl's recipe"
    ),
    "dr_grpo": Loss(
        clipped.grpo,
        weight_cap=math.inf,
        aggregation="constant",
        kl_coef=0.0,
        advantage="dr_grpo",
        source="arXiv 2503.20783; code of oat",
    ),
    "no_is": Loss(clipped.no_is, aggregation="sequence", source="ablation in arXiv 2510.06062"),
    "positive_mean": Loss(clipped.positive_mean, aggregation="sequence", source="ablation in arXiv 2510.06062"),
    "gspo": Loss(
        sequence.gspo,
        clip_low=3e-4,
        clip_high=4e-4,
        weight_cap=None,
        aggregation="sequence",
        kl_coef=0.0,
        source="arXiv 2507.18071; code of verl and TRL",
    ),
    "luspo": Loss(
        sequence.gspo,
        clip_low=2e-3,
        clip_high=2.5e-3,
        weight_cap=None,
        aggregation="sum",
        kl_coef=0.0,
        source="arXiv 2602.05261; code of TRL",
    ),
    "gmpo": Loss(
        sequence.gmpo,
        clip_low=0.4,
        clip_high=0.4,
        weight_cap=None,
        aggregation="sequence",
        kl_coef=0.0,
        source="arXiv 2507.20673; code of callsys/GMPO",
    ),
    "cispo": Loss(  # M1 publishes no numbers. These cap r at 5; the lower edge 0 has no effect
        soft.cispo,
        clip_low=1.0,
        clip_high=4.0,
        weight_cap=None,
        kl_coef=0.0,
        source="arXiv 2506.13585; code of verl; bounds are ours",
    ),
    "gppo": Loss(
        soft.gppo, clip_high=0.28, weight_cap=10.0, kl_coef=0.0, source="arXiv 2508.07629; code of Klear-Reasoner"
    ),
    "ce_gppo": Loss(soft.ce_gppo, weight_cap=10.0, kl_coef=0.0, source="arXiv 2509.20712; code of Kwai-Klear/CE-GPPO"),
    "topr": Loss(
        sequence.topr,
        clip_low=None,
        clip_high=None,
        weight_cap=None,
        aggregation="constant",
        kl_coef=0.0,
        advantage="dr_grpo",
        source="arXiv 2503.14286",
    ),
    "topr_token": Loss(
        soft.topr_token,
        clip_low=None,
        clip_high=None,
        weight_cap=None,
        aggregation="constant",
        kl_coef=0.0,
        advantage="dr_grpo",
        source="arXiv 2503.14286 with the token's ratio, which is ours",
    ),
    "sapo": Loss(
        soft.sapo,
        clip_low=None,
        clip_high=None,
        weight_cap=None,
        aggregation="sequence",
        kl_coef=0.0,
        source="arXiv 2511.20347; code of verl and TRL",
    ),
    "dgpo": Loss(soft.dgpo, weight_cap=None, kl_coef=0.0, source="arXiv 2603.14389; code of FlyTune/DGPO-RL"),
    "maspo": Loss(
        soft.maspo,
        clip_low=None,
        clip_high=None,
        weight_cap=None,
        kl_coef=0.0,
        source="arXiv 2602.17550; code of FlyTune/MASPO-RL",
    ),
    "vespo": Loss(
        sequence.vespo,
        clip_low=None,
        clip_high=None,
        weight_cap=None,
        kl_coef=0.0,
        old_logprobs="sampler",
        source="arXiv 2602.10693; code of FloyedShen/VESPO and TRL",
    ),
    "dppo": Loss(
        clipped.dppo,
        clip_low=None,
        clip_high=None,
        weight_cap=None,
        aggregation="constant",
        kl_coef=0.0,
        advantage="dr_grpo",
        old_logprobs="sampler",
        source="arXiv 2602.04879; code of Stable-RL",
    ),
    "kl_cov": Loss(
        covariance.kl_cov,
        clip_low=None,
        clip_high=None,
        weight_cap=None,
        kl_coef=0.0,
        source="arXiv 2505.22617; code of PRIME-RL/Entropy-Mechanism-of-RL and verl",
    ),
    "clip_cov": Loss(
        covariance.clip_cov,
        clip_low=1.0,
        clip_high=1.0,
        weight_cap=None,
        kl_coef=0.0,
        source="arXiv 2505.22617; code of PRIME-RL/Entropy-Mechanism-of-RL and verl",
    ),
    "double_sided": Loss(
        clipped.double_sided,
        clip_high=0.28,
        weight_cap=None,
        kl_coef=0.0,
        old_logprobs="sampler",
        source="GLM-5, arXiv 2602.15763 eq. 3-5; bounds are ours",
    ),
    "sequence_masked": Loss(
        clipped.sequence_masked,
        weight_cap=math.inf,
        aggregation="sequence",
        kl_coef=0.0,
        advantage="dr_grpo",
        old_logprobs="sampler",
        source="DeepSeek-V3.2, arXiv 2512.02556; code of TRL; bounds are ours",
    ),
}


def resolve_loss(loss: str | Loss | Callable[[TokenInputs], Tensor]) -> Loss:
    """The `Loss` for a name, a `Loss`, or a token-weight function.

    A function gets the settings of grpo. It then differs from grpo and aspo only in the token weight.

    Raises ValueError for an unknown name.
    """
    if isinstance(loss, Loss):
        return loss
    if callable(loss):
        return replace(LOSSES["grpo"], token_weight=loss, source="")
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    raise ValueError(
        f"unknown loss {loss!r}.{nearest(loss, LOSSES)} Known: {sorted(LOSSES)}; or give a Loss or a function."
    )
