"""Texts around every question: instructions in the user's message, worked examples, the beginning of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from envs.text_env import Task


@dataclass(frozen=True)
class PromptStyle:
    """How the prompt of a task is made. A prompt that already has the tokens of a chat template is not changed.

    Attributes:
        prompt_template: the user's message, with {prompt} in the place of the question. Other braces are kept.
        prompt_suffix: a text at the end of the user's message. Models distilled from R1 expect instructions there.
        examples: worked examples before the question, each one {"prompt": ..., "answer": ...}.
        answer_prefix: the beginning of every answer. It is part of the prompt and not trained on, but it is graded.

    Raises:
        ValueError: for a template without {prompt}, and for an example of another form.
    """

    prompt_template: str = "{prompt}"
    prompt_suffix: str = ""
    examples: Sequence[Mapping[str, str]] = ()
    answer_prefix: str = ""

    def __post_init__(self):
        if "{prompt}" not in self.prompt_template:
            raise ValueError(f"prompt_template={self.prompt_template!r} has no {{prompt}}, where the question goes")
        for example in self.examples:
            if not isinstance(example, Mapping) or example.keys() != {"prompt", "answer"}:
                raise ValueError(f'examples: {example!r} is not {{"prompt": ..., "answer": ...}}')

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> PromptStyle:
        """Remove the arguments of a style from an env's options, and make the style."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls) if field.name in options})

    def applied(self, task: Task) -> Task:
        """The task as it is asked."""
        if task.templated:
            return task
        system = tuple(message for message in task.history if message["role"] == "system")
        turns = tuple(message for message in task.history if message["role"] != "system")
        shown = tuple(
            {"role": role, "content": content}
            for example in self.examples
            for role, content in (("user", self._asked(example["prompt"])), ("assistant", example["answer"]))
        )
        return replace(task, prompt=self._asked(task.prompt), history=(*system, *shown, *turns))

    def _asked(self, question: str) -> str:
        return self.prompt_template.replace("{prompt}", question) + self.prompt_suffix
