"""Checks for every loaded model that a layout gives the same logprobs as a plain forward pass of transformers.

Only such a test can find some errors. For example, the attention of a class may ignore where a packed rollout begins,
or may apply its window in a mask that a packed row does not have. Training would go on with wrong probabilities.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from aspo_rllib.internals import attention_implementation
from aspo_rllib.model.layouts import LAYOUTS, resolve_layout
from aspo_rllib.model.packing import set_attention
from aspo_rllib.model.policy import Policy

_WINDOW = re.compile(r"(window|window_size|attention_chunk_size)$")
_COMPLETION = 8
# The largest product of weights and tokens for this test. On a CPU it takes about twenty seconds.
_MOST_WORK = {"cpu": 10**12, "cuda": 10**15}
# As a share of the logprobs' std over the vocabulary. Rounding in float32 makes 1e-5, a wrong mask 0.1 or more.
_TOLERANCE = 0.003


class Scoring(NamedTuple):
    """How a policy computes logprobs: a name in LAYOUTS, and the attention implementation of its model."""

    layout: str
    attention: str


Probes = tuple[list[np.ndarray], list[np.ndarray]]  # prompts and completions


def check_rotary_switch(config: PreTrainedConfig, max_tokens: int) -> None:
    """Raise ValueError if a rollout can be longer than the length at which the model's rotary scaling switches.

    transformers switches the scaling for all rows of a forward pass, or for the tokens after that length. vLLM switches
    it for the whole engine. The same tokens would have different probabilities.
    """
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in by_layer_type or [parameters]:
        kind = rope.get("rope_type")
        if kind == "longrope" and rope.get("short_factor") != rope.get("long_factor"):
            remedy = "or give it one scaling for all lengths: the same long_factor and short_factor in its config.json"
        elif kind == "dynamic":
            remedy = "or give it one scaling for all lengths: rope_type 'yarn' or 'linear' in its config.json"
        else:
            continue
        own = rope.get("original_max_position_embeddings")
        switch = own or getattr(text, "original_max_position_embeddings", None) or text.max_position_embeddings
        if max_tokens > switch:
            raise ValueError(
                f"max_prompt_tokens + max_completion_tokens is {max_tokens}: the rotary scaling of "
                f"{config.model_type!r} ({kind!r}) switches at {switch} tokens, so that engine and learner would "
                f"differ. Keep to {switch} tokens, {remedy}."
            )


def choose_scoring(policy: Policy, layout: str | None, max_tokens: int) -> Scoring:
    """Choose a layout whose logprobs on a few random rollouts are those of a plain forward pass.

    Call it before the policy is compiled or sharded. It also sets the model's attention.

    layout: the layout to test. None: the best one that the model supports; if its logprobs are wrong, "padded" is
        chosen with a warning.
    max_tokens: number of tokens of the longest rollout.

    Raises ValueError with the name of the model's class if `layout` is wrong, or if all layouts are.
    """
    hf_model = policy.hf_model
    first = Scoring(resolve_layout(layout, hf_model), attention_implementation(hf_model))
    candidates = dict.fromkeys((first, Scoring("padded", first.attention), Scoring("padded", policy.plain_attention)))
    probes = _probes(policy, max_tokens)
    with torch.no_grad():
        with _attention(policy, policy.plain_attention):
            plain = [_plain_logprobs(policy, *one) for one in zip(*probes, strict=True)]
        expected = torch.cat([scores for scores, _ in plain])
        tolerance = _TOLERANCE * min(spread for _, spread in plain)
        errors = []
        for candidate in candidates:
            errors.append(_error(policy, candidate, probes, expected))
            if errors[-1] <= tolerance:
                break
    name = type(hf_model).__name__
    off = f"{errors[0]:.2g} nats off a plain forward pass of transformers"
    if errors[-1] > tolerance:
        raise ValueError(f"{name}: its log-probabilities are {off} in every layout, so it cannot be trained.")
    if candidate != first:
        if layout == first.layout != "padded":
            raise ValueError(f"layout={layout!r}: {name}'s log-probabilities are {off} in it; use 'padded'.")
        warnings.warn(f"{name} in the layout {first.layout!r} is {off}: rollouts are padded instead.", stacklevel=2)
    set_attention(hf_model, candidate.attention)
    return candidate


def _probes(policy: Policy, max_tokens: int) -> Probes:
    """Three rollouts, two with the same prompt. One exceeds every window that rollouts of the run can exceed."""
    config = policy.hf_model.config.get_text_config()
    device = policy.hf_model.device.type
    windows = [value for name, value in config.to_dict().items() if _WINDOW.search(name) and isinstance(value, int)]
    affordable = _MOST_WORK.get(device, _MOST_WORK["cuda"]) // sum(p.numel() for p in policy.parameters())
    reachable = [w for w in windows if 0 < w < min(max_tokens, affordable)]
    lengths = [7, max([4, *reachable]) + _COMPLETION // 2, 7]
    rng = np.random.default_rng(0)
    size = min(config.vocab_size, 1000)  # placeholders for images are at the end of the vocabulary

    def ids(count: int) -> np.ndarray:
        return rng.integers(min(3, size - 1), size, max(1, count)).astype(np.int32)

    prompts = [ids(min(length, max_tokens - 1)) for length in lengths]
    completions = [ids(min(_COMPLETION - n, max_tokens - len(p))) for n, p in enumerate(prompts)]
    return [prompts[0], prompts[1], prompts[0]], completions


def _plain_logprobs(policy: Policy, prompt: np.ndarray, completion: np.ndarray) -> tuple[Tensor, float]:
    """Logprobs of the completion by the model's own forward pass, and the std of all logprobs in it."""
    hf_model = policy.hf_model
    ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64)).to(hf_model.device)
    wanted = len(completion) + 1
    can_skip = "logits_to_keep" in signature(hf_model.forward).parameters
    fewer: dict[str, Any] = {"logits_to_keep": wanted} if can_skip else {}
    logits = hf_model(input_ids=ids[None], use_cache=False, **fewer).logits[0, -wanted:-1]
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(-1, ids[len(prompt) :, None])[:, 0]
    return chosen.cpu(), float(logprobs.std())


def _error(policy: Policy, scoring: Scoring, probes: Probes, expected: Tensor) -> float:
    """The error of a layout's logprobs in nats; inf if the forward pass fails.

    It is the second largest difference over all tokens: at a single token, rounding may change the choice of experts.
    """
    batch = LAYOUTS[scoring.layout].pack(*probes, policy.hf_model.device)
    try:
        with _attention(policy, scoring.attention):
            logprobs, _ = policy(batch)
    except (RuntimeError, IndexError, TypeError, ValueError):  # the class does not support these arguments or shapes
        return float("inf")
    differences = (logprobs[batch.loss_mask].cpu() - expected).abs().nan_to_num(torch.inf)
    return float(differences.sort().values[-2:][0])


@contextmanager
def _attention(policy: Policy, name: str) -> Iterator[None]:
    """A context in which the model has the attention `name`."""
    before = attention_implementation(policy.hf_model)
    set_attention(policy.hf_model, name)
    try:
        yield
    finally:
        set_attention(policy.hf_model, before)
