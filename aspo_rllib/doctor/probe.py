"""Checks that an engine with new weights computes the same as the learner's model. This imports all libraries."""

from __future__ import annotations

import numpy as np
import torch

from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.config.vllm_environment import CPU_KV_CACHE_BYTES
from aspo_rllib.doctor import preflight
from aspo_rllib.doctor.finding import Finding
from aspo_rllib.doctor.imports import VLLM, import_error, remedy
from aspo_rllib.model.layouts import LAYOUTS
from aspo_rllib.model.policy import Policy, load_policy
from aspo_rllib.model.sharding import full_weights
from aspo_rllib.rollout.engines.engine import Completion
from aspo_rllib.rollout.engines.vllm_engine import VLLMEngine
from aspo_rllib.rollout.prompts import load_tokenizer
from aspo_rllib.weights import sync

PROBE_PROMPTS, PROBE_TOKENS = 4, 8


def engine(model: str) -> Finding:
    """Start an engine, load changed weights into it, and compare its logprobs with those of the learner's model."""
    config = ASPOSettings().llm(model=model, max_prompt_tokens=64, max_num_seqs=PROBE_PROMPTS)
    config.sampling(max_completion_tokens=PROBE_TOKENS)
    try:
        preflight.check_model(config)
        if error := import_error(VLLM):  # after the model's check, which is faster
            return Finding("engine", False, f"cannot run without {VLLM}: {error}", remedy(VLLM, error))
        drift = _drift_after_sync(config)
        sync.check_drift(drift, config.sync_drift_limit, version=1)
    except Exception as error:  # any error is the result of this check
        advice = "see the message; docs/troubleshooting.md has the usual causes"
        return Finding("engine", False, f"{type(error).__name__}: {error}", advice)
    return Finding("engine", True, f"starts, loads new weights, and differs by {drift:.1g} nats from the learner")


def _drift_after_sync(config: ASPOSettings) -> float:
    policy = _changed_policy(config.base_model)
    tokenizer, stop = load_tokenizer(config)
    questions = [[{"role": "user", "content": f"{n}+{n}="}] for n in range(PROBE_PROMPTS)]
    prompts = [
        np.asarray(tokenizer.apply_chat_template(q, add_generation_prompt=True, return_dict=False), dtype=np.int32)
        for q in questions
    ]
    vllm = VLLMEngine(
        config.base_model,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        kv_cache_memory_bytes=CPU_KV_CACHE_BYTES,
        gpu_memory_utilization=config.gpu_memory_utilization,
        tensor_parallel_size=1,
        seed=0,
    )
    try:
        vllm.load_weights(list(full_weights(policy).items()))
        for n, ids in enumerate(prompts):
            vllm.submit(str(n), ids, temperature=1.0, top_p=1.0, max_tokens=PROBE_TOKENS, stop_token_ids=stop, seed=n)
        finished: dict[str, Completion] = {}
        while vllm.busy:
            finished |= {done.request_id: done for done in vllm.step()}
    finally:
        vllm.close()
    samples = [finished[str(n)] for n in range(PROBE_PROMPTS)]
    completions = [sample.completion_ids for sample in samples]
    with torch.no_grad():
        logprobs, _ = policy(LAYOUTS["padded"].pack(prompts, completions, "cpu"))
    scores = [row[: len(ids)].numpy() for row, ids in zip(logprobs, completions, strict=True)]
    return sync.drift(scores, [sample.sampler_logprobs for sample in samples])


def _changed_policy(model: str) -> Policy:
    """A policy with other weights than the folder's, to detect an engine that keeps the folder's weights."""
    policy = load_policy(model)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=noise))
    return policy
