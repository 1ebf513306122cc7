"""An engine, booted and given new weights: does it compute what the learner's model does? Imports all libraries."""

from __future__ import annotations

import numpy as np
import torch

from aspo_rllib import preflight, weight_sync
from aspo_rllib.config import ASPOConfig
from aspo_rllib.doctor.finding import Finding
from aspo_rllib.doctor.imports import VLLM, import_error, remedy
from aspo_rllib.engine import Completion
from aspo_rllib.env_runner import CPU_KV_CACHE_BYTES
from aspo_rllib.model import Policy, full_weights, load_policy
from aspo_rllib.packing import LAYOUTS
from aspo_rllib.prompts import load_tokenizer
from aspo_rllib.vllm_engine import VLLMEngine

PROBE_PROMPTS, PROBE_TOKENS = 4, 8


def engine(model: str) -> Finding:
    """Boot an engine, load changed weights into it, and compare its logprobs with those of transformers' forward."""
    config = ASPOConfig().llm(model=model, max_prompt_tokens=64, max_num_seqs=PROBE_PROMPTS)
    config.sampling(max_completion_tokens=PROBE_TOKENS)
    try:
        preflight.check_model(config)
        if error := import_error(VLLM):  # after the model, whose faults are found sooner
            return Finding("engine", False, f"cannot look without {VLLM}: {error}", remedy(VLLM, error))
        drift = _drift_after_sync(config)
        weight_sync.check_drift(drift, config.sync_drift_limit, version=1)
    except Exception as error:  # whatever it is, it is what the user wants to know
        advice = "see the message; docs/troubleshooting.md has the usual causes"
        return Finding("engine", False, f"{type(error).__name__}: {error}", advice)
    return Finding("engine", True, f"boots, takes new weights, and is {drift:.1g} nats off the learner")


def _drift_after_sync(config: ASPOConfig) -> float:
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
        logprobs, _ = policy(LAYOUTS["padded"](prompts, completions, "cpu"))
    scores = [row[: len(ids)].numpy() for row, ids in zip(logprobs, completions, strict=True)]
    return weight_sync.drift(scores, [sample.sampler_logprobs for sample in samples])


def _changed_policy(model: str) -> Policy:
    """Not the weights that the engine reads from the folder: an engine that keeps those would be found out."""
    policy = load_policy(model)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=noise))
    return policy
