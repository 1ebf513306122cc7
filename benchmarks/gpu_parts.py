"""Stages of gpu_check.py on parts of the model: the machine under them, attention, and the head."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import torch
from gpu_device import GIB, Note, empty, matrix_flops, median_seconds, peak_gib, relative, synchronize
from gpu_models import Sizes, make_groups, model_config
from torch import Tensor
from transformers import Qwen3ForCausalLM

from aspo_rllib.model import logprobs as head
from aspo_rllib.model import packing
from aspo_rllib.model.layouts import LAYOUTS, Layout
from aspo_rllib.model.policy import Policy
from aspo_rllib.types import RolloutGroup

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
        note(**{f"matrix_{str(dtype)[6:]}_tflops": matrix_flops(sizes, dtype) / 1e12})
    source = torch.randn(4 * sizes.matrix**2, device=sizes.device)
    target = torch.empty_like(source)
    note(copy_tb_s=2 * source.nbytes / median_seconds(lambda: target.copy_(source), 10) / 1e12)


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
