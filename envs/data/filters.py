"""Filters for good rows: repeated rows, contradictory rows, and tasks that are too easy or too hard."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from envs.data.files import Row, file_rows
from envs.data.places import Place

_DIGEST_BYTES = 16


class Deduplicator:
    """Finds repeated questions by digests, with about 200 bytes per different question of any length.

    Attributes:
        variants: for questions with several answers, the other answers, by the number of the question.
    """

    def __init__(self):
        self._index: dict[bytes, int] = {}
        self._answers = bytearray()
        self._copies = array("L")
        self._conflicts = bytearray()
        self.variants: dict[int, set[str]] = {}

    def is_new(self, question: str, answer: str) -> bool:
        """Count a row, and tell whether its question is new. New questions get the numbers 0, 1, ..."""
        index = self._index.setdefault(_digest(question), len(self._copies))
        if index == len(self._copies):
            self._answers += _digest(answer)
            self._copies.append(1)
            self._conflicts.append(False)
            return True
        start = index * _DIGEST_BYTES
        self._copies[index] += 1
        if self._answers[start : start + _DIGEST_BYTES] != _digest(answer):
            self._conflicts[index] = True
            self.variants.setdefault(index, set()).add(answer)
        return False

    def settle(self, index: int) -> None:
        """Count a question's answers as one, because they are only spelled differently."""
        self._conflicts[index] = False

    def conflicts(self) -> np.ndarray:
        """For each new question: whether its rows have different answers."""
        return np.array(self._conflicts, dtype=np.uint8).astype(bool)

    def counts(self) -> tuple[int, int, int]:
        """The numbers of rows that are kept, that repeat a kept row, and that conflict."""
        copies, conflicts = np.array(self._copies), self.conflicts()
        kept, conflicting = int((~conflicts).sum()), int(copies[conflicts].sum())
        return kept, int(copies.sum()) - kept - conflicting, conflicting


class PassRates:
    """The share of right completions for each prompt of an earlier run.

    The file (JSON, JSON Lines or Parquet) has the columns `prompt`, `pass_rate` and optionally `num_samples`. If a
    prompt has several rows, their mean counts, weighted by `num_samples` (by default 1).

    Args:
        path: the file.
        lowest, highest: the range of pass rates that `allow` takes, both ends included.

    Attributes:
        num_known: how many of the prompts given to `allow` are in the file.

    Raises:
        ValueError: with file and row, for a row without these columns or with values out of their range.
    """

    def __init__(self, path: Path, lowest: float, highest: float):
        self.path = path
        self.num_known = 0
        self._lowest, self._highest = lowest, highest
        self._sums: dict[bytes, tuple[float, float]] = {}
        for row in file_rows(Place(str(path))):
            try:
                prompt, rate, num_samples = _measurement(row)
                key = _digest(prompt)
            except ValueError as error:
                raise ValueError(f"pass_rates: {path}, {row.unit} {row.number}: {error}") from error
            correct, total = self._sums.get(key, (0.0, 0.0))
            self._sums[key] = correct + rate * num_samples, total + num_samples

    def allow(self, prompt: str) -> bool:
        """Tell whether the pass rate of a prompt is in the range; prompts without one are allowed."""
        correct, total = self._sums.get(_digest(prompt), (0.0, 0.0))
        if not total:
            return True
        self.num_known += 1
        return self._lowest <= correct / total <= self._highest


def _measurement(row: Row) -> tuple[str, float, float]:
    content = row.valid_content()
    prompt, rate, num_samples = (content.get(name) for name in ("prompt", "pass_rate", "num_samples"))
    if not isinstance(prompt, str):
        raise ValueError(f"prompt={prompt!r} is not a text")
    if not _is_number(rate) or not 0 <= rate <= 1:
        raise ValueError(f"pass_rate={rate!r} is not in 0..1")
    if num_samples is None:
        return prompt, rate, 1
    if not _is_number(num_samples) or not 0 < num_samples < float("inf"):
        raise ValueError(f"num_samples={num_samples!r} is not a number above 0")
    return prompt, rate, num_samples


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()
