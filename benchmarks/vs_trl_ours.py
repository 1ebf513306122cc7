"""This package's side of vs_trl.py: one runner in a separate process, and the learner in the driver's process."""

from __future__ import annotations

from collections.abc import Iterator

import ray
from vs_trl_job import CAP_TOKENS, EPOCHS_AND_MINIBATCHES, Job, ParityEnv, main

from aspo_rllib import ASPOConfig


def make_config(job: Job) -> ASPOConfig:
    epochs, minibatches = EPOCHS_AND_MINIBATCHES[job.steps]
    return (
        ASPOConfig()
        .environment(ParityEnv)
        .llm(
            model=job.model,
            engine=job.engine,
            compile_learner=True,
            max_prompt_tokens=32,
            # The engine holds one batch. Two would finish at the same time, and the learner would wait for both.
            max_num_seqs=job.prompts * job.group_size,
        )
        .sampling(group_size=job.group_size, max_completion_tokens=CAP_TOKENS[job.setting])
        .training(
            loss="grpo",
            layout="shared",
            batch_prompts=job.prompts,
            minibatch_prompts=job.prompts // minibatches,
            num_epochs=epochs,
            max_staleness=job.max_staleness,
            lr=1e-6,
            weight_decay=0.0,
            kl_coef=0.0,
            drop_uniform_groups=False,
        )
        .debugging(seed=0)
    )


def run(job: Job, iterations: Iterator[None]) -> list[int]:
    """Train; returns the lengths of all completions that were trained on."""
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    algo = make_config(job).build_algo()
    if job.setting == "fixed":  # vLLM rejects an end token for which the model has no logit
        algo.env_runner_group.foreach_env_runner(lambda runner: runner.stop_token_ids.clear(), local_env_runner=False)
    lengths = []
    for _ in iterations:
        result = algo.train()
        assert result["optim"]["steps"] == job.steps * algo.iteration, result["optim"]
        lengths += [len(r.completion_ids) for g in algo.latest_groups for r in g.rollouts]
    algo.stop()
    ray.shutdown()
    return lengths


if __name__ == "__main__":
    main(run)
