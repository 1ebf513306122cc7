"""TRL's side of vs_trl.py: GRPOTrainer with its fastest settings on CPUs, in one process.

docs/benchmarks.md has slower settings that were tried.
"""

from __future__ import annotations

from collections.abc import Iterator

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from vs_trl_job import CAP_TOKENS, EPOCHS_AND_MINIBATCHES, Job, ParityEnv, main, reward_of

from aspo_rllib.rollout.task_order import TaskOrder

PARTS = 4  # parts of a batch; each is one forward pass
MOST_ITERATIONS = 1000


def make_config(job: Job) -> GRPOConfig:
    epochs, minibatches = EPOCHS_AND_MINIBATCHES[job.steps]
    return GRPOConfig(
        output_dir=f"{job.model}/out",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        num_generations=job.group_size,
        max_completion_length=CAP_TOKENS[job.setting],
        shuffle_dataset=False,
        per_device_train_batch_size=job.prompts * job.group_size // PARTS,
        steps_per_generation=PARTS,
        gradient_accumulation_steps=PARTS // minibatches,
        num_iterations=epochs,
        max_steps=MOST_ITERATIONS * job.steps,
        loss_type="grpo",
        beta=0.0,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )


class Pace(TrainerCallback):
    """Continues training while there are `iterations`, each with `steps` optimizer steps."""

    def __init__(self, iterations: Iterator[None], steps: int):
        self._iterations, self._steps = iterations, steps

    def on_train_begin(self, args, state, control, **_):
        next(self._iterations)

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self._steps == 0:
            control.should_training_stop = next(self._iterations, _END) is _END


_END = object()


def run(job: Job, iterations: Iterator[None]) -> list[int]:
    """Train; returns the lengths of all completions."""
    env, lengths = ParityEnv(), []
    tasks = TaskOrder(len(env), seed=0).lease(job.prompts * MOST_ITERATIONS)
    prompts = [{"prompt": [{"role": "user", "content": env.task(index).prompt}]} for _, index in tasks]

    def reward(completions, completion_ids, **_) -> list[float]:
        lengths.extend(len(ids) for ids in completion_ids)
        return [reward_of(completion[0]["content"]) for completion in completions]

    GRPOTrainer(
        model=job.model,
        reward_funcs=reward,
        args=make_config(job),
        train_dataset=Dataset.from_list(prompts),
        callbacks=[Pace(iterations, job.steps)],
    ).train()
    return lengths


if __name__ == "__main__":
    main(run)
