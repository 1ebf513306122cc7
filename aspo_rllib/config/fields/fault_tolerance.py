"""The settings of `.fault_tolerance()` that RLlib does not have."""

from aspo_rllib.config.field import Builder, Field, number, one_of

_POSITIVE = number("> 0", lambda v: v > 0).or_none()

FAULT_TOLERANCE = Builder(
    "fault_tolerance",
    "What happens when something fails, hangs or diverges. Other keywords go to RLlib's `fault_tolerance`.",
    "RLlib's keywords that matter are `restart_failed_env_runners` and `env_runner_restore_timeout_s`. With the "
    "first at True, a runner that dies, raises or hangs is restarted, and the others sample its prompts; at "
    "False its error is raised. The second (600) is how long a run without any runner waits for one. A learner "
    "that fails ends the run, which Tune's FailureConfig restores.\n\n"
    "An iteration is bad if `entropy/mean`, `kl/sampler`, `kl/old` or `kl/ref` is not finite or above its limit "
    "here, if every optimizer step was skipped because its gradient was not finite, or if a weight is not finite. "
    "A single skipped step is only counted.",
    (
        Field(
            "stage_timeout_s",
            "float | None",
            3600.0,
            _POSITIVE,
            "Longest time for a stage of an iteration. Processes that take longer print where they are; after that a "
            "runner is restarted, and learners end the run. None: no limit.",
        ),
        Field(
            "max_entropy",
            "float | None",
            None,
            _POSITIVE,
            "Largest `entropy/mean`, in nats. It is that of the policy before the update. None: any finite one.",
        ),
        Field(
            "max_kl",
            "float | None",
            None,
            _POSITIVE,
            "Largest `kl/old`, in nats per token: the k3 estimate of KL(old || new), where old is what the ratio "
            "is taken to, as a mean over the update's steps. None: any finite one.",
        ),
        Field(
            "on_bad_numbers",
            "str",
            "stop",
            one_of("warn", "stop", "rollback"),
            'What a bad iteration does. "stop" raises BadNumbersError before engines or checkpoints get the '
            'weights. "rollback" puts weights, optimizer and learning rate schedule back to the last good '
            "checkpoint that the run wrote or was restored from, and goes on with the next tasks; without such a "
            'checkpoint, or after 3 times to the same one, it stops. "warn" goes on, and saves such weights, too.',
        ),
    ),
    takes_rllib=True,
)
