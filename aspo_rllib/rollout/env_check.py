"""Tries an env once: its length, its first prompt and two gradings. Mistakes in an own env are found before a run."""

from __future__ import annotations

import math
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym

import envs.text_env

T = TypeVar("T")

COMPLETIONS = ("", "1")  # a model that ends at once writes nothing
_ADVICE = (
    "An env is a numbered list of tasks with a grader: subclass envs.text_env.SingleTurnTextEnv, as docs/extending.md "
    "shows."
)
# Code that the author of an env did not write. What is below site-packages is installed.
_FOREIGN = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
_OURS = (envs.text_env.__file__, __file__)


def check_env(env: gym.Env[str, str], name: object) -> None:
    """Raise ValueError if an env has no length, gives no prompt, or does not grade a completion.

    name: the config's `env`. The message has it, the error, and the file and line that raised it.
    """
    own: Any = env.unwrapped
    if not hasattr(own, "__len__"):
        raise ValueError(f"env={name!r}: {type(own).__name__} has no length. {_ADVICE}")
    if not _tried(name, "its length", lambda: len(own)):
        return  # `check_prompts` says what to do
    for completion in COMPLETIONS:
        begun = _tried(name, "the prompt of task 0", lambda: env.reset(options={"index": 0}))
        if not (_is_tuple_of(2, begun) and isinstance(begun[0], str) and isinstance(begun[1], dict)):
            raise ValueError(
                f"env={name!r}: reset returned {begun!r:.80}; expected a prompt (str) and a dict. {_ADVICE}"
            )
        what = f"grading the completion {completion!r} of task 0"
        ended: Any = _tried(name, what, lambda text=completion: env.step(text))  # type: ignore[misc]
        if not (_is_tuple_of(5, ended) and isinstance(ended[4], dict)):
            raise ValueError(
                f"env={name!r}: step returned {ended!r:.80}; expected observation, reward, terminated, truncated, info."
            )
        _, reward, terminated, _, _ = ended
        if not terminated:
            raise ValueError(f"env={name!r}: {what} did not end the episode; expected one step. {_ADVICE}")
        if not _is_finite(reward):
            raise ValueError(f"env={name!r}: {what} gave the reward {reward!r}; expected a finite number.")


def _tried(name: object, what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:
        raise ValueError(f"env={name!r}: {what} failed: {_where(error)}{type(error).__name__}: {error}") from error


def _where(error: Exception) -> str:
    """The file and line of the env's author that raised an error: `my_env.py:12, in grade: `; "" if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    written = [f for f in frames if f.filename not in _OURS and not f.filename.startswith(_FOREIGN)]
    if not written:
        return ""
    return f"{Path(written[-1].filename)}:{written[-1].lineno}, in {written[-1].name}: "


def _is_tuple_of(length: int, value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == length


def _is_finite(reward: Any) -> bool:
    try:
        return math.isfinite(reward)
    except (TypeError, ValueError, OverflowError):
        return False
