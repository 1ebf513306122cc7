"""The settings of `.sampling()`: how completions are drawn and graded."""

import math

from aspo_rllib.config.field import ANYTHING, AUTOMATIC, Builder, Field, Legal, integer, is_number, number

REWARD_WEIGHTS = Legal(
    "a dict of names to finite numbers, not all of them 0",
    lambda v: (
        isinstance(v, dict)
        and all(isinstance(name, str) and is_number(weight) and math.isfinite(weight) for name, weight in v.items())
        and any(v.values())
    ),
).or_none()

STOPS = Legal(
    "a list of texts that are not empty",
    lambda v: isinstance(v, (list, tuple)) and bool(v) and all(isinstance(text, str) and text for text in v),
).or_none()

SAMPLING = Builder(
    "sampling",
    "How completions are drawn and graded.",
    "For an evaluation, override these in `evaluation_config` or in one of the `eval_sets`.",
    (
        Field(
            "group_size",
            "int",
            16,
            integer(1),
            "Completions per prompt (G). In training, 1 needs drop_uniform_groups=False, and then a completion has "
            "no others to be compared with.",
            paper="16",
        ),
        Field(
            "temperature",
            "float",
            1.0,
            ANYTHING,
            "Sampling temperature: in (0, 2] in training, >= 0 in an evaluation. The learner's logprobs are taken "
            "at the same temperature.",
            paper="1.0",
        ),
        Field(
            "top_p",
            "float",
            1.0,
            number("in (0, 1]", lambda v: 0 < v <= 1),
            "Nucleus sampling. Below 1 the engine samples from another distribution than the learner's, and its "
            "logprobs are those of the kept tokens. Training then needs a `sampler_correction`.",
            paper="1.0",
        ),
        Field(
            "top_k",
            "int",
            0,
            integer(0),
            "Only the k most likely tokens are sampled; 0: all. Above 0, see `top_p`.",
            paper="0",
        ),
        Field(
            "min_p",
            "float",
            0.0,
            number("in [0, 1)", lambda v: 0 <= v < 1),
            "Only tokens are sampled whose probability is at least this share of the most likely one's. Above 0, see "
            "`top_p`.",
            paper="0",
        ),
        Field(
            "repetition_penalty",
            "float",
            1.0,
            number("> 0", lambda v: v > 0),
            "Logits of tokens that prompt or completion already have are divided by this, or multiplied where they are "
            "negative. If it is not 1, see `top_p`.",
            paper="1",
        ),
        Field(
            "stop",
            "list[str] | None",
            None,
            STOPS,
            "Texts that end a completion as its end token does. The completion's text, which the grader gets, ends "
            "with the stop text; all of its tokens are trained on.",
        ),
        Field(
            "max_completion_tokens",
            "int",
            1024,
            integer(1),
            "Longest completion.",
            paper="32768 for 1.5B models",
        ),
        Field(
            "max_refills",
            "int",
            0,
            integer(0),
            "How often an iteration asks further prompts in place of those whose groups are all right or all "
            "wrong. After that it goes on with what there is. DAPO's dynamic sampling corresponds to about 10.",
            paper="0",
        ),
        Field(
            "oversampling",
            "float",
            1.0,
            number("a number >= 1", lambda v: v >= 1),
            "How many prompts are sampled per prompt that the batch needs. Above 1, the slowest prompts are dropped "
            "once the batch is full. This favours short completions.",
        ),
        Field(
            "seed_completions",
            "bool | None",
            None,
            AUTOMATIC,
            "Whether every completion has its own random seed, computed from the run's seed and the position of its "
            "prompt in the run. A completion then depends neither on the runner that samples it nor on the other "
            "completions in the engine, and a resumed run is exact. vLLM samples such completions one by one, which "
            "costs 10 % of a tiny model's time on CPU. None: on CPU only, because on GPUs the probabilities "
            "themselves depend on the other completions in the engine.",
        ),
        Field(
            "reward_weights",
            "dict[str, float] | None",
            None,
            REWARD_WEIGHTS,
            'How much each of the env\'s named rewards counts, for example {"correct": 1, "format": 0.1}. Every one of '
            "them has a weight. None: the reward that the env itself gives. An evaluation of another env does not take "
            "over the weights.",
        ),
        Field(
            "num_graders",
            "int | None",
            None,
            integer(1).or_none(),
            "Worker processes of one env runner that grade on copies of the env while the engine generates. None: "
            "as many as the runner has CPUs (`num_cpus_per_env_runner`).",
        ),
        Field(
            "grader_timeout_s",
            "float",
            120.0,
            number("> 0", lambda v: v > 0),
            "Longest time for grading one completion. A completion that takes longer earns 0 and counts as a "
            "timeout. This is the last resort: the graders of `envs` have tighter limits of their own.",
        ),
    ),
    takes_rllib=False,
)
