"""The settings of `.checkpointing()`, of which RLlib's own have no effect here."""

from aspo_rllib.config.field import Builder, Field, Legal, is_integer

EVERY, NEVER = "every", "never"

CHECKPOINTING = Builder(
    "checkpointing",
    "What a checkpoint has besides the state from which a run goes on.",
    "How often there is a checkpoint, and how many are kept, are settings of Tune: `CheckpointConfig`.",
    (
        Field(
            "checkpoint_export",
            "str | int",
            EVERY,
            Legal(
                f"{EVERY!r}, {NEVER!r}, or an int >= 1",
                lambda v: v in (EVERY, NEVER) if isinstance(v, str) else is_integer(v) and v >= 1,
            ),
            "Which checkpoints have a folder learner_group/hf, which transformers and vLLM load. It has a quarter of a "
            "checkpoint's bytes and is written while training waits. An int n: those after n, 2n, 3n, ... "
            "iterations. `python -m aspo_rllib.export CHECKPOINT` makes the folder of any other checkpoint later.",
            argument="export",
        ),
    ),
    takes_rllib=True,
)
