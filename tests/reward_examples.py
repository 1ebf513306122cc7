"""Reward functions as they are written for TRL's GRPOTrainer."""

import re
from functools import partial


def format_reward(completions, **kwargs):
    """From TRL's documentation: conversational completions."""
    pattern = r"^<think>.*?</think>"
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(pattern, content) else 0.0 for content in contents]


def length_reward(prompts, completions, level, **kwargs):
    """Texts, and a column of the row; rows without a level have no such reward."""
    rows = zip(prompts, completions, level, strict=True)
    return [None if level is None else len(text) / (level * len(prompt)) for prompt, text, level in rows]


def size(completions, **kwargs):
    """None for a completion that is no number."""
    return [float(text) / 1000 if text.isdecimal() else None for text in completions]


async def asynchronous(completions, **kwargs):
    return [float("box" in completion) for completion in completions]


class Judge:
    def __call__(self, completions, bonus=0.25, **kwargs):
        return [bonus] * len(completions)


always_half = partial(Judge(), bonus=0.5)
not_a_function = 3


def two_rewards(completions, **kwargs):
    return [1.0, 2.0]


def a_number(completions, **kwargs):
    return 1.0
