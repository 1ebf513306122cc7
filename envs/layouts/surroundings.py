"""Other columns that belong to a question: the options of a choice, the context, and images."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from envs.grading.answers import MathAnswer
from envs.grading.exact_json import parse_json
from envs.layouts.cells import Cell, Fields, Row

OPTION_COLUMNS = ("choices", "options", "Choices", "Options", "choice", "option")
CHOICE_GOLD_COLUMNS = (
    "answer", "Answer", "answerKey", "answer_key", "label", "correct", "correct_option", "correct_answer", "gold",
    "ground_truth", "target", "cop", "answer_idx",
)  # fmt: skip
_CONTEXT_COLUMNS = ("body", "passage", "context", "table", "background", "paragraph", "article", "story")
_IMAGE_COLUMN = re.compile(
    r"(decoded_?)?(image|images|img|imgs|picture|pictures|video|videos|audio|audios)([_-]?(path|paths|url|file|bytes|\d+))?",
    re.IGNORECASE,
)
_IMAGE_MARK = re.compile(
    r"<(?:image|img|video|audio)(?:[_ ]?\d+)?\s?/?>|<\|(?:image|vision_start|image_pad)\|?[^>]*>", re.I
)
_LETTERS = "ABCDEFGHIJ"
_LABEL = re.compile(r"\s*\(?([A-J])[).:]\s*(?=\S)")
_LABEL_IN_TEXT = re.compile(r"(?:^|(?<=[\s(]))\(?([A-J])[).:]\s*(?=\S)")
_LETTER = re.compile(r"\s*\(?([A-Ja-j])\)?[.:]?\s*")
_WRONG_OPTION = re.compile(r"(incorrect|wrong)[ _]?(answer|option)s?[ _]?\d*|distractor[ _]?\d", re.IGNORECASE)
_RIGHT_OPTION = re.compile(r"(correct[ _]|right[ _])answer", re.IGNORECASE)


@dataclass(frozen=True)
class Options:
    """The options of a choice: their texts by letter, and the text that shows them in the prompt."""

    column: str
    texts: dict[str, str]
    shown: str


def check_no_image(row: Row, prompt: str) -> None:
    """Raise ValueError for a row with an image, a video or a sound, because the prompt would not contain it."""
    for column, value in row.items():
        if isinstance(column, str) and _IMAGE_COLUMN.fullmatch(column) and _is_filled(value):
            raise Cell(column, "...").refused("no image, video or sound: this package asks with text alone")
    if mark := _IMAGE_MARK.search(prompt):
        raise Cell("prompt", prompt).refused(f"no {mark[0]}: this package asks with text alone")


def context_of(row: Row, fields: Fields, prompt: str) -> str | None:
    """The text to which the question refers, if it has its own column and is not part of the prompt.

    Raises:
        ValueError: for a context that is not a text.
    """
    if "context" in fields:
        cells = [fields["context"]]
    else:
        cells = [Cell(c, v) for c, v in row.items() if isinstance(c, str) and c.lower() in _CONTEXT_COLUMNS]
    used = {cell.column for name, cell in fields.items() if name != "context"}
    parts = [_context_text(cell) for cell in cells if _is_filled(cell.value) and cell.column not in used]
    return "\n\n".join(part for part in parts if part not in prompt) or None


def options_of(row: Row, fields: Fields) -> Options | None:
    """The options of a row, from one column or from columns A, B, ...; None without any.

    Raises:
        ValueError: for options that cannot be read.
    """
    if "options" in fields:
        cell = fields["options"]
        return _read_options(cell) if _is_filled(cell.value) else None
    for column in OPTION_COLUMNS:
        if _is_filled(row.get(column)):
            return _read_options(Cell(column, row[column]))
    for names in _OPTION_SERIES:
        if all(_is_filled(row.get(name)) for name in names[:2]):
            listed = [row[name] for name in names if _is_filled(row.get(name))]
            return _lettered(names[0], [_text(Cell(names[0], value)) for value in listed])
    return _shuffled(row)


_OPTION_SERIES = [list(_LETTERS), *([f"{head}{letter}" for letter in letters] for head, letters in (
    ("option", "12345"), ("option_", "12345"), ("option_", "abcde"), ("op", "abcde"), ("choice", "12345"),
    ("choice_", "abcde"), ("option_", "ABCDE"), ("ending", "0123"),
))]  # fmt: skip


def chosen(options: Options, answer: Cell) -> MathAnswer:
    """The golds of a choice: the letter, and the text of that option.

    Raises:
        ValueError: for an answer that is not one of the options.
    """
    letter = _letter_of(options, answer.value)
    if letter is None:
        count = f"one of {', '.join(options.texts)}, the index of an option from 0, or its text"
        raise answer.refused(f"{count} (the options are in {options.column})")
    text = _bare(options.texts[letter])
    is_clear = text and not _LETTER.fullmatch(text) and list(options.texts.values()).count(options.texts[letter]) == 1
    return MathAnswer((letter, text) if is_clear else (letter,))


def shows_options(options: Options, prompt: str) -> bool:
    """Tell whether a prompt already contains the options."""
    texts = [_bare(text) for text in options.texts.values()]
    labels = {match[1] for match in _LABEL_IN_TEXT.finditer(prompt)}
    return set(options.texts) <= labels and all(text in prompt for text in texts)


def _letter_of(options: Options, value: Any) -> str | None:
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    by_text = {text.strip(): letter for letter, text in options.texts.items()}
    if isinstance(value, bool):
        return by_text.get(str(value))
    if isinstance(value, int | float) and int(value) == value:
        letters = list(options.texts)
        return letters[int(value)] if 0 <= value < len(letters) else by_text.get(str(value))
    if not isinstance(value, str):
        return None
    if (match := _LETTER.fullmatch(value)) and match[1].upper() in options.texts:
        return match[1].upper()
    if value.strip() in by_text:
        return by_text[value.strip()]
    if (match := _LABEL.match(value)) and match[1] in options.texts:
        rest = value[match.end() :]
        return match[1] if _bare(rest) == _bare(options.texts[match[1]]) else None
    bare = {_bare(text).lower(): letter for text, letter in by_text.items()}
    if _bare(value).lower() in bare:
        return bare[_bare(value).lower()]
    return _letter_of(options, int(value)) if value.strip().isdigit() and len(value) < 3 else None


def _read_options(cell: Cell) -> Options:
    value = cell.value
    if isinstance(value, str):
        parsed = _parsed_text(value)
        if parsed is None:
            return _labelled_text(cell)
        value = parsed
    if isinstance(value, Mapping):
        texts, labels = value.get("text", value.get("texts")), value.get("label", value.get("labels"))
        if isinstance(texts, list) and isinstance(labels, list) and len(texts) == len(labels):
            value = [{"label": label, "text": text} for label, text in zip(labels, texts, strict=True)]
        else:
            value = [{"label": label, "text": text} for label, text in value.items() if _is_filled(text)]
    if not isinstance(value, Sequence) or len(value) < 2 or len(value) > len(_LETTERS):
        raise cell.refused(f"2 to {len(_LETTERS)} options")
    if not all(isinstance(item, Mapping) for item in value):
        return _lettered(
            cell.column, [_without_label(_text(item), i) for i, item in enumerate(cell_items(cell, value))]
        )
    texts, labels = [], []
    for item in value:
        label = item.get("label", item.get("key", item.get("letter", item.get("id"))))
        text = item.get("text", item.get("value", item.get("content", item.get("answer"))))
        texts.append(_text(Cell(cell.column, text)))
        labels.append(str(label).strip().strip("().").upper())
    if all(len(label) == 1 and label in _LETTERS for label in labels) and len(set(labels)) == len(labels):
        return _made(cell.column, dict(zip(labels, texts, strict=True)))
    return _lettered(cell.column, texts)


def cell_items(cell: Cell, value: Sequence[Any]) -> list[Cell]:
    """The options of a list as cells."""
    return Cell(cell.column, list(value)).items()


def _labelled_text(cell: Cell) -> Options:
    """Options in one text, such as "A) 2 B) 3" or one per line; the text is shown unchanged."""
    text = cell.text()
    matches, expected = [], iter(_LETTERS)
    letter = next(expected)
    for match in _LABEL_IN_TEXT.finditer(text):
        if match[1] == letter:
            matches.append(match)
            letter = next(expected, "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(matches) < 2 and len(lines) >= 2:
        return _lettered(cell.column, lines)
    if len(matches) < 2:
        raise cell.refused("options with letters, such as A) 2 B) 3")
    ends = [match.start() for match in matches[1:]] + [len(text)]
    texts = {m[1]: text[m.end() : end].strip(" \n,;") for m, end in zip(matches, ends, strict=True)}
    return Options(cell.column, texts, text.strip())


def _shuffled(row: Row) -> Options | None:
    """The right and the wrong options from separate columns, in an order that depends only on their texts."""
    wrong = [c for c in row if isinstance(c, str) and _WRONG_OPTION.fullmatch(c) and isinstance(row[c], str) and row[c]]
    right = [c for c in row if isinstance(c, str) and _RIGHT_OPTION.fullmatch(c) and isinstance(row[c], str) and row[c]]
    if not wrong or len(right) != 1 or len(wrong) >= len(_LETTERS):
        return None
    texts = [row[column].strip() for column in (*right, *wrong)]
    return _lettered(
        right[0], sorted(texts, key=lambda text: blake2b("|".join([*sorted(texts), text]).encode()).digest())
    )


def _lettered(column: str, texts: Sequence[str]) -> Options:
    return _made(column, dict(zip(_LETTERS, texts, strict=False)))


def _made(column: str, texts: dict[str, str]) -> Options:
    return Options(column, texts, "\n".join(f"{letter}) {text}" for letter, text in texts.items()))


def _without_label(text: str, number: int) -> str:
    match = _LABEL.match(text)
    return text[match.end() :] if match and match[1] == _LETTERS[number] else text


def _text(cell: Cell) -> str:
    if isinstance(cell.value, int | float):
        return str(cell.value)
    return cell.text().strip()


def _bare(text: str) -> str:
    text = text.strip().removesuffix(".")
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1] else text


def _parsed_text(text: str) -> Any:
    if not re.match(r"\s*[\[{]", text):
        return None
    try:
        parsed = parse_json(text)
    except ValueError:
        try:
            parsed = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return parsed if isinstance(parsed, list | dict) else None


def _context_text(cell: Cell) -> str:
    value = cell.value
    if isinstance(value, list) and all(isinstance(line, list) for line in value):
        return "\n".join(" | ".join(map(str, line)) for line in value)
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n\n".join(value)
    if not isinstance(value, str):
        raise cell.refused(f'a text that the question is about; columns={{"context": None}} leaves {cell.column} out')
    return value.strip()


def _is_filled(value: Any) -> bool:
    if value is None:  # most often, because rows have few of the columns that are searched
        return False
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, Mapping):
        return any(_is_filled(inner) for inner in value.values())
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return any(_is_filled(inner) for inner in value)
    return value is not False
