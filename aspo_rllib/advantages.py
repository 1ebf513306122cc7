"""From rewards to advantages: which groups teach anything, the length penalty, the group normalisation.

Shapes: P prompts, G completions of each (`group_size`). numpy only; this runs on the driver.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def informative_groups(correct: ArrayLike) -> NDArray[np.bool_]:
    """Which groups carry a gradient: neither all right nor all wrong. `[P, G]` bool -> `[P]` bool.

    Decided on correctness, never on shaped rewards: the penalty of one truncated answer would make an
    all-wrong group look mixed and give its other wrong answers a positive advantage. Anything but bool raises
    ValueError.
    """
    correct = np.asarray(correct)
    if correct.ndim != 2 or correct.dtype != np.bool_:
        raise ValueError(f"correct must be bool [prompts, group_size], got {correct.dtype} {correct.shape}")
    return np.asarray(correct.any(axis=1) & ~correct.all(axis=1))


def overlong_penalty(
    completion_tokens: ArrayLike, *, max_completion_tokens: int, buffer_tokens: int, factor: float
) -> NDArray[np.float32]:
    """DAPO's soft overlong punishment (arXiv 2503.14476 eq. 13), to be added to the reward; shaped as its
    input.

    0 up to `max_completion_tokens - buffer_tokens`, then linearly down to `-factor` at
    `max_completion_tokens` and beyond. `buffer_tokens=0` is off. Raises ValueError on settings out of range.
    """
    if max_completion_tokens < 1:
        raise ValueError(f"max_completion_tokens must be at least 1, got {max_completion_tokens}")
    if not 0 <= buffer_tokens <= max_completion_tokens:
        raise ValueError(f"buffer_tokens must be in [0, {max_completion_tokens}], got {buffer_tokens}")
    if not (np.isfinite(factor) and factor >= 0):
        raise ValueError(f"factor must be finite and not negative, got {factor}")
    tokens = np.asarray(completion_tokens, dtype=np.float64)
    if (tokens < 0).any():
        raise ValueError(f"completion_tokens must not be negative, got {tokens.min():g}")
    if buffer_tokens == 0:
        return np.zeros(tokens.shape, dtype=np.float32)
    into_buffer = (tokens - (max_completion_tokens - buffer_tokens)) / buffer_tokens
    return np.asarray(0.0 - factor * np.clip(into_buffer, 0.0, 1.0), dtype=np.float32)


def group_advantages(rewards: ArrayLike, *, normalize_std: bool) -> NDArray[np.float32]:
    """Advantages within each group: (R - mean) / (std + 1e-6), or R - mean without `normalize_std` (Dr.
    GRPO).

    `[P, G]` -> `[P, G]` float32. The std is the unbiased one; a group of one has mean 0 and std 1; a group of
    equal rewards gives exact zeros. Raises ValueError on another shape or on a reward that is not finite.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or rewards.shape[1] == 0:
        raise ValueError(f"rewards must be [prompts, group_size], got shape {rewards.shape}")
    broken = np.argwhere(~np.isfinite(rewards))
    if len(broken):
        raise ValueError(f"rewards must be finite, got {rewards[tuple(broken[0])]} in group {broken[0][0]}")
    if rewards.shape[1] == 1:
        mean, std = np.zeros_like(rewards), np.ones_like(rewards)
    else:
        mean, std = rewards.mean(axis=1, keepdims=True), rewards.std(axis=1, ddof=1, keepdims=True)
        # The mean of equal numbers may be off by one ulp, which 1 / (std + 1e-6) then magnifies.
        mean = np.where((rewards == rewards[:, :1]).all(axis=1, keepdims=True), rewards[:, :1], mean)
    advantages = (rewards - mean) / (std + 1e-6) if normalize_std else rewards - mean
    return np.asarray(advantages, dtype=np.float32)
