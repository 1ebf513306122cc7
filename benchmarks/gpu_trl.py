"""A stage of gpu_check.py: iterations of TRL's GRPOTrainer with vLLM in its process, with the sizes of "shared"."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import suppress
from typing import Any

from datasets import Dataset
from gpu_device import Note, peak_gib, synchronize
from gpu_models import Sizes, model_folder
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from envs.arithmetic import ArithmeticEnv

STEPS = 2  # optimizer steps of an iteration, as in gpu_runs.make_config


class Clock(TrainerCallback):
    """Measures the seconds of `count` iterations after a warm-up iteration, and then ends the training."""

    def __init__(self, count: int):
        self._count = count
        self._start = 0.0
        self.seconds: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % STEPS:
            return
        synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._start)
        self._start = now
        control.should_training_stop = len(self.seconds) > self._count


def timed_calls(owner: Any, name: str) -> list[float]:
    """Wrap a method; the returned list gets the seconds of each later call."""
    method, seconds = getattr(owner, name), []

    def call(*args: Any, **kwargs: Any) -> Any:
        synchronize()
        start = time.perf_counter()
        result = method(*args, **kwargs)
        synchronize()
        seconds.append(time.perf_counter() - start)
        return result

    setattr(owner, name, call)
    return seconds


def trl(sizes: Sizes, note: Note) -> None:
    """Medians of an iteration, its sampling and its sync. Weights are float32 under autocast, as ours are."""
    on_gpu = sizes.device == "cuda"
    group_size = 16 if on_gpu else 2
    rollouts = sizes.prompts * group_size
    at_once = min(32, rollouts // STEPS)
    with tempfile.TemporaryDirectory() as out:
        args = GRPOConfig(
            output_dir=out,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": "float32"},
            num_generations=group_size,
            max_completion_length=sizes.completion_tokens,
            shuffle_dataset=False,
            per_device_train_batch_size=at_once,
            steps_per_generation=rollouts // at_once,
            gradient_accumulation_steps=rollouts // STEPS // at_once,
            max_steps=STEPS * (sizes.iterations + 1),
            loss_type="grpo",
            beta=0.0,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
            use_vllm=on_gpu,
            **(
                {
                    "vllm_mode": "colocate",
                    "vllm_gpu_memory_utilization": 0.4,
                    "vllm_max_model_length": sizes.prefix_tokens + sizes.completion_tokens,
                }
                if on_gpu
                else {}
            ),
        )
        env = ArithmeticEnv(digits=3)
        prompts = [{"prompt": [{"role": "user", "content": env.task(n).prompt}]} for n in range(sizes.prompts * 64)]
        tokens: list[int] = []

        def reward(completions: list, completion_ids: list, **_: Any) -> list[float]:
            tokens.append(sum(map(len, completion_ids)))
            return [float(len(completion[0]["content"]) % 2) for completion in completions]

        clock = Clock(sizes.iterations)
        start = time.perf_counter()
        trainer = GRPOTrainer(
            model=model_folder(sizes.models[0], sizes.device),
            reward_funcs=reward,
            args=args,
            train_dataset=Dataset.from_list(prompts),
            callbacks=[clock],
        )
        note(boot_s=time.perf_counter() - start)
        calls: dict[str, list[float]] = {}
        with suppress(AttributeError):  # without vLLM the attribute does not exist
            calls = {name: timed_calls(trainer.vllm_generation, name) for name in ("sync_weights", "generate")}
        with peak_gib(sizes) as memory:
            trainer.train()
    iteration_s = statistics.median(clock.seconds[1:])
    note(
        iteration_s=iteration_s,
        iterations_s=clock.seconds,
        completion_tokens_s=statistics.median(tokens) / iteration_s,
        completion_tokens=tokens,
        **{name: statistics.median(seconds[1:]) for name, seconds in calls.items() if seconds[1:]},
        **memory,
    )
