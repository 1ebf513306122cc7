"""The settings of `.evaluation()` that RLlib does not have."""

from aspo_rllib.config.field import ANYTHING, BOOLEAN, Builder, Field

EVALUATION = Builder(
    "evaluation",
    "Evaluation on the training runners, between iterations. Other keywords go to RLlib's `evaluation`.",
    "RLlib's keywords that matter are `evaluation_interval` (iterations), `evaluation_duration` (how many prompts: "
    "the first ones of the env; each gets `group_size` completions) and `evaluation_config` (settings for the "
    'evaluation alone, such as `{"env_config": {"split": "test"}, "group_size": 64, "temperature": 0.8}`; the '
    "paper: 64 completions at 0.8).",
    (
        Field(
            "evaluate_before_training",
            "bool",
            True,
            BOOLEAN,
            "Whether the first `train()` starts with an evaluation, if there is an `evaluation_interval`. Its result "
            "stands in the first result as `evaluation_at_start`.",
        ),
        Field(
            "eval_sets",
            "dict[str, dict[str, Any]] | None",
            None,
            ANYTHING,
            'Several sets of prompts by name, for example {"aime24": {"env": "aspo/Math-v0", "env_config": '
            '{"data": "aime24.parquet"}, "evaluation_duration": 30, "group_size": 64}}. The settings of a set, '
            "which must be among `eval_sets.SETTINGS`, go on top of `evaluation_config`. A set that names its env "
            "does not get the training env's `env_config`. Results stand under `evaluation/<name>/`, and "
            "`evaluation/accuracy` is the mean over the sets. None: one set, whose results stand under "
            "`evaluation/`.",
        ),
    ),
    takes_rllib=True,
)
