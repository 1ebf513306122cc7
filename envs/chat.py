"""Write chat messages as the text of a prompt, in the chat template of the model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

Message = Mapping[str, str]

BARE_TEMPLATE = "{{ bos_token }}{{ messages[-1]['content'] }}"
"""Only the prompt, for base models. It writes the first token itself: tokenizers add none to the text of a template."""

TEMPLATE_DATE = "2024-07-26"
"""The date in the prompts of templates that show one. Llama 3.1's template has it where there is no clock."""

_NOW = "strftime_now"  # the function of the clock that transformers gives to templates
_FOLDED = (
    "the chat template leaves out the system message: its text is put before the first user message instead "
    '(env_config={"system_prompt": ""} leaves it out)'
)


def read_chat_template(template: str | os.PathLike) -> str:
    """The Jinja text of a chat template, which is given as a text or as the path of a file.

    Raises:
        ValueError: for a path without a file, and for a template that does not use the messages.
    """
    text = os.fspath(template)
    if "{{" not in text and "{%" not in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise ValueError(f"chat_template={text!r} is neither a Jinja template nor an existing file")
        text = path.read_text(encoding="utf-8")
    if "messages" not in text:
        raise ValueError(
            f"chat_template={os.fspath(template)!r}: the template does not use `messages`, so all prompts are the same"
        )
    return text


def set_chat_template(tokenizer: Any, template: str | os.PathLike) -> None:
    """Let a tokenizer use this template; see `read_chat_template`."""
    tokenizer.chat_template = read_chat_template(template)


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    template_kwargs: Mapping[str, Any] | None = None,
    date: str = TEMPLATE_DATE,
) -> str:
    """Write a chat in the tokenizer's template, up to the beginning of the assistant's answer.

    date: what the template gets for today's date, YYYY-MM-DD. The same chat is then the same prompt on every day.

    A system message that the template refuses (Gemma) or leaves out (the bare template of base models) goes before the
    first user message, with a warning.

    Raises:
        ValueError: for messages that the template refuses.
    """
    kwargs = dict(template_kwargs or {}) | {"add_generation_prompt": True, "tokenize": False}
    if _NOW in str(tokenizer.chat_template):  # tokenizers that need no Jinja refuse keywords that they do not know
        kwargs.setdefault(_NOW, datetime.fromisoformat(date).strftime)
    system = [message["content"] for message in messages if message["role"] == "system"]
    try:
        text = tokenizer.apply_chat_template(list(messages), **kwargs)
        if not system or all(part.strip() in text for part in system):
            return text
    except TemplateError as error:
        if not system:
            raise ValueError(f"the chat template refuses the messages: {error}") from error
    warnings.warn(_FOLDED, stacklevel=2)
    try:
        return tokenizer.apply_chat_template(_folded(messages), **kwargs)
    except TemplateError as error:
        raise ValueError(f'the chat template refuses the messages, system_prompt="" or not: {error}') from error


def _folded(messages: Sequence[Message]) -> list[Message]:
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [dict(message) for message in messages if message["role"] != "system"]
    first = next(message for message in others if message["role"] == "user")
    first["content"] = "\n\n".join([*system, first["content"]])
    return others
