"""Stages of gpu_check.py without an engine: the machine, attention, the head, a learner's optimizer step."""

from __future__ import annotations

import gc
import platform
import shutil
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from gpu_models import SHAPES, Sizes, make_groups, model_config, model_folder, training_flops
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from aspo_rllib.losses import policy_loss, resolve_loss
from aspo_rllib.model import logprobs as head
from aspo_rllib.model import packing
from aspo_rllib.model.layers import recompute_layers
from aspo_rllib.model.layouts import LAYOUTS, Layout
from aspo_rllib.model.policy import Policy, compile_policy, load_policy
from aspo_rllib.types import RolloutGroup

GIB = 1 << 30
Note = Callable[..., None]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(func: Callable[[], object]) -> float:
    """Seconds until the device has finished the work of a call."""
    synchronize()
    start = time.perf_counter()
    func()
    synchronize()
    return time.perf_counter() - start


def median_seconds(func: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` calls, after a warm-up call."""
    func()
    return statistics.median(seconds_of(func) for _ in range(repeats))


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|."""
    return float((a.double() - b.double()).norm() / b.double().norm())


@contextmanager
def peak_gib(sizes: Sizes) -> Iterator[dict[str, float]]:
    """{"peak": ..., "kept": ...}: the largest and the last number of GiB allocated inside; empty on CPUs."""
    found: dict[str, float] = {}
    if sizes.device == "cpu":
        yield found
        return
    synchronize()
    torch.cuda.reset_peak_memory_stats()
    yield found
    synchronize()
    found |= {"peak": torch.cuda.max_memory_allocated() / GIB, "kept": torch.cuda.memory_allocated() / GIB}


def empty() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---- the machine -----------------------------------------------------------------------------------------------------


def versions(sizes: Sizes, note: Note) -> None:
    """Installed versions, and two upper limits of speed: a matrix product and a copy."""
    names = ("torch", "triton", "transformers", "ray", "vllm", "gymnasium", "numpy", "peft")
    note(python=platform.python_version(), **{name: _version(name) for name in names})
    if sizes.device == "cuda":
        device = torch.cuda.get_device_properties(0)
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,memory.used", "--format=csv,noheader"]
        smi = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else "none"
        note(device=device.name, memory_gib=device.total_memory / GIB, cuda=torch.version.cuda, nvidia_smi=smi)
    for dtype in (torch.bfloat16, torch.float32):
        note(**{f"matrix_{str(dtype)[6:]}_tflops": _matrix_flops(sizes, dtype) / 1e12})
    source = torch.randn(4 * sizes.matrix**2, device=sizes.device)
    target = torch.empty_like(source)
    note(copy_tb_s=2 * source.nbytes / median_seconds(lambda: target.copy_(source), 10) / 1e12)


def _matrix_flops(sizes: Sizes, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    n = sizes.matrix
    a, b = (torch.randn(n, n, device=sizes.device).to(dtype) for _ in range(2))
    return 2 * n**3 / median_seconds(lambda: a @ b, 10)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


# ---- attention -------------------------------------------------------------------------------------------------------


def attention(sizes: Sizes, note: Note) -> None:
    """Check that all layouts, and both attentions of a packed row, give the same logprobs and gradients."""
    _check_kernels(sizes, note)
    torch.manual_seed(0)
    config = model_config("tiny" if sizes.device == "cpu" else "0.6B")
    config.num_hidden_layers, config.vocab_size, config.initializer_range = 2, 4096, 0.05
    config.layer_types = config.layer_types[:2]
    with torch.device(sizes.device):
        hf_model = Qwen3ForCausalLM(config)
    packing.use_attention(hf_model, packing.SEQUENCE_ATTENTION)
    policy = Policy(hf_model.eval())
    groups = make_groups(3, 4, sizes.prompt_tokens // 2, sizes.longest_tokens // 2, config.vocab_size)
    exact = _score(policy, groups, LAYOUTS["padded"], sizes, torch.float32, alone=True)
    calls: Counter[str] = Counter()
    for dtype in (torch.float32, torch.bfloat16):
        errors = {}
        for name, layout in LAYOUTS.items():
            with _counted(calls if name == "packed" and dtype != torch.float32 else Counter()):
                logprobs, gradient = _score(policy, groups, layout, sizes, dtype)
            difference = (logprobs - exact[0]).abs()
            errors[name] = {
                "logprob_max": float(difference.max()),
                "logprob_mean": float(difference.mean()),
                "gradient": relative(gradient, exact[1]),
            }
        note(**{f"{str(dtype)[6:]}_against_one_by_one_float32": errors})
        limit = 1e-3 if dtype == torch.float32 else 2 * errors["padded"]["gradient"]
        wrong = [name for name, e in errors.items() if not e["gradient"] <= limit]  # NaN is wrong, too
        assert not wrong, (dtype, wrong, errors)
    note(calls_of_packed_bfloat16=calls)
    assert sizes.device == "cpu" or calls["_flash"], f"flash attention was never called: {calls}"


@contextmanager
def _counted(calls: Counter[str]) -> Iterator[None]:
    """Count how often each of the two attentions of a packed row is called."""
    kept = {name: getattr(packing, name) for name in ("_flash", "_each_sequence")}

    def counting(name: str) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            calls[name] += 1
            return kept[name](*args)

        return call

    for name in kept:
        setattr(packing, name, counting(name))
    try:
        yield
    finally:
        for name, func in kept.items():
            setattr(packing, name, func)


def _score(
    policy: Policy, groups: list[RolloutGroup], layout: Layout, sizes: Sizes, dtype: torch.dtype, alone: bool = False
) -> tuple[Tensor, Tensor]:
    """Concatenated logprobs of all completions, and the gradient of a loss over them.

    alone: whether each completion has its own forward pass.
    """
    rollouts = [r for group in groups for r in group.rollouts]
    parts = [[r] for r in rollouts] if alone else [rollouts]
    policy.zero_grad()
    logprobs = []
    low = torch.autocast(sizes.device, dtype) if dtype != torch.float32 else nullcontext()
    for part in parts:
        tokens = layout.pack([r.prompt_ids for r in part], [r.completion_ids for r in part], sizes.device)
        with low:
            found, entropy = policy(tokens)
        signs = torch.tensor([1.0 if r.correct else -0.5 for r in part], device=sizes.device)[:, None]
        (found * signs + 0.01 * entropy).sum().backward()
        logprobs.append(found.detach()[tokens.loss_mask])
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    return torch.cat(logprobs), gradient.clone()


def _check_kernels(sizes: Sizes, note: Note) -> None:
    """Compare sequence_attention over a packed row with float32, for grouped heads, with and without a window.

    It also measures the time.
    """
    heads, kv_heads, width = (4, 2, 32) if sizes.device == "cpu" else (16, 8, 128)
    lengths = [sizes.longest_tokens // d for d in (1, 2, 3, 5, 8, 13)]
    bounds = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32, device=sizes.device)
    total = int(bounds[-1])
    dtype = getattr(torch, sizes.dtype)
    for window in (None, lengths[0] // 4):
        torch.manual_seed(1)
        shapes = [(1, h, total, width) for h in (heads, kv_heads, kv_heads)]
        inputs = [torch.randn(s, device=sizes.device).to(dtype).requires_grad_() for s in shapes]
        weight = torch.randn(1, total, heads, width, device=sizes.device)
        sequences = {"cu_seq_lens_q": bounds, "max_length_q": max(lengths), "sliding_window": window}

        def attend(tensors: list[Tensor], weight: Tensor = weight, sequences: dict = sequences) -> list[Tensor]:
            out, _ = packing.sequence_attention(torch.nn.Identity(), *tensors, None, scaling=width**-0.5, **sequences)
            return [out, *torch.autograd.grad((out.float() * weight).sum(), tensors)]

        found = attend(inputs)
        exact = attend([x.detach().double().requires_grad_() for x in inputs])  # float64: sequence by sequence
        errors = [relative(f, e) for f, e in zip(found, exact, strict=True)]
        name = "full" if window is None else "window"
        seconds = median_seconds(partial(attend, inputs), 5 * sizes.repeats)
        note(**{f"kernel_{name}": dict(zip(("out", "dq", "dk", "dv"), errors, strict=True)) | {"ms": 1e3 * seconds}})
        assert max(errors) < (1e-5 if dtype == torch.float32 else 2e-2), errors
    if sizes.device == "cuda":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
            attend(inputs)
            synchronize()
        note(
            kernel_names=[
                e.key[:60] for e in trace.key_averages() if "flash" in e.key.lower() or "fmha" in e.key.lower()
            ]
        )


# ---- the head --------------------------------------------------------------------------------------------------------


def logprobs(sizes: Sizes, note: Note) -> None:
    """Compare logprobs and entropies in tiles with whole logits: results, time and memory. Finds the fastest tiles."""
    dtype = getattr(torch, sizes.dtype)
    torch.manual_seed(0)
    hidden = torch.randn(sizes.positions, sizes.width, device=sizes.device).to(dtype)
    weight = (2 * torch.randn(sizes.vocabulary, sizes.width, device=sizes.device) * sizes.width**-0.5).to(dtype)
    targets = torch.randint(sizes.vocabulary, (sizes.positions,), device=sizes.device)
    slope = torch.linspace(-1, 1, sizes.positions, device=sizes.device)

    def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return head.token_logprobs(torch.nn.functional.linear(hidden, weight), targets)

    def step(method: Callable) -> list[Tensor]:
        x, w = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        found, entropy = method(x, w, targets)
        (found * slope + 0.01 * entropy).sum().backward()
        return [found.detach(), entropy.detach(), x.grad, w.grad]

    names = ("logprob", "entropy", "d_hidden", "d_weight")
    few = slice(0, min(512, sizes.positions))
    double = head.token_logprobs(hidden[few].double() @ weight.double().T, targets[few])
    tiles = partial(head.linear_logprobs, tile_math=head.compiled_tile_math())
    for name, method in {"tiles": tiles, "tiles, not compiled": head.linear_logprobs, "plain": plain}.items():
        try:
            with peak_gib(sizes) as memory:
                found = step(method)
            note(**{name: {"seconds": median_seconds(partial(step, method), sizes.repeats), **memory}})
            exact = {
                f"{n}_max": float((f[few].double() - d).abs().max())
                for n, f, d in zip(names, found, double, strict=False)
            }
            note(**{f"{name}_against_float64": exact})
        except torch.OutOfMemoryError:
            note(**{name: "out of memory"})
            empty()
            continue
        if name == "tiles":
            by_tiles = found
        else:
            note(tiles_against_plain={n: relative(t, f) for n, t, f in zip(names, by_tiles, found, strict=True)})
        del found
        empty()
    chosen = head.TILES[sizes.device]
    tried = {}
    for rows, columns in (chosen, (4096, 8192), (8192, 8192), (8192, 16384), (16384, 16384)):
        head.TILES[sizes.device] = (rows, columns)
        tried[f"{rows}x{columns}"] = median_seconds(partial(step, tiles), sizes.repeats)
    head.TILES[sizes.device] = chosen
    note(seconds_by_tile=tried)


# ---- a learner's optimizer step --------------------------------------------------------------------------------------


def learner(sizes: Sizes, note: Note) -> None:
    """Optimizer steps of ours and of bare transformers: tokens per second, share of peak speed, and memory."""
    ceiling = _matrix_flops(sizes, torch.bfloat16)
    found: dict[str, dict[str, Any]] = {}
    for shape, way, make in _ways(sizes):
        work = (sizes.train_groups, sizes.group_size, sizes.prompt_tokens, sizes.longest_tokens)
        groups = make_groups(*work, vocab=SHAPES[shape]["vocab_size"])
        tokens, flops = sum(r.num_tokens for g in groups for r in g.rollouts), training_flops(shape, groups)
        folder = model_folder(shape, sizes.device)
        results = found.setdefault(shape, {"tokens": tokens, "flops": flops})
        step = None
        try:
            with peak_gib(sizes) as memory:
                step = make(folder, groups, sizes)
                seconds = median_seconds(step, sizes.repeats)
            speed = {"tokens_s": tokens / seconds, "seconds": seconds, "of_matrix": flops / seconds / ceiling}
            results[way] = speed | memory
        except Exception as error:  # the other variants may still work
            results[way] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        note(**found)
        del step
        empty()
    if find_spec("ray") is not None:
        for shape in sizes.models:
            found[shape]["estimate_gib"] = _estimate(model_folder(shape, sizes.device), sizes)
        note(**found)


def _ways(sizes: Sizes) -> list[tuple[str, str, Callable[..., Callable[[], None]]]]:
    """(model, name, factory of a function that takes one optimizer step), the most important ones first."""
    ours = _our_step if find_spec("ray") is not None else _policy_step
    first, *larger = sizes.models
    recomputed = {"layout": "packed", "gradient_checkpointing": True}
    return [
        (first, "ours, packed", partial(ours, layout="packed")),
        (first, "ours, shared", partial(ours, layout="shared")),
        (first, "bare, padded", partial(_bare_step, padded=True)),
        (first, "ours, packed, recomputed", partial(ours, **recomputed)),
        *((shape, "ours, as the estimate says", partial(ours, layout="packed")) for shape in larger),
        *((shape, "bare, one by one", partial(_bare_step, padded=False)) for shape in larger),
        (first, "ours, packed, not compiled", partial(ours, layout="packed", compile_learner=False)),
        (first, "bare, one by one", partial(_bare_step, padded=False)),
    ]


def _advantages(groups: list[RolloutGroup]) -> list[np.ndarray]:
    return [np.where([r.correct for r in g.rollouts], 1.0, -1.0) for g in groups]


def _our_config(folder: str, sizes: Sizes, **llm: Any) -> Any:
    from aspo_rllib import ASPOConfig

    config = ASPOConfig().environment("aspo/Arithmetic-v0").llm(model=folder, dtype=sizes.dtype, **llm)
    config.llm(max_prompt_tokens=sizes.prompt_tokens).sampling(max_completion_tokens=sizes.longest_tokens)
    config.training(kl_coef=0.0, lr=1e-6, max_tokens_per_microbatch=sizes.microbatch_tokens)
    return config.learners(num_gpus_per_learner=1 if sizes.device == "cuda" else 0)


def _our_step(folder: str, groups: list[RolloutGroup], sizes: Sizes, layout: str, **llm: Any) -> Callable[[], None]:
    """One step of the real learner."""
    import ray
    from ray.rllib.core import DEFAULT_MODULE_ID

    from aspo_rllib.learner.batching import build_train_batches
    from aspo_rllib.learner.learner import ASPOTorchLearner
    from aspo_rllib.learner.tally import Tally
    from envs.text_env import TextSpace

    if not ray.is_initialized():  # RLlib gets the device from it
        ray.init("local", include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    config = _our_config(folder, sizes, **llm).training(layout=layout)
    config.validate()
    spec = config.get_multi_rl_module_spec(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})
    learner = ASPOTorchLearner(config=config, module_spec=spec)
    learner.build()
    (batch,) = build_train_batches(
        groups,
        _advantages(groups),
        num_learners=1,
        minibatch_prompts=len(groups),
        max_tokens_per_microbatch=sizes.microbatch_tokens,
        layout=LAYOUTS[layout],
    )
    learner.tally = Tally()
    microbatches = learner._cut(batch, batch.minibatches[0])
    return lambda: learner._optimizer_step(microbatches)


def _policy_step(
    folder: str,
    groups: list[RolloutGroup],
    sizes: Sizes,
    layout: str,
    fused: bool = False,
    narrow: bool = False,
    **llm: Any,
) -> Callable[[], None]:
    """The same step with only the modules that need no Ray: model, layouts, logprobs, loss.

    narrow: whether the weights have the type `dtype` as well.
    """
    from aspo_rllib.learner.batching import cut_microbatches

    policy = load_policy(folder).to(sizes.device)
    if narrow:
        policy.to(getattr(torch, sizes.dtype))
    if llm.get("compile_learner"):
        compile_policy(policy, torch.device(sizes.device))
    if llm.get("gradient_checkpointing"):
        recompute_layers(policy.hf_model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=fused or None)
    rollouts = [r for g in groups for r in g.rollouts]
    advantages = np.concatenate(_advantages(groups)).astype(np.float32)
    total = sum(len(r.completion_ids) for r in rollouts)
    cuts = cut_microbatches([r.num_tokens for r in rollouts], sizes.microbatch_tokens, cost=LAYOUTS[layout].cost)
    method = resolve_loss("aspo")
    parts = []
    for rows in cuts:
        own = [rollouts[i] for i in rows]
        tokens = LAYOUTS[layout].pack([r.prompt_ids for r in own], [r.completion_ids for r in own], sizes.device)
        parts.append((tokens, torch.from_numpy(advantages[rows]).to(sizes.device)))
    autocast = sizes.dtype != "float32" and not narrow
    low = torch.autocast(sizes.device, getattr(torch, sizes.dtype)) if autocast else nullcontext()

    def step() -> None:
        optimizer.zero_grad()
        for tokens, own in parts:
            with low:
                found, _ = policy(tokens)
            mask = tokens.loss_mask
            out = policy_loss(
                found, found.detach(), own, mask, loss=method.token_weight, coefficients=mask / total,
                clip_low=0.2, clip_high=0.2, weight_cap=3.0,
            )  # fmt: skip
            out.loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()

    return step


def kernels(sizes: Sizes, note: Note) -> None:
    """Where a learner's step spends its time: the slowest kernels, and how much other variants would save."""
    shape = sizes.models[0]
    groups = make_groups(
        sizes.train_groups, sizes.group_size, sizes.prompt_tokens, sizes.longest_tokens, SHAPES[shape]["vocab_size"]
    )
    tokens = sum(r.num_tokens for g in groups for r in g.rollouts)
    folder = model_folder(shape, sizes.device)
    ways: dict[str, dict[str, Any]] = {
        "compiled": {"compile_learner": True},
        "compiled, weights in bfloat16": {"compile_learner": True, "narrow": True},
    }
    for name, options in ways.items():
        start = time.perf_counter()
        try:
            with peak_gib(sizes) as memory:
                step = _policy_step(folder, groups, sizes, "packed", fused=True, **options)
                step()
                warm_s = time.perf_counter() - start
                seconds = median_seconds(step, sizes.repeats)
        except Exception as error:  # the other variants may still work
            note(**{name: f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
            step = None
            empty()
            continue
        note(**{name: {"tokens_s": tokens / seconds, "seconds": seconds, "warm_s": warm_s, **memory}})
        if sizes.device == "cuda":
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
                step()
                synchronize()
            events = sorted(trace.key_averages(), key=lambda e: -e.self_device_time_total)
            total = sum(e.self_device_time_total for e in events)
            note(
                **{
                    f"{name}: kernels": {
                        "all_ms": total / 1e3,
                        **{
                            f"{i:02} {e.key[:90]} x{e.count}": e.self_device_time_total / 1e3
                            for i, e in enumerate(events[:22])
                        },
                    }
                }
            )
        step = None
        empty()


def _bare_step(folder: str, groups: list[RolloutGroup], sizes: Sizes, padded: bool) -> Callable[[], None]:
    """Only transformers with "sdpa", and torch: whole logits, in small padded micro-batches or one by one."""
    from aspo_rllib.learner.batching import cut_microbatches
    from aspo_rllib.model.layouts import padded_tokens

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").to(
        sizes.device
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    rollouts = [r for g in groups for r in g.rollouts]
    total = sum(len(r.completion_ids) for r in rollouts)
    cuts = [[i] for i in range(len(rollouts))]
    if padded:
        # Whole logits of 16,384 positions and the tensors that autograd keeps of them would take 40 GB.
        cuts = cut_microbatches([r.num_tokens for r in rollouts], sizes.microbatch_tokens // 4, cost=padded_tokens)
    parts = []
    for rows in cuts:
        tokens = packing.pad_rows(
            *zip(*((rollouts[i].prompt_ids, rollouts[i].completion_ids) for i in rows), strict=True), "cpu"
        )
        ids, mask = tokens.input_ids, torch.zeros(tokens.input_ids.numel(), dtype=torch.bool)
        mask[tokens.predictors] = True
        parts.append((ids.to(sizes.device), mask.view_as(ids)[:, :-1].to(sizes.device)))
    low = torch.autocast(sizes.device, getattr(torch, sizes.dtype)) if sizes.dtype != "float32" else nullcontext()

    def step() -> None:
        optimizer.zero_grad()
        for ids, mask in parts:
            with low:
                logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            found = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            (-(found * mask).sum() / total).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _estimate(folder: str, sizes: Sizes) -> dict[str, float]:
    """The estimate of --dry-run for a learner, without and with recomputed layers."""
    from aspo_rllib.learner.memory import learner_memory, load_structure

    def gib(recomputed: bool) -> float:
        config = _our_config(folder, sizes, gradient_checkpointing=recomputed).training(
            layout="packed", minibatch_prompts=64
        )
        return learner_memory(config, load_structure(config)).device_bytes(cpu_offload=False) / GIB

    return {"packed": gib(False), "packed, recomputed": gib(True)}
