"""Which good rows stay out of a table of tasks: repeated ones, contradictory ones, too easy or too hard ones."""

from __future__ import annotations

from array import array
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from envs.data_files import Row, file_rows

_DIGEST_BYTES = 16


class Deduplicator:
    """Finds questions that come again, by digests: about 200 bytes per different question, whatever its length."""

    def __init__(self):
        self._index: dict[bytes, int] = {}
        self._answers = bytearray()
        self._copies = array("L")
        self._conflicts = bytearray()

    def is_new(self, question: str, answer: str) -> bool:
        """Count a row in; tell whether its question is a new one. New questions are numbered 0, 1, ..."""
        index = self._index.setdefault(_digest(question), len(self._copies))
        if index == len(self._copies):
            self._answers += _digest(answer)
            self._copies.append(1)
            self._conflicts.append(False)
            return True
        start = index * _DIGEST_BYTES
        self._copies[index] += 1
        self._conflicts[index] |= self._answers[start : start + _DIGEST_BYTES] != _digest(answer)
        return False

    def conflicts(self) -> np.ndarray:
        """For each new question, whether its rows have different answers."""
        return np.frombuffer(self._conflicts, dtype=bool)

    def counts(self) -> tuple[int, int, int]:
        """Rows that are kept, that repeat a kept one, and that belong to a conflict."""
        copies, conflicts = np.array(self._copies), self.conflicts()
        kept, conflicting = int((~conflicts).sum()), int(copies[conflicts].sum())
        return kept, int(copies.sum()) - kept - conflicting, conflicting


class PassRates:
    """What share of its samples a model got right, for each prompt of an earlier run.

    The file (JSON, JSON Lines or Parquet) has the columns `prompt` and `pass_rate`, and perhaps `num_samples`. Of
    several rows with one prompt the mean counts, weighted by `num_samples` (1 where there is none).

    Args:
        path: the file.
        lowest, highest: the range of pass rates that `allow` takes, both ends included.

    Attributes:
        num_known: how many of the prompts that `allow` was asked about the file knows.

    Raises:
        ValueError: for a row without these columns, or with values out of their range, naming file and row.
    """

    def __init__(self, path: Path, lowest: float, highest: float):
        self.path = path
        self.num_known = 0
        self._lowest, self._highest = lowest, highest
        self._sums: dict[bytes, tuple[float, float]] = {}
        for row in file_rows(path):
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
