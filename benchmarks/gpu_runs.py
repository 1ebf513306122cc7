"""Stages of gpu_check.py with engines: sampling, weight sync, sleep, whole iterations, a training, the tests."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from gpu_models import SHAPES, Sizes, model_folder
from timing import seconds_of, timed

from aspo_rllib import ASPOConfig
from aspo_rllib.config.env_creators import env_creator_of
from aspo_rllib.config.placement import weight_transport
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.model.policy import load_policy
from aspo_rllib.weights import sync
from aspo_rllib.weights.sync import ObjectStore

ENGINE, WEIGHTS = os.environ["GPU_CHECK_ENGINE"], os.environ["GPU_CHECK_WEIGHTS"]
GIB = 1 << 30
Note = Callable[..., None]


def used_gib() -> float:
    """Memory in use on the GPU, by all processes."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / GIB


def make_config(sizes: Sizes, gpus_per_runner: float, **training: Any) -> ASPOConfig:
    """A config for sums with a model of random weights, whose completions all have the maximal length."""
    settings = {"batch_prompts": sizes.prompts, "minibatch_prompts": max(1, sizes.prompts // 2), "num_epochs": 1}
    settings |= {"lr": 1e-6, "kl_coef": 0.0, "drop_uniform_groups": False} | training
    return (
        ASPOConfig()
        .environment("aspo/Arithmetic-v0", env_config={"digits": 3})
        .llm(
            model=model_folder(sizes.models[0], sizes.device),
            engine=ENGINE,
            dtype=sizes.dtype,
            weight_transport=WEIGHTS,
        )
        # All stages use the same value, so that vLLM compiles only once.
        .llm(max_prompt_tokens=sizes.prefix_tokens, max_num_seqs=sizes.max_num_seqs, gpu_memory_utilization=0.4)
        .sampling(group_size=16 if sizes.device == "cuda" else 2, max_completion_tokens=sizes.completion_tokens)
        .training(max_tokens_per_microbatch=sizes.microbatch_tokens, **settings)
        .env_runners(num_gpus_per_env_runner=gpus_per_runner)
        .debugging(seed=0)
    )


# ---- an engine by itself ---------------------------------------------------------------------------------------------


def engine(sizes: Sizes, note: Note) -> None:
    """Compare our runner with bare `LLM.generate`, and the engine's logprobs with the learner's; shared prefixes."""
    from aspo_rllib.rollout.env_runner import TextEnvRunner

    config = make_config(sizes, gpus_per_runner=1 if sizes.device == "cuda" else 0)
    start = time.perf_counter()
    runner = TextEnvRunner(config=config, env_creator=env_creator_of(config), worker_index=1)
    runner.assert_healthy()  # it returns when the engine has started
    note(engine=ENGINE, boot_s=time.perf_counter() - start)
    runner.stop_token_ids.clear()
    total = sizes.prompts * config.group_size * sizes.completion_tokens
    tasks = [(n, n) for n in range(sizes.prompts)]
    found: dict[str, list[float]] = {}
    groups: list[Any] = []

    def ours() -> None:
        groups[:] = runner.sample(tasks=tasks)

    ours()
    prompts = [g.rollouts[0].prompt_ids for g in groups]
    ways: dict[str, Callable[[], object]] = {"ours": ours}
    if ENGINE == "vllm":
        ways["bare generate"] = lambda: _on_engine(runner, lambda e: _generate(e, prompts, config))
    for name, way in ways.items():
        for _ in range(sizes.repeats):
            found.setdefault(name, []).append(total / seconds_of(way))
            _forget_prefixes(runner)
    note(tokens_s={name: statistics.median(rates) for name, rates in found.items()}, tokens=total)
    if ENGINE == "vllm":
        note(prefill_s=_prefixes(runner, sizes, config.group_size), **_cache(runner, config))
    note(against_learner=_drift_of(config, groups[: max(1, sizes.prompts // 4)], sizes))
    runner.stop()


def _on_engine(runner: Any, func: Callable[[Any], Any]) -> Any:
    """Run `func(engine)` in the thread that steps the engine."""
    return runner.on_engine_thread(lambda sampler: func(sampler.engine))


def _forget_prefixes(runner: Any) -> None:
    if ENGINE == "vllm":
        _on_engine(runner, lambda e: e._forget_prefixes())


def _generate(engine: Any, prompts: list[np.ndarray], config: ASPOConfig) -> None:
    """Generate with vLLM in the way that its documentation shows."""
    from vllm import SamplingParams

    params = SamplingParams(
        n=config.group_size, temperature=1.0, max_tokens=config.max_completion_tokens, logprobs=0, flat_logprobs=True,
        detokenize=False, ignore_eos=True,
    )  # fmt: skip
    outputs = engine._llm.generate([{"prompt_token_ids": p.tolist()} for p in prompts], params, use_tqdm=False)
    assert len(outputs) == len(prompts)


def _prefixes(runner: Any, sizes: Sizes, group_size: int) -> dict[str, float]:
    """Seconds to the first token, for groups that share long prompts and for the same number of different prompts."""
    rng = np.random.default_rng(0)
    vocab, length = SHAPES[sizes.models[0]]["vocab_size"], sizes.prefix_tokens - 1
    own = [rng.integers(0, vocab, length).astype(np.int32) for _ in range(sizes.prompts * group_size // 4)]
    shared = [own[n // group_size] for n in range(len(own))]

    def run(engine: Any, prompts: list[np.ndarray]) -> float:
        def all_of_them() -> None:
            for n, ids in enumerate(prompts):
                engine.submit(f"p{n}", ids, temperature=1.0, top_p=1.0, max_tokens=1, stop_token_ids=[])
            while engine.busy:
                engine.step()

        seconds = seconds_of(all_of_them)
        engine._forget_prefixes()
        return seconds

    _on_engine(runner, lambda e: run(e, own))  # warms up
    return {name: _on_engine(runner, lambda e, p=p: run(e, p)) for name, p in (("shared", shared), ("own", own))}


def _cache(runner: Any, config: ASPOConfig) -> dict[str, Any]:
    """Number of tokens in the KV cache, and the estimate of --dry-run."""
    from aspo_rllib.learner.memory import engine_memory, load_structure

    cache = _on_engine(runner, lambda e: e._llm.llm_engine.vllm_config.cache_config)
    gpu_bytes = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    estimate = engine_memory(config, load_structure(config), gpu_bytes)
    return {"kv_tokens": (cache.num_gpu_blocks or 0) * cache.block_size, "kv_tokens_estimate": estimate.kv_tokens}


def _drift_of(config: ASPOConfig, groups: list[Any], sizes: Sizes) -> dict[str, float]:
    """The engine's logprobs of sampled tokens minus those of the learner's model in the same dtype."""
    policy = load_policy(config.base_model).to(sizes.device)
    rollouts = [r for g in groups for r in g.rollouts]
    differences = []
    with torch.no_grad(), torch.autocast(sizes.device, torch.bfloat16, enabled=sizes.dtype == "bfloat16"):
        for start in range(0, len(rollouts), 16):
            part = rollouts[start : start + 16]
            tokens = LAYOUTS["packed"].pack(
                [r.prompt_ids for r in part], [r.completion_ids for r in part], sizes.device
            )
            found, _ = policy(tokens)
            differences.append(
                found[tokens.loss_mask].cpu().numpy() - np.concatenate([r.sampler_logprobs for r in part])
            )
    d = np.concatenate(differences).astype(np.float64)
    return {
        "mean": d.mean(),
        "mean_abs": np.abs(d).mean(),
        "max_abs": np.abs(d).max(),
        "kl": (np.exp(d) - 1 - d).mean(),
    }


# ---- runner and learner on one GPU -----------------------------------------------------------------------------------


@contextmanager
def _algorithm(config: ASPOConfig, sizes: Sizes) -> Iterator[Any]:
    gpus = {"num_gpus": 1} if sizes.device == "cuda" else {}
    ray.init(
        "local",
        num_cpus=8,
        include_dashboard=False,
        logging_level="ERROR",
        object_store_memory=8 * GIB if gpus else GIB,
        **gpus,
    )
    algo = config.build_algo()
    print(config.plan(), flush=True)
    try:
        yield algo
    finally:
        algo.stop()
        ray.shutdown()


def _on_one_gpu(sizes: Sizes, **training: Any) -> ASPOConfig:
    part = 0.5 if sizes.device == "cuda" else 0
    return make_config(sizes, part, **training).learners(num_learners=1, num_gpus_per_learner=part)


def _iterations(algo: Any, count: int) -> dict[str, float]:
    """Medians of an iteration's stages, and tokens per second, after a warm-up iteration."""
    algo.train()
    results = [algo.train() for _ in range(count)]
    stages = {name for r in results for name in r["time"]}
    times = {name: statistics.median(float(r["time"].get(name, "nan")) for r in results) for name in sorted(stages)}
    times["iteration_s"] = statistics.median(r["time_this_iter_s"] for r in results)
    tokens = statistics.median(float(r["tokens"]["completion"]) for r in results)
    drift = max(float(r["sync"]["max_abs_dlogp"]) for r in results)
    return times | {"completion_tokens_s": tokens / times["iteration_s"], "max_abs_dlogp": drift}


def shared(sizes: Sizes, note: Note) -> None:
    """Runner and learner share the GPU: sync by each transport with the drift before and after, sleep, iterations."""
    config = _on_one_gpu(sizes)
    start = time.perf_counter()
    with _algorithm(config, sizes) as algo:
        note(boot_s=time.perf_counter() - start, weights_by=str(weight_transport(config)))
        note(iteration=_iterations(algo, sizes.iterations))
        ways = {"object_store": ObjectStore(algo.learner_group, algo.runners), "configured": algo.transport}
        for name, way in ways.items():
            note(**{f"sync_{name}": _syncs(algo, way, sizes.repeats)})
        if sizes.device == "cuda":
            note(sleep=_sleeps(algo))


def _syncs(algo: Any, way: Any, repeats: int) -> dict[str, float]:
    """Seconds of a sync, and the drift between engine and learner after the weights changed and after the sync."""
    seconds, stale, fresh = [], [], []
    for _ in range(repeats + 1):
        algo.learner_group.on_all(_move)
        algo.learner_group._weights = None
        stale.append(_drift(algo))
        elapsed, handle = timed(way.send)
        seconds.append(elapsed)
        fresh.append(_drift(algo))
    gb_s = handle.num_bytes / statistics.median(seconds[1:]) / 1e9
    assert max(fresh) <= algo.config.sync_drift_limit, fresh
    found = {
        "seconds": statistics.median(seconds[1:]),
        "first_s": seconds[0],
        "gb": handle.num_bytes / 1e9,
        "gb_s": gb_s,
    }
    return found | {"drift_stale": min(stale), "drift_synced": max(fresh)}


def _move(learner: Any) -> None:
    """Change the learner's weights by a measurable amount."""
    learner._weights_seq_no += 1
    with torch.no_grad():
        for p in learner.policy.parameters():
            p.add_(torch.randn_like(p) * 0.1 * p.float().std().nan_to_num().clamp(min=1e-3))


def _drift(algo: Any) -> float:
    prompts = [g.rollouts[0].prompt_ids for g in algo.latest_groups[:8]]
    ((_, samples),) = algo.runners.call(lambda runner: runner.probe(prompts, 8)).items()
    completions = [s.completion_ids for s in samples]
    scores = algo.learner_group.on_all(lambda learner: learner.score(prompts, completions))[0]
    return sync.drift(scores, [s.sampler_logprobs for s in samples])


def _sleeps(algo: Any) -> dict[str, float]:
    """GPU memory that an engine releases for sleep and allocates again, and the seconds of both."""
    awake = used_gib()
    sleep_s = seconds_of(algo.runners.sleep)
    asleep = used_gib()
    wake_s = seconds_of(algo.transport.send)
    found = {
        "awake_gib": awake,
        "asleep_gib": asleep,
        "awake_again_gib": used_gib(),
        "sleep_s": sleep_s,
        "wake_s": wake_s,
    }
    return found | {"drift": _drift(algo)}


def overlap(sizes: Sizes, note: Note) -> None:
    """The same iterations with overlapped sampling: the engine does not sleep, so that both must fit on the GPU."""
    config = _on_one_gpu(sizes, max_staleness=1).training(max_tokens_per_microbatch=sizes.microbatch_tokens // 2)
    config.llm(sleep=False if sizes.device == "cuda" else None, gpu_memory_utilization=0.25)
    with _algorithm(config, sizes) as algo:
        note(iteration=_iterations(algo, sizes.iterations))


# ---- a training, and the tests ---------------------------------------------------------------------------------------


def quickstart(sizes: Sizes, note: Note) -> None:
    """Train the bundled model, and check that it learns as it does on CPUs."""
    from tuned_examples.arithmetic_aspo import make_config as quickstart_config

    part = 0.5 if sizes.device == "cuda" else 0
    config = quickstart_config("aspo", 0, sizes.quickstart_iterations).llm(engine=ENGINE, dtype=sizes.dtype)
    config.llm(gpu_memory_utilization=0.3, weight_transport=WEIGHTS).env_runners(num_gpus_per_env_runner=part)
    config.learners(num_learners=1, num_gpus_per_learner=part)
    with _algorithm(config, sizes) as algo:
        results = [algo.train() for _ in range(sizes.quickstart_iterations)]
    accuracy = [round(float(r["reward"]["accuracy"]), 3) for r in results]
    held_out = {"before": results[0]["evaluation_at_start"]["accuracy"], "after": results[-1]["evaluation"]["accuracy"]}
    seconds = statistics.median(r["time_this_iter_s"] for r in results)
    drift = max(float(r["sync"]["max_abs_dlogp"]) for r in results)
    kl = max(float(r["kl"]["sampler"]) for r in results)
    note(accuracy=accuracy, held_out=held_out, iteration_s=seconds, max_abs_dlogp=drift, max_kl_sampler=kl)
    if sizes.device == "cuda":
        assert held_out["after"] > 0.6, held_out  # 0.34 before; on CPUs 0.87 or so after 20 iterations


def tests(sizes: Sizes, note: Note) -> None:
    """Run tests/test_gpu.py."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-m", "gpu", "-v", "-rfEs", "--timeout", "120"]
    command += ["--durations=0", "-p", "no:cacheprovider", "-o", "addopts="]
    with subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        ends: list[str] = []
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.search(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b|\d (passed|failed|skipped)|[\d.]+s (call|setup) ", line):
                ends.append(line.strip()[:300])
                note(lines=ends)
    if process.returncode not in (0, 5):
        raise AssertionError(f"pytest ended with {process.returncode}")
