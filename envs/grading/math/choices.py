r"""Answers that choose from the question: an option A to J, or numbers of statements such as (1)(3)."""

from __future__ import annotations

import re

from envs.grading.math.shape import Shape
from envs.grading.math.words import as_text

_LETTER = re.compile(r"\(?([A-J])\)?", re.ASCII)
_OPTION = re.compile(r"\(?([A-J])\)?(?:[).:]+\s*|$)(?=[^,]|$)", re.ASCII)
# A gold may repeat the text of the option: (C) 42, C. 42, C Yes.
_DESCRIBED = re.compile(r"(?:\((?=.\))|(?=.[.):])|(?=.\s+(?:\\text\{)?[A-Z][a-z]))([A-J])[).:]?\s*(?=\S)", re.ASCII)
_SECOND_OPTION = re.compile(r"(?<![A-Za-z])\(?[A-J](?:[).:]|(?= |$))", re.ASCII)
_TAKEN_BACK = re.compile(
    r"\s*(?:\\text\{)?\s*(?:is|isn't|are|or|and|not|but|nor|except|if|unless|cannot|was|minus|plus)\b", re.I
)
_UNIT = re.compile(r"\\text|[°%]")
_LETTERS = re.compile(r"[A-J]{2,10}")  # AC: several options are right
_LIST_OF_LETTERS = re.compile(r"\(?[A-J]\)?(?:(?:[\s,;]|\\and\b)+\(?[A-J]\)?)+", re.ASCII)
_STATEMENTS = re.compile(r"\(\d{1,2}\)(?:(?:[\s,;.]|\\and\b)*\(\d{1,2}\))+")


def same_choice(gold: Shape, answer: Shape) -> bool | None:
    """Whether two answers choose the same; None if the gold is not a choice."""
    numbers = _statements(gold.text)
    return _same_option(gold.text, answer.text) if numbers is None else _chosen_statements(answer) == numbers


def _same_option(gold: str, answer: str) -> bool | None:
    for letters, listed in ((gold, answer), (answer, gold)):
        if _LETTERS.fullmatch(letters) and _LIST_OF_LETTERS.fullmatch(listed):
            return set(letters) == set(re.findall(r"\b[A-J]\b", listed))
    letter, described = _LETTER.fullmatch(gold), _DESCRIBED.match(gold)
    if letter is None and (described is None or _SECOND_OPTION.search(gold, described.end())):
        return None
    chosen = _LETTER.fullmatch(answer) or _OPTION.match(answer)
    if chosen is None and letter:
        return False if _UNIT.search(answer) else None
    if chosen is None:
        return as_text(gold[described.end() :]) == as_text(answer)
    if _SECOND_OPTION.search(answer, chosen.end()) or _TAKEN_BACK.match(answer, chosen.end()):
        return False
    return chosen[1] == (letter or described)[1]


def _statements(text: str) -> set[str] | None:
    return set(re.findall(r"\d+", text)) if _STATEMENTS.fullmatch(text.strip()) else None


def _chosen_statements(answer: Shape) -> set[str] | None:
    found = _statements(answer.text)
    if found is None and answer.kind in ("list", "set", "tuple"):
        texts = {item.text.strip("() ") for item in answer.items}
        found = texts if all(map(str.isdigit, texts)) else None
    return found
