"""Choose a part of the data: a split by its name, or a share of the questions that is held out from training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from envs.text_env import Task

TRAIN = "train"
_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_IN_A_NAME = re.compile(rf"(?:^|[\W_])({'|'.join(_NAMES)})(?=[\W_\d]|$)", re.IGNORECASE)
_SHARD = re.compile(r"[-_.]\d{3,}(-of-\d+)?$")


def canonical(name: str) -> str:
    """One name for "val", "dev", "validation" and similar names; other names are not changed."""
    return _NAMES.get(name.lower(), name)


def is_split_name(name: Any) -> bool:
    """Tell whether this is a usual name of a split."""
    return isinstance(name, str) and name.lower() in _NAMES


def split_in_name(name: str) -> str | None:
    """The split in the name of a file or folder, such as "train-00000-of-00002" or "gsm8k_test"; None without one."""
    found = {canonical(match[1]) for match in _IN_A_NAME.finditer(name)}
    return found.pop() if len(found) == 1 else None


def split_of_row(row: Mapping[str, Any]) -> str | None:
    """The split in a row's column "split", if it is a usual name."""
    name = row.get("split")
    return canonical(name) if is_split_name(name) else None


def without_shard(stem: str) -> str:
    """A file's name without the number of its shard."""
    return _SHARD.sub("", stem)


def question_hash(task: Task) -> int:
    """A hash of 64 bits of a question: its text and the messages before it, without system message and spacing."""
    turns = [message["content"] for message in task.history if message["role"] not in ("system", "developer")]
    text = "\0".join(" ".join(turn.split()) for turn in (*turns, task.prompt))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True)
class SplitChoice:
    """The split of the data to take.

    Attributes:
        wanted: the name of the split; None: train, or the only split.
        held_out_frac: the share of the questions that is held out if the data has no split but train.
        seed: chooses these questions.
    """

    wanted: str | None
    held_out_frac: float | None
    seed: int

    def resolved(self, known: Iterable[str | None], name: str) -> Chosen:
        """Decide for data with these splits (None: rows without a split); `name` is for messages.

        Raises:
            ValueError: for a split that the data does not have.
        """
        known = sorted(set(known), key=str)
        wanted = None if self.wanted is None else canonical(self.wanted)
        splits = [split for split in known if split is not None]
        if not splits or splits == [TRAIN]:
            if self.held_out_frac is not None:
                return Chosen(None, wanted not in (None, TRAIN), self.held_out_frac, self.seed)
            if wanted in (None, TRAIN):
                return Chosen(None, False, 0.0, self.seed)
            raise ValueError(
                f"split={self.wanted!r}: {name} has {'only the split train' if splits else 'no splits'}, so "
                "these would be the training data. Give held_out_frac=0.1 to training and evaluation, or files by "
                f'split: data={{"train": "...", "{self.wanted}": "..."}}'
            )
        chosen = wanted or (TRAIN if TRAIN in splits else splits[0] if len(splits) == 1 else None)
        if chosen not in splits:
            raise ValueError(f"split={self.wanted!r}: {name} has the splits {', '.join(splits)}; choose one of them")
        return Chosen(chosen, False, 0.0, self.seed)


@dataclass(frozen=True)
class Chosen:
    """The result of a `SplitChoice`: the name of a split (None: all rows), and which side of the held-out share."""

    split: str | None
    held_out: bool
    frac: float
    seed: int

    def takes_split(self, split: str | None) -> bool:
        """Tell whether rows of a split are wanted; rows without a split count as train."""
        return self.split is None or (split or TRAIN) == self.split

    def takes_question(self, question: int) -> bool:
        """Tell whether a question is on the wanted side. Only its own hash and the seed decide."""
        if not self.frac:
            return not self.held_out
        digest = blake2b(f"{self.seed}/{question}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") < self.frac * 2**64) == self.held_out
