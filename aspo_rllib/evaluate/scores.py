"""The results of an evaluation from its graded completions: avg@k, pass@k, maj@k, and accuracies of groups of tasks.

Their names are `avg_at_k`, `pass_at_k` and `maj_at_k`, since trackers refuse an "@".
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from aspo_rllib.metric_names import legal_parts

# Name of each bucket, and the highest pass rate in it.
_PASS_RATES = (("never", 0.0), ("hard", 0.25), ("medium", 0.75), ("easy", np.nextafter(1.0, 0.0)), ("always", 1.0))

Row = Mapping[str, Any]


def scores(rows: Sequence[Row]) -> dict[str, float]:
    """All results of an evaluation with k completions per prompt, by name. A "/" in a name separates groups.

    Errors (`_se`) are standard errors over prompts, NaN for a single one.

    - `accuracy`: the mean over prompts of the share of right completions. `avg_at_16`, `avg_at_16_se` (for k = 16): the
      same with its error.
    - `pass_at_1`, `pass_at_2`, `pass_at_4`, ... up to k, each with `_se`: unbiased.
    - `maj_at_16`, `maj_at_16_se`: see `majority`. NaN if no completion of the whole evaluation has an extracted answer.
    - `num_prompts`, `length_mean` (tokens), `truncated_frac`, `repetition_frac`.
    - `reward/<name>/mean` of every named reward, over the completions that it applies to.
    - `by_source/<data source>/accuracy` and `/num_prompts`, with the source's name as `metric_names` makes it legal.
    - `by_difficulty/<difficulty>/accuracy` and `/num_prompts`, likewise, if the env's info has a difficulty.
    - `by_pass_rate/<bucket>/num_prompts`: prompts by their share of right completions: never (0), hard (up to 1/4),
      medium (up to 3/4), easy (below 1), always (1).

    If the env gives rewards without a verdict, `reward_mean` and `reward_mean_se` stand in place of all that speaks of
    right completions.

    Args:
        rows: completions from `samples.completion_rows`, of at least one prompt, and k of each prompt.
    """
    prompts = _by_prompt(rows)
    numbers = {
        "num_prompts": float(len(prompts)),
        "length_mean": float(np.mean([row["num_tokens"] for row in rows])),
        "truncated_frac": float(np.mean([row["finish_reason"] == "length" for row in rows])),
        "repetition_frac": float(np.mean([row["repetition"] for row in rows])),
        **_reward_means(rows),
    }
    if any(row["correct"] is None for row in rows):
        rewards = np.array([[row["reward"] for row in prompt] for prompt in prompts])
        return _with_error("reward_mean", rewards.mean(axis=1)) | numbers
    return numbers | _of_verdicts(prompts)


def _reward_means(rows: Sequence[Row]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for name, value in chain.from_iterable(row["rewards"] or () for row in rows):
        if value is not None:
            values[name].append(value)
    return {f"reward/{name}/mean": float(np.mean(found)) for name, found in values.items()}


def _of_verdicts(prompts: Sequence[Sequence[Row]]) -> dict[str, float]:
    correct = np.array([[row["correct"] for row in prompt] for prompt in prompts])
    k, per_prompt = correct.shape[1], correct.mean(axis=1)
    first = [prompt[0] for prompt in prompts]
    return (
        {"accuracy": float(per_prompt.mean())}
        | _with_error(f"avg_at_{k}", per_prompt)
        | {
            name: value
            for j in _powers_of_two(k)
            for name, value in _with_error(f"pass_at_{j}", pass_at_k(correct, j)).items()
        }
        | _with_error(f"maj_at_{k}", _majorities(prompts))
        | _accuracy_by("by_source", [row["data_source"] for row in first], per_prompt)
        | _accuracy_by("by_difficulty", [row["difficulty"] for row in first], per_prompt)
        | _by_pass_rate(per_prompt)
    )


def pass_at_k(correct: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k per prompt (arXiv 2107.03374 eq. 1) from `[P, n]` verdicts, n >= k: `[P]`."""
    n, right = correct.shape[1], correct.sum(axis=1)
    assert n >= k, (n, k)
    # 1 - C(n - c, k) / C(n, k), computed as a product, which avoids overflow and cancellation.
    miss = np.ones(len(correct))
    for i in range(k):
        miss *= np.clip(n - right - i, 0, None) / (n - i)
    return 1 - miss


def majority(extracted: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Probability that a prompt's most frequent extracted answer is right. Completions without an answer do not vote.

    Answers are equal if their texts are equal without surrounding blanks. In a tie, each of the answers is chosen with
    the same probability; the result is the expectation, which does not depend on the order of the completions. The
    result is 0 if there is no vote.
    """
    verdicts = defaultdict(list)
    for answer, right in zip(extracted, correct, strict=True):
        if answer is not None:
            verdicts[answer.strip()].append(right)
    most = max(map(len, verdicts.values()), default=0)
    # The same answer can have two verdicts, because a grader may use more than the extracted text.
    return float(np.mean([np.mean(v) for v in verdicts.values() if len(v) == most])) if most else 0.0


def standard_error(per_prompt: np.ndarray) -> float:
    """Standard error of the mean over prompts, NaN for one prompt. Completions of one prompt are not independent."""
    return float(per_prompt.std(ddof=1) / np.sqrt(len(per_prompt))) if len(per_prompt) > 1 else float("nan")


def _by_prompt(rows: Sequence[Row]) -> list[list[Row]]:
    prompts = defaultdict(list)
    for row in rows:
        prompts[row["index"]].append(row)
    assert len({len(prompt) for prompt in prompts.values()}) == 1, "every prompt has k completions"
    return list(prompts.values())


def _powers_of_two(k: int) -> list[int]:
    """1, 2, 4, ... below k, and k."""
    return [2**i for i in range(k.bit_length()) if 2**i < k] + [k]


def _with_error(name: str, per_prompt: np.ndarray) -> dict[str, float]:
    return {name: float(per_prompt.mean()), f"{name}_se": standard_error(per_prompt)}


def _majorities(prompts: Sequence[Sequence[Row]]) -> np.ndarray:
    if all(row["extracted"] is None for prompt in prompts for row in prompt):
        return np.full(len(prompts), np.nan)
    return np.array([majority([row["extracted"] for row in p], [row["correct"] for row in p]) for p in prompts])


def _accuracy_by(group: str, labels: Sequence[str | None], per_prompt: np.ndarray) -> dict[str, float]:
    members = defaultdict(list)
    for label, accuracy in zip(labels, per_prompt, strict=True):
        if label is not None:
            members[label].append(accuracy)
    results = {}
    for label, name in legal_parts(sorted(members)).items():
        results[f"{group}/{name}/accuracy"] = float(np.mean(members[label]))
        results[f"{group}/{name}/num_prompts"] = float(len(members[label]))
    return results


def _by_pass_rate(per_prompt: np.ndarray) -> dict[str, float]:
    highest = [rate for _, rate in _PASS_RATES]
    counts: Counter[int] = Counter(np.searchsorted(highest, per_prompt).tolist())
    return {f"by_pass_rate/{name}/num_prompts": float(counts[n]) for n, (name, _) in enumerate(_PASS_RATES)}
