"""Rewards from plain functions, called as TRL's GRPOTrainer calls its `reward_funcs`."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from envs.text_env import Task, check_reward_names

_NOT_COLUMNS = ("prompt", "completion", "completion_ids")


class RewardFunctions:
    """Functions that give a completion rewards, each named after its function.

    A function is called by keyword with lists of one item: `prompts`, `completions`, and every column of the row but
    "prompt". If the row's prompt is a list of messages, so is the prompt, and the completion is
    [{"role": "assistant", "content": ...}]; otherwise both are texts. It returns a list of one number, or of None if
    it does not apply to the row. An `async` function is awaited. TRL's `completion_ids`, `trainer_state` and `log_*`
    are not given.

    Args:
        functions: functions, or texts "module:function" for functions in an importable module.

    Raises:
        ValueError: for an entry that is neither, for a module or function that does not exist, and for names that are
            not legal or that occur twice.
    """

    def __init__(self, functions: Sequence[str | Callable[..., Any]]):
        if isinstance(functions, str) or not isinstance(functions, Sequence):
            raise ValueError(f'rewards={functions!r}: expected a list of functions, or of texts "module:function"')
        self._functions = [_imported(function) for function in functions]
        self.names = tuple(map(_name, self._functions))
        check_reward_names(self.names, "rewards")

    def rewards(self, task: Task, completion: str) -> dict[str, float | None]:
        """The reward of each function.

        Raises:
            ValueError: with the function's name, if it does not return a list of one number or None.
        """
        prompts, completions = _shaped(task, completion)
        columns = {name: [value] for name, value in (task.columns or {}).items() if name not in _NOT_COLUMNS}
        return {
            name: _called(function, name, {**columns, "prompts": prompts, "completions": completions})
            for name, function in zip(self.names, self._functions, strict=True)
        }


def summed(rewards: Mapping[str, float | None]) -> float:
    """The sum of the rewards that apply."""
    return float(sum(reward for reward in rewards.values() if reward is not None))


def _imported(function: str | Callable[..., Any]) -> Callable[..., Any]:
    if callable(function):
        return function
    module, colon, name = function.partition(":") if isinstance(function, str) else ("", "", "")
    if not (module and colon and name):
        raise ValueError(f'rewards: {function!r} is neither a function nor a text "module:function"')
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"rewards: {function!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"rewards: {function!r} is a {type(found).__name__}, not a function")
    return found


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, partial):
        function = function.func
    return function


def _name(function: Callable[..., Any]) -> str:
    """The function's name; for an object with `__call__`, that of its class, as in TRL."""
    inner = _innermost(function)
    return getattr(inner, "__name__", type(inner).__name__)


def _shaped(task: Task, completion: str) -> tuple[list[Any], list[Any]]:
    """Prompts and completions in the form of the row's prompt: messages or text."""
    prompt = (task.columns or {}).get("prompt")
    if isinstance(prompt, list):
        return [prompt], [[{"role": "assistant", "content": completion}]]
    return [task.prompt], [completion]


def _called(function: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> float | None:
    inner = _innermost(function)
    is_async = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)
    rewards = asyncio.run(function(**arguments)) if is_async else function(**arguments)
    try:
        (reward,) = rewards
        return None if reward is None else float(reward)
    except (TypeError, ValueError):
        raise ValueError(
            f"the reward function {name!r} returned {rewards!r}: expected a list of one number or None, as it was "
            "called with one completion"
        ) from None
