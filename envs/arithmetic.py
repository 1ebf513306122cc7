"""Integer arithmetic with prompts of a few tokens: a task that a tiny model learns on a CPU."""

import math
import re
from collections.abc import Collection
from hashlib import blake2b
from typing import Any

from envs.text_env import Grade, SingleTurnTextEnv, Task

OPERATIONS = {"+": "add", "-": "subtract", "*": "multiply"}
SPLITS = ("train", "test")
MAX_DIGITS = 9  # more pairs than that overflow len()

_TEST_FRACTION = 0.1
_SPLIT_KEY = "aspo/Arithmetic-v0 split"
_INTEGER = re.compile(r"-?[0-9]+")


class ArithmeticEnv(SingleTurnTextEnv):
    """Sums, differences or products of two integers: the prompt is "123+456=", and "579" is right.

    Every unordered pair of operands gives one task, in one of its two orders. A fixed permutation of the
    pairs, the same for every seed, puts the last tenth into the test split: no test pair is used in
    training, not even with its operands exchanged. `seed` orders the tasks of a split, and `num_tasks` keeps the
    first ones.

    Grading is strict: the completion, stripped of blanks, must be the integer in ASCII digits with
    nothing before or after it, no leading zeros, no "+", and "-" only for negative values. A text that is not an
    integer has the status "no_answer", any other integer the status "wrong".

    Args:
        operation: "+", "-" or "*".
        digits: number of digits of both operands, 1..9; one-digit operands include 0.
        split: "train" or "test".
        num_tasks: number of tasks, 1..the size of the split; None for all of them.
        seed: a non-negative integer; the order of the tasks.

    Raises:
        ValueError: for an argument outside its range, naming it, its value and the range.
    """

    def __init__(
        self,
        operation: str = "+",
        digits: int = 3,
        split: str = "train",
        num_tasks: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        _check_choice("operation", operation, OPERATIONS)
        _check_integer("digits", digits, 1, MAX_DIGITS)
        _check_choice("split", split, SPLITS)
        _check_integer("seed", seed, 0, None)
        self._smallest = 0 if digits == 1 else 10 ** (digits - 1)
        num_operands = 10**digits - self._smallest
        self._num_pairs = num_operands * (num_operands + 1) // 2
        num_test = max(1, int(self._num_pairs * _TEST_FRACTION))
        split_size = num_test if split == "test" else self._num_pairs - num_test
        if num_tasks is not None:
            _check_integer("num_tasks", num_tasks, 1, split_size)
        self.operation = operation
        self.digits = digits
        self.split = split
        self.num_tasks = num_tasks or split_size
        self.seed = seed
        self._split_start = self._num_pairs - num_test if split == "test" else 0
        self._split_size = split_size

    def __len__(self) -> int:
        return self.num_tasks

    def task(self, index: int) -> Task:
        """Return task `index`. It is computed from the index, so the tasks take no memory."""
        place = self._split_start + _permuted(index, self._split_size, f"order {self.seed}")
        left, right = self._operands(_permuted(place, self._num_pairs, _SPLIT_KEY))
        value = {"+": left + right, "-": left - right, "*": left * right}[self.operation]
        source = f"arithmetic/{OPERATIONS[self.operation]}_{self.digits}"
        return Task(f"{left}{self.operation}{right}=", str(value), source)

    def grade(self, task: Task, completion: str) -> Grade:
        """Compare the notation, not the value: int() also accepts digits of other scripts, and rejects 4301 digits."""
        text = completion.strip(" \t\r\n")
        if not _INTEGER.fullmatch(text):
            return Grade(reward=0.0, correct=False, extracted=None, status="no_answer")
        correct = text == task.answer
        return Grade(float(correct), correct, extracted=text, status="ok" if correct else "wrong")

    def _operands(self, pair: int) -> tuple[int, int]:
        """Decode a pair number: in the triangle low <= high, row `high` starts at high * (high + 1) / 2."""
        high = (math.isqrt(8 * pair + 1) - 1) // 2
        low = pair - high * (high + 1) // 2
        left, right = (high, low) if _hash(f"{_SPLIT_KEY} {pair}") % 2 else (low, high)
        return left + self._smallest, right + self._smallest


def _permuted(index: int, size: int, key: str) -> int:
    """Return the image of `index` under a keyed permutation of range(size).

    A Feistel network permutes the numbers below the next power of four. A result outside of range(size) is permuted
    again until it is inside, so the whole map is a permutation.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for round_number in range(4):
            left, right = right, left ^ (_hash(f"{key} {round_number} {right}") & mask)
        index = left << half_bits | right
        if index < size:
            return index


def _hash(text: str) -> int:
    """64 bits that are the same on every machine, unlike hash()."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")


def _check_integer(name: str, value: Any, lowest: int, highest: int | None) -> None:
    legal = f"{lowest}..{'' if highest is None else highest}"
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < lowest or (highest is not None and value > highest):
        raise ValueError(f"{name}={value!r} is not an integer in {legal}")
