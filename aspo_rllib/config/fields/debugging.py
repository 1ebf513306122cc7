"""The settings of `.debugging()` that RLlib does not have."""

from aspo_rllib.config.field import Builder, Field, integer

DEBUGGING = Builder(
    "debugging",
    "What makes a run repeatable, and what is kept to look into it. Other keywords go to RLlib's `debugging`.",
    "RLlib's keyword that matters is `seed`: two runs with the same seed see the same prompts in the same order.",
    (
        Field(
            "saved_batches",
            "int",
            0,
            integer(0),
            "How many of the latest iterations have all their rollouts kept in the trial's folder, as "
            "`rollouts/iteration_000012.parquet`. `python -m aspo_rllib.replay` runs such a batch through the learner "
            "again. A batch is written before its update, so that the one that ends a run is there, too. 0: none.",
        ),
    ),
    takes_rllib=True,
)
