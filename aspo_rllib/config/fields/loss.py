"""What the loss of `.training()` is made of: bounds, advantages, KL, the sampler correction, shaping."""

from aspo_rllib.config.field import ANYTHING, BOOLEAN, Field, integer, number, one_of
from aspo_rllib.losses import AGGREGATIONS, KL_ESTIMATORS

CORRECTIONS = ("truncated", "masked")
LEVELS = ("token", "geometric", "sequence")

_CLIP_LOW = number("in [0, 1]", lambda v: 0 <= v <= 1).or_none()
_NOT_NEGATIVE = number(">= 0", lambda v: v >= 0)
_POSITIVE = number("> 0", lambda v: v > 0)
_ABOVE_ONE = number("> 1", lambda v: v > 1)

LOSS = (
    Field(
        "clip_low",
        "float | None",
        None,
        _CLIP_LOW,
        "Distance of the lower clip bound from ratio 1. None: the loss's own.",
        paper="0.2",
    ),
    Field(
        "clip_high",
        "float | None",
        None,
        _NOT_NEGATIVE.or_none(),
        "Distance of the upper clip bound from ratio 1. None: the loss's own.",
        paper="0.2",
    ),
    Field(
        "clip_low_high_entropy",
        "float | None",
        None,
        _CLIP_LOW,
        "`clip_low` for high-entropy tokens. None: no distinction.",
        paper="archer2: 0.4",
    ),
    Field(
        "clip_high_high_entropy",
        "float | None",
        None,
        _NOT_NEGATIVE.or_none(),
        "`clip_high` for high-entropy tokens. None: no distinction.",
        paper="archer2: 0.4",
    ),
    Field(
        "entropy_quantile",
        "float",
        0.8,
        number("in (0, 1)", lambda v: 0 < v < 1),
        "Tokens above this quantile of their completion's entropies are high-entropy tokens.",
        paper="archer2: 0.8",
    ),
    Field(
        "weight_cap",
        "float | None",
        None,
        _ABOVE_ONE.or_none(),
        "c: where the token weight is capped, or masked for negative advantages in losses with a dual clip. None: the "
        "loss's own. Infinity: no cap.",
        paper="3, a literal of the released code",
    ),
    Field(
        "aggregation",
        "str | None",
        None,
        one_of(*AGGREGATIONS, None),
        "How the tokens' losses become one loss; see `losses.aggregation_coefficients`. None: the loss's own.",
        paper="sequence",
    ),
    Field(
        "advantage",
        "Any",
        None,
        ANYTHING,
        "How rewards become advantages: a name in `learner.advantages.ADVANTAGES`, an `Advantage`, or a function from "
        "a group's rewards `[G]` to its advantages `[G]`. None: the loss's own.",
        paper="grpo",
    ),
    Field(
        "kl_coef",
        "float | None",
        None,
        _NOT_NEGATIVE.or_none(),
        "Weight of the KL divergence to the initial model. Above 0 a second copy of the model is kept; with `lora` "
        "the policy without its adapters takes that part. None: the loss's own.",
        paper="0.001",
    ),
    Field(
        "kl_coef_high_entropy",
        "float | None",
        None,
        _NOT_NEGATIVE.or_none(),
        "`kl_coef` for high-entropy tokens. None: no distinction.",
        paper="archer2: 0",
    ),
    Field(
        "kl_estimator",
        "str",
        "k3",
        one_of(*sorted(KL_ESTIMATORS)),
        "How the KL divergence is estimated from samples; see `losses.kl_penalty`.",
        paper="k3",
    ),
    Field(
        "kl_clamp",
        "float | None",
        None,
        _POSITIVE.or_none(),
        "Largest absolute value of a token's KL estimate, beyond which it has no gradient. None: no limit.",
        paper="archer2: 10",
    ),
    Field(
        "reference_reset_interval",
        "int | None",
        None,
        integer(1).or_none(),
        "Iterations after which the policy becomes the reference. None: never.",
    ),
    Field(
        "sampler_correction",
        "str | None",
        None,
        one_of(*CORRECTIONS, None),
        "Whether the policy's term of the loss is weighted with the sampler ratio pi_old / mu; see "
        "`learner.mismatch`. KL and entropy terms are not. The ratio's statistics are logged in any case.",
    ),
    Field(
        "sampler_correction_level",
        "str",
        "token",
        one_of(*LEVELS),
        'Whether the sampler ratio is that of a token, the product over the completion ("sequence"), or the geometric '
        "mean over the completion.",
    ),
    Field(
        "sampler_ratio_cap",
        "float",
        2.0,
        _ABOVE_ONE,
        'Upper bound of the sampler ratio: where "truncated" holds it, and above which "masked" leaves tokens out.',
    ),
    Field(
        "sampler_ratio_floor",
        "float | None",
        None,
        number("in [0, 1)", lambda v: 0 <= v < 1).or_none(),
        "Lower bound of the sampler ratio, as `sampler_ratio_cap` is the upper one. None: 1 / sampler_ratio_cap with "
        '"masked", no bound with "truncated".',
    ),
    Field("entropy_coef", "float", 0.0, _NOT_NEGATIVE, "Weight of the entropy bonus.", paper="0"),
    Field(
        "drop_uniform_groups",
        "bool",
        True,
        BOOLEAN,
        "Whether groups that are all right or all wrong are left out.",
        paper="True",
    ),
    Field(
        "truncated",
        "str",
        "keep",
        one_of("keep", "mask", "drop"),
        'Completions that were cut at `max_completion_tokens`. "keep" trains on them, "mask" counts them in the '
        'baseline of their group but does not train on them (DAPO\'s overlong filtering), "drop" leaves them '
        "out before the baseline is taken.",
        paper="keep",
    ),
    Field(
        "overlong_buffer_tokens",
        "int",
        0,
        integer(0),
        "Tokens before `max_completion_tokens` over which DAPO's soft punishment grows. 0: no punishment.",
        paper="16",
    ),
    Field(
        "overlong_penalty_factor",
        "float",
        1.0,
        _NOT_NEGATIVE,
        "Size of that punishment at the end.",
        paper="1.0",
    ),
)
