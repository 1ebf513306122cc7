"""Prompts: plain texts, chats as lists of messages or as text, and texts with the tokens of a chat template."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from envs.grading.exact_json import parse_json
from envs.layouts.cells import Cell

Message = dict[str, str]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_OTHER_NAMES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
_MESSAGE_KEYS = (("role", "content"), ("from", "value"), ("role", "value"))
_LOOKS_LIKE_A_CHAT = re.compile(r"""\s*(array\()?\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")
_BETWEEN_ROWS_OF_NUMPY = re.compile(r"\}\s+\{")
# Special tokens that begin a message or a conversation in the templates of well-known models.
_TEMPLATE_TOKEN = (
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<\|begin_of_text\|>|<start_of_turn>|<bos>|<s>|\[INST\]|<\|start\|>"
    r"|<[|\uff5c]\s?(?:user|assistant|system|begin[_\u2581]of[_\u2581]sentence)\s?[|\uff5c]>)"
)
_TEMPLATED = re.compile(
    rf"\A\s*{_TEMPLATE_TOKEN}|<\|im_start\|>assistant\s*(?:<think>\s*)?\Z|\[/INST\]\s*\Z|<start_of_turn>model\s*\Z"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>\s*\Z|<[|\uff5c]\s?assistant\s?[|\uff5c]>\s*(?:<think>\s*)?\Z",
    re.IGNORECASE,
)


def conversation(cell: Cell) -> tuple[tuple[Message, ...], str]:
    """Read a prompt into (earlier messages, the last user message). A plain text has no earlier messages.

    A message of the assistant at the end is the solution or empty. It is not part of the prompt.

    Raises:
        ValueError: for an empty prompt, for a value that is not a list of messages, for messages that do not end with
            one of the user, and for roles that do not alternate.
    """
    value = _parsed(cell)
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (), cell.text()
    cell = Cell(cell.column, value)
    items = cell.items()
    while items and _role_of(items[-1].value) == "assistant":
        items.pop()
    if not items:
        raise cell.refused("at least one message of the user")
    messages = [_message(item) for item in items]
    _check_roles(items, messages)
    last = messages.pop()
    if last["role"] != "user":
        raise items[-1].refused('the last message of a prompt to have the role "user"')
    return tuple(messages), last["content"]


def is_templated(prompt: str) -> bool:
    """Tell whether a prompt begins or ends with the tokens of a chat template."""
    return bool(_TEMPLATED.search(prompt))


def _parsed(cell: Cell) -> Any:
    """The list of messages in a text, if the text is a chat as JSON, Python or numpy write it."""
    text = cell.value
    if not isinstance(text, str) or not _LOOKS_LIKE_A_CHAT.match(text):
        return text
    try:
        return parse_json(text)
    except ValueError:
        pass
    inner = re.sub(r"\A\s*array\((.*?)(?:,\s*dtype=\w+)?\)\s*\Z", r"\1", text, flags=re.DOTALL)
    try:
        return ast.literal_eval(_BETWEEN_ROWS_OF_NUMPY.sub("}, {", inner))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise cell.refused("a text, or a chat that can be parsed (this looks like one)") from None


def _role_of(message: Any) -> str | None:
    if not isinstance(message, Mapping):
        return None
    role = message.get("role", message.get("from"))
    return _OTHER_NAMES.get(role, role) if isinstance(role, str) else None


def _message(cell: Cell) -> Message:
    if not isinstance(cell.value, Mapping):
        raise cell.refused('a message {"role": ..., "content": ...}')
    keys = next((keys for keys in _MESSAGE_KEYS if cell.value.keys() >= set(keys)), None)
    if keys is None:
        raise cell.refused('a message {"role": ..., "content": ...} or {"from": ..., "value": ...}')
    role = _role_of(cell.value)
    if role not in _ROLES:
        raise Cell(f"{cell.column}.{keys[0]}", cell.value[keys[0]]).refused(f"one of {', '.join(_ROLES)}")
    return {"role": role, "content": _content(Cell(f"{cell.column}.{keys[1]}", cell.value[keys[1]]))}


def _content(cell: Cell) -> str:
    """A text, or the parts of a text as in the OpenAI API."""
    if isinstance(cell.value, str) or not isinstance(cell.value, Sequence):
        return cell.text()
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in cell.value):
        raise cell.refused("a text, or a list of parts of the type text (images cannot be shown)")
    return Cell(cell.column, "".join(str(part.get("text")) for part in cell.value)).text()


def _check_roles(cells: Sequence[Cell], messages: Sequence[Message]) -> None:
    """Most chat templates raise for roles that do not alternate. Raise here, with the row, before the run starts."""
    turns = [(cell, m["role"]) for cell, m in zip(cells, messages, strict=True) if m["role"] in ("user", "assistant")]
    for number, (cell, role) in enumerate(turns):
        if role != ("user", "assistant")[number % 2]:
            raise cell.refused("user and assistant to take turns, the user first")
    for number, message in enumerate(messages):
        if number and message["role"] in ("system", "developer"):
            raise cells[number].refused("a system message to come first")
