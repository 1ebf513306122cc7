"""Stages of gpu_check.py: a learner's optimizer step, of the real learner, of its parts, and of bare transformers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from gpu_device import GIB, Note, empty, matrix_flops, median_seconds, peak_gib, synchronize
from gpu_models import SHAPES, Sizes, make_groups, model_folder, training_flops
from transformers import AutoModelForCausalLM

from aspo_rllib.losses import policy_loss, resolve_loss
from aspo_rllib.model import packing
from aspo_rllib.model.layers import recompute_layers
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.model.policy import compile_policy, load_policy
from aspo_rllib.types import RolloutGroup


def learner(sizes: Sizes, note: Note) -> None:
    """Optimizer steps of ours and of bare transformers: tokens per second, share of peak speed, and memory."""
    ceiling = matrix_flops(sizes, torch.bfloat16)
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
