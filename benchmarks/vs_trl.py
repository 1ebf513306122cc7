"""A whole training iteration of this package beside TRL's GRPOTrainer, on the bundled model and one machine's CPUs.

    python benchmarks/vs_trl.py                                                  # both settings, 1 and 12 steps
    python benchmarks/vs_trl.py --settings fixed --steps 1 --repeats 1 --prompts 4 --group-size 4 --iterations 1

"fixed": every completion has 64 tokens: the end token is one that the model has no logit for. "stops": the model is
flattened to draw every token alike, and 4 of its 261 tokens end a completion: geometric lengths, cut at 192 tokens;
the table shows what they came to. Both systems load the same folder, get the same prompts in the same order, reward a
completion by the parity of its length, train float32 with GRPO's loss, no KL and AdamW on every rollout, and have one
thread per process. "steps" are optimizer steps per batch: 12 are 3 epochs of 4 mini-batches.

TRL: plain `generate` with its default (dynamic) cache, forward and backward over a quarter of the batch at a time,
without gradient checkpointing: the fastest of what it offers on a CPU. Ours: one runner, the learner in the driver.

Every repeat is a fresh process of each system, in turn; medians. Counted are all processes of a system, Ray's included,
from the end of the warm-up on. Memory is the largest sum of their proportional shares (PSS) in one iteration more.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from aspo_rllib import TINY_MODEL
from aspo_rllib.task_order import TaskOrder
from envs.arithmetic import ArithmeticEnv
from envs.text_env import Grade, Task

CAP_TOKENS = {"fixed": 64, "stops": 192}
STOP_TOKENS = (1, 2, 3, 4)  # of 261, all alike in likelihood: 65 tokens on average, were there no cap
EPOCHS_AND_MINIBATCHES = {1: (1, 1), 12: (3, 4)}
TRL_PARTS = 4  # of a batch, each one forward pass of TRL's
WARM_UP = 1
MEMORY_POLL_S = 0.2


@dataclass(frozen=True)
class Job:
    """What one process of one system does."""

    system: str
    model: str
    setting: str
    steps: int
    prompts: int
    group_size: int
    iterations: int
    overlap: int | None


def reward_of(completion: str) -> float:
    """A coin that costs nothing to toss: most groups get both sides, whatever the model says."""
    return float(len(completion) % 2)


class ParityEnv(ArithmeticEnv):
    """Three-digit sums as prompts, `reward_of` as the verdict."""

    def __init__(self, env_config: dict | None = None):  # RLlib makes an env class with its env_config
        super().__init__(**(env_config or {}))

    def grade(self, task: Task, completion: str) -> Grade:
        reward = reward_of(completion)
        return Grade(reward, bool(reward), extracted=None, status="ok" if reward else "wrong")


def save_model(folder: Path, setting: str) -> None:
    """The bundled model, ending its completions as the setting asks, for both systems to load."""
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    if setting == "fixed":
        tokenizer.add_special_tokens({"eos_token": "<|never|>"})
        assert tokenizer.eos_token_id >= model.config.vocab_size
        ends = [tokenizer.eos_token_id]
    else:
        model.get_decoder().norm.weight.data.zero_().add_(1e-3)
        ends = list(STOP_TOKENS)
    model.config.eos_token_id = ends
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ---- in the process of one system: `mark(name)` at the end of each phase, and the lengths of its completions ---------


def run_ours(job: Job, mark: Callable[[str], None]) -> list[int]:
    import ray

    from aspo_rllib import ASPOConfig

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    epochs, minibatches = EPOCHS_AND_MINIBATCHES[job.steps]
    overlap = {} if job.overlap is None else {"max_staleness": job.overlap}
    config = (
        ASPOConfig()
        .environment(ParityEnv)
        .llm(model=job.model, max_prompt_tokens=32, max_num_seqs=job.prompts * job.group_size)
        .sampling(group_size=job.group_size, max_completion_tokens=CAP_TOKENS[job.setting])
        .training(
            loss="grpo",
            batch_prompts=job.prompts,
            minibatch_prompts=job.prompts // minibatches,
            num_epochs=epochs,
            lr=1e-6,
            weight_decay=0.0,
            kl_coef=0.0,
            drop_uniform_groups=False,
            **overlap,
        )
        .debugging(seed=0)
    )
    algo = config.build_algo()
    if job.setting == "fixed":  # vLLM refuses an end token that the model has no logit for
        algo.env_runner_group.foreach_env_runner(lambda runner: runner.stop_token_ids.clear(), local_env_runner=False)
    lengths = []
    for phase, iterations in phases(job):
        for _ in range(iterations):
            result = algo.train()
            assert result["optim"]["steps"] == job.steps * algo.iteration, result["optim"]
            lengths += [len(r.completion_ids) for g in algo.latest_groups for r in g.rollouts]
        mark(phase)
    algo.stop()
    ray.shutdown()
    return lengths


def run_trl(job: Job, mark: Callable[[str], None]) -> list[int]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    env, lengths = ParityEnv(), []
    total = sum(iterations for _, iterations in phases(job))
    tasks = TaskOrder(len(env), seed=0).lease(job.prompts * total)
    prompts = [{"prompt": [{"role": "user", "content": env.task(index).prompt}]} for _, index in tasks]
    epochs, minibatches = EPOCHS_AND_MINIBATCHES[job.steps]
    config = GRPOConfig(
        output_dir=f"{job.model}/out",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        num_generations=job.group_size,
        max_completion_length=CAP_TOKENS[job.setting],
        shuffle_dataset=False,
        per_device_train_batch_size=job.prompts * job.group_size // TRL_PARTS,
        steps_per_generation=TRL_PARTS,
        gradient_accumulation_steps=TRL_PARTS // minibatches,
        num_iterations=epochs,
        max_steps=total * job.steps,
        loss_type="grpo",
        beta=0.0,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        logging_steps=job.steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    ends, done = {}, 0
    for phase, iterations in phases(job):
        done += iterations
        ends[done * job.steps] = phase

    def reward(completions, completion_ids, **_) -> list[float]:
        lengths.extend(len(ids) for ids in completion_ids)
        return [reward_of(completion[0]["content"]) for completion in completions]

    class Marks(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step in ends:
                mark(ends[state.global_step])

    GRPOTrainer(
        model=job.model, reward_funcs=reward, args=config, train_dataset=Dataset.from_list(prompts), callbacks=[Marks()]
    ).train()
    return lengths


SYSTEMS = {"ours": run_ours, "TRL": run_trl}


def phases(job: Job) -> list[tuple[str, int]]:
    return [("warm-up", WARM_UP), ("timed", job.iterations), ("memory", 1)]


def child(job: Job) -> None:
    """Run the job; each mark waits until the parent has read the clocks."""

    def mark(phase: str) -> None:
        print(f"MARK {phase}", flush=True)
        sys.stdin.readline()

    print("LENGTHS", json.dumps(SYSTEMS[job.system](job, mark)), flush=True)


# ---- in the parent ---------------------------------------------------------------------------------------------------


def tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all below it, those that have ended included."""
    total = 0.0
    for process in tree(pid):
        try:
            total += sum(process.cpu_times()[:4])  # its own, and that of its children that have ended
        except psutil.NoSuchProcess:
            continue
    return total


def pss_bytes(pid: int) -> int:
    """Resident memory of the tree, pages that several processes share counted once."""
    total = 0
    for process in tree(pid):
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


class Watch:
    """Follows one child by its marks."""

    def __init__(self, job: Job, log: Path):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAY_ADDRESS": "local"}
        command = [sys.executable, __file__, "--job", json.dumps(asdict(job))]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self.log = log

    def expect(self, start: str) -> str:
        """The rest of the next line that starts like this; what libraries print in between is passed over."""
        for line in self.process.stdout:
            if line.startswith(start):
                return line[len(start) :]
        raise RuntimeError(f"{' '.join(self.process.args[:2])} ended early:\n{self.log.read_text()[-3000:]}")

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def peak_until_mark(self) -> int:
        """Largest PSS until the next mark."""
        peak, ended = [pss_bytes(self.process.pid)], threading.Event()

        def poll() -> None:
            while not ended.wait(MEMORY_POLL_S):
                peak.append(pss_bytes(self.process.pid))

        thread = threading.Thread(target=poll)
        thread.start()
        try:
            self.expect("MARK memory")
        finally:
            ended.set()
            thread.join()
        return max(peak)


def measure(job: Job, log: Path) -> dict[str, float]:
    """One repeat of one system."""
    watch = Watch(job, log)
    pid = watch.process.pid
    watch.expect("MARK warm-up")
    start, cpu = time.perf_counter(), cpu_seconds(pid)
    watch.go_on()
    watch.expect("MARK timed")
    wall_s, cpu_s = time.perf_counter() - start, cpu_seconds(pid) - cpu
    watch.go_on()
    peak = watch.peak_until_mark()
    watch.go_on()
    lengths = json.loads(watch.expect("LENGTHS "))
    watch.process.communicate()
    completions = job.iterations * job.prompts * job.group_size
    assert len(lengths) == completions + (WARM_UP + 1) * job.prompts * job.group_size, len(lengths)
    quantiles = {f"p{q}": float(np.percentile(lengths, q)) for q in (10, 90, 100)}
    return {
        "per_cpu_s": completions / cpu_s,
        "per_wall_s": completions / wall_s,
        "peak_bytes": peak,
        "mean": statistics.fmean(lengths),
        **quantiles,
    }


def report(setting: str, steps: int, repeats: dict[str, list[dict[str, float]]]) -> None:
    """Both systems' medians, and the median over the repeats of their ratio."""
    for system, results in repeats.items():
        m = {name: statistics.median(r[name] for r in results) for name in results[0]}
        print(
            f"{setting:<6} {steps:>5} {system:<6} {m['per_cpu_s']:>13.1f} {m['per_wall_s']:>14.1f}"
            f" {m['peak_bytes'] / 1e6:>8.0f}   {m['mean']:.0f} ({m['p10']:.0f} to {m['p90']:.0f}, {m['p100']:.0f})"
        )
    pairs = list(zip(repeats["ours"], repeats["TRL"], strict=True))
    ratios = [statistics.median(ours[n] / trl[n] for ours, trl in pairs) for n in ("per_cpu_s", "per_wall_s")]
    memory = statistics.median(ours["peak_bytes"] / trl["peak_bytes"] for ours, trl in pairs)
    print(f"{'':<12} {'ratio':<6} {ratios[0]:>13.2f} {ratios[1]:>14.2f} {memory:>8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=list(CAP_TOKENS), default=list(CAP_TOKENS))
    parser.add_argument("--steps", type=int, nargs="+", choices=list(EPOCHS_AND_MINIBATCHES), default=[1, 12])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=32, help=f"per iteration, a multiple of {TRL_PARTS}")
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=4, help="timed ones, after a warm-up")
    parser.add_argument("--overlap", type=int, help="ours generates beside learning: .training(max_staleness=...)")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        return child(Job(**json.loads(args.job)))
    if args.prompts % TRL_PARTS:
        parser.error(f"--prompts {args.prompts}: expected a multiple of {TRL_PARTS}")
    missing = [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f'{" and ".join(missing)} missing: pip install "trl==1.16.*"')

    print(f"{args.prompts} prompts x {args.group_size}, {args.iterations} iterations, {args.repeats} repeat(s)")
    print(f"{'':<6} {'steps':>5} {'':<6} {'compl./CPU s':>13} {'compl./wall s':>14} {'peak MB':>8}", end="   ")
    print("tokens: mean (10% to 90%, longest)", flush=True)
    for setting in args.settings:
        with tempfile.TemporaryDirectory(prefix="vs-trl-") as scratch:
            folder = Path(scratch) / "model"
            save_model(folder, setting)
            for steps in args.steps:
                repeats: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
                for _ in range(args.repeats):
                    for system in SYSTEMS:
                        job = Job(
                            system=system,
                            model=str(folder),
                            setting=setting,
                            steps=steps,
                            prompts=args.prompts,
                            group_size=args.group_size,
                            iterations=args.iterations,
                            overlap=args.overlap,
                        )
                        repeats[system].append(measure(job, Path(scratch) / "errors.log"))
                report(setting, steps, repeats)


if __name__ == "__main__":
    main()
