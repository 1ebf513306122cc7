"""The settings of `.training()`: the loss, the optimizer and the batch."""

from aspo_rllib.config.field import (
    ANYTHING,
    BOOLEAN,
    Builder,
    Field,
    Legal,
    integer,
    is_number,
    number,
    one_of,
)
from aspo_rllib.config.fields.loss import LOSS

_NOT_NEGATIVE = number(">= 0", lambda v: v >= 0)
_POSITIVE = number("> 0", lambda v: v > 0)
_BETAS = Legal(
    "two numbers in [0, 1)",
    lambda v: isinstance(v, (tuple, list)) and len(v) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in v),
)

_BATCH = (
    Field(
        "loss",
        "str | Loss | Callable[..., Any]",
        "aspo",
        ANYTHING,
        "A name in `losses.LOSSES`, a `losses.Loss`, or a token-weight function of one's own.",
        paper="aspo",
    ),
    Field(
        "batch_prompts",
        "int",
        64,
        integer(1),
        "Prompts per iteration (P). If the env has fewer tasks, down to a single one, they are asked more than "
        "once per batch, with a warning.",
        paper="64",
    ),
    Field(
        "minibatch_prompts",
        "int",
        16,
        integer(1),
        "Prompts per optimizer step, at most `batch_prompts`.",
        paper="16",
    ),
    Field(
        "num_epochs",
        "int",
        3,
        integer(1),
        "Passes over an iteration's rollouts.",
        paper="3",
    ),
    Field(
        "max_staleness",
        "int",
        0,
        integer(0),
        "Batches that are sampled ahead. With k, the runners sample the next k batches while the learner trains; new "
        "weights enter the running engines, and no rollout is older than k updates.",
        paper="0",
    ),
    Field(
        "old_logprobs",
        "str | None",
        None,
        one_of("learner", "sampler", None),
        'The policy that the importance ratio is taken to. "learner" is the learner\'s own policy right before the '
        'update. "sampler" is the policy that sampled, by the logprobs of the engine: with stale rollouts the '
        'ratio then holds everything that has changed since. "sampler" needs top_p=1 and no sampler_correction. '
        "None: the loss's own.",
        paper="learner",
    ),
)

_OPTIMIZER = (
    Field(
        "lr",
        "float | list[Any]",
        1e-6,
        ANYTHING,
        "AdamW's learning rate > 0, or a schedule [[0, lr], [step, lr], ...] in optimizer steps, as RLlib takes it.",
        paper="1e-6",
    ),
    Field(
        "warmup_steps",
        "int",
        0,
        integer(0),
        "Optimizer steps of linear warm-up.",
        paper="120: 10 iterations of 12 steps",
    ),
    Field("weight_decay", "float", 0.1, _NOT_NEGATIVE, "AdamW's weight decay.", paper="0.1"),
    Field(
        "decay_norms",
        "bool",
        True,
        BOOLEAN,
        "Whether weight_decay acts on norms, biases and embeddings, too. False spares them; transformers' Trainer "
        "spares norms and biases. With True all weights decay, as in verl, on which the paper's code is built.",
        paper="True",
    ),
    Field("betas", "tuple[float, float]", (0.9, 0.999), _BETAS, "AdamW's betas."),
    Field(
        "grad_clip",
        "float | None",
        1.0,
        _POSITIVE.or_none(),
        "Largest global gradient norm; a longer gradient is scaled down. A step whose norm is not finite is "
        "skipped. None: no limit.",
        paper="1.0",
    ),
)

_COMPUTE = (
    Field(
        "max_tokens_per_microbatch",
        "int",
        16384,
        integer(1),
        "Tokens of one forward pass, padding included. It bounds the memory; results do not depend on it.",
    ),
    Field(
        "layout",
        "str | None",
        None,
        one_of("padded", "packed", "shared", None),
        'How the rollouts of a forward pass lie in tensors. "packed" puts all of them into one row without '
        'padding, "padded" gives each a row as wide as the longest; results are the same. "shared" is "packed" '
        "with each prompt once for all completions of its group, which saves (G - 1) / G of the prompts' work "
        "outside of attention; results differ by rounding only. None: packed, unless the model would mix the "
        "rollouts of a row.",
    ),
    Field(
        "max_sync_drift",
        "float | None",
        None,
        _POSITIVE.or_none(),
        "Largest difference between the engine's and the learner's logprobs of a few tokens that is allowed after "
        "a weight sync. None: 0.01 in float32, 1.0 in bfloat16.",
    ),
)

TRAINING = Builder(
    "training",
    "The loss, the optimizer and the batch. Other keywords go to RLlib's `AlgorithmConfig.training`.",
    "",
    _BATCH + _OPTIMIZER + LOSS + _COMPUTE,
    takes_rllib=True,
)
