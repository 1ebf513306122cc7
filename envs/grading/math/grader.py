r"""The grader of math answers.

The grader finds the answer (`text`), normalizes its spelling (`clean`), divides it into parts (`reading`) and compares
the parts (`compare`, `leaf`, `sets`) with exact arithmetic (`value`). It never executes the model's text and searches
for no proofs. The time of every step is linear in the length of the answer or has a limit, so that the grader needs no
process that can be killed. `docs/grading.md` lists the conventions.
"""

from __future__ import annotations

import re
from functools import lru_cache

from envs.grading.answers import MathAnswer
from envs.grading.math.arithmetic import begin_completion
from envs.grading.math.clean import clean, key
from envs.grading.math.compare import same_answer
from envs.grading.math.golds import mend_escapes
from envs.grading.math.leaf import Rules
from envs.grading.math.parse import TooLarge
from envs.grading.math.reading import shape
from envs.grading.math.shape import Shape
from envs.grading.math.text import boxed_answer, chosen_letter, final_answer
from envs.grading.math.words import as_text, split_qualifier, strip_lead
from envs.text_env import Grade

DECIMALS = ("rounded", "exact")
CACHE_ANSWERS = 4_096
# Longer answers are compared only as texts.
MAX_ANSWER_CHARS = 10_000

_PERCENT = re.compile(r"%|\bper ?cent", re.IGNORECASE)
_BOUND = re.compile(r"\\pi|°|\\mathbb\{Z\}|\\in\s*Z|\\text\{[^{}]*integer")
_BOUND_NAMES = frozenset("knmljptzcCKN")
_FUNCTION = re.compile(r"([A-Za-z])\(([A-Za-z])\)\s*=")
_CONSTANTS = re.compile(r"[^A-Z]*\+\s*C"), re.compile(r"[^A-Z]*\+\s*[CcKk]")  # of integration
_NAMED = re.compile(r"[A-Za-z]\s*(?:=|\\in(?![a-z]))")
_LETTER_OR_WORD = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]")
_DIGITS_AND_COMMAS = re.compile(r"[\d,\s]+")


class MathGrader:
    """Grades completions of math problems. It must not be used by several threads at once.

    Args:
        decimals: "rounded": a decimal of at least four significant digits is right for an exact gold that rounds to it.
            "exact": it must be equal.

    Raises:
        ValueError: for other `decimals`.
    """

    def __init__(self, decimals: str = "rounded"):
        if decimals not in DECIMALS:
            raise ValueError(f"decimals={decimals!r} is not one of {', '.join(DECIMALS)}")
        self.decimals = decimals

    def grade(self, answer: MathAnswer, completion: str, question: str = "") -> Grade:
        """Grade a completion for training by the content of its last \\boxed{...}.

        Prompts ask for the box. Without it, a completion could mention many numbers and be right by chance. A
        completion without a complete box after its thought has the status "no_answer".

        Args:
            question: the problem. If it mentions percent, 5% is right for the gold 5.
        """
        return self._graded(answer, boxed_answer(completion), bool(_PERCENT.search(question)))

    def grade_text(self, answer: MathAnswer, text: str) -> Grade:
        """Grade a text with or without a box. Without a box, `final_answer` looks for the answer."""
        found = final_answer(text)
        if found is not None and "\\boxed" not in text and _is_letter(answer.golds[0]):
            found = chosen_letter(text) or found
        return self._graded(answer, found, percent=False)

    def close(self) -> None:
        """Do nothing. Other graders have a process to end here."""

    def __enter__(self) -> MathGrader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _graded(self, answer: MathAnswer, extracted: str | None, percent: bool) -> Grade:
        if extracted is None or not extracted.strip():
            return Grade(0.0, False, None, "no_answer")
        status = _status(answer, extracted, Rules(answer.tolerance, self.decimals == "rounded", percent))
        return Grade(float(status == "ok"), status == "ok", extracted, status)


@lru_cache(maxsize=CACHE_ANSWERS)
def _status(answer: MathAnswer, extracted: str, rules: Rules) -> str:
    golds = answer.golds
    if answer.require_all and len(golds) > 1:
        golds = (" , ".join(map(_bare, golds)),)
    cleaned = clean(extracted)
    texts = [text for gold in golds for text in _readings(gold)]
    worded = [as_text(text) for text in texts if r"\text" in text]
    if key(cleaned) in map(key, texts) or (worded and cleaned and as_text(cleaned) in worded):
        return "ok"
    if any(len(text) > MAX_ANSWER_CHARS for text in (cleaned, *texts)):
        return "guarded"
    begin_completion()
    status = "wrong"
    for gold in texts:
        try:
            if _same(gold, extracted, cleaned, rules):
                return "ok"
        except TooLarge:
            status = "guarded"
    return status


def _same(gold: str, extracted: str, cleaned: str, rules: Rules) -> bool:
    gold_body, gold_about = split_qualifier(gold)
    gold_shape = _shape(gold_body)
    if gold_shape.kind == "list" and "," in extracted and _DIGITS_AND_COMMAS.fullmatch(extracted):
        cleaned = clean(extracted, join_thousands=False)  # 40,150 is a list if the gold is one
    body, about = split_qualifier(strip_lead(cleaned))
    if same_answer(gold_shape, shape(body), rules):
        return True
    names = _bound_names(gold_body, gold_about, body, about)
    return bool(names) and same_answer(gold_shape, shape(_renamed(body, names)), rules)


def _bound_names(gold: str, gold_about: str, answer: str, about: str) -> dict[str, str]:
    r"""Map the bound letters of an answer, as in x = n\pi or f(t) = t + 1, to their names in the gold."""
    functions = _FUNCTION.match(gold), _FUNCTION.match(answer)
    if None not in functions and functions[0][1] == functions[1][1]:
        ours, theirs = functions[0][2], functions[1][2]
        return {theirs: ours, ours: theirs} if ours != theirs else {}
    bodies = [_NAMED.sub("", text) for text in (gold, answer)]
    letters = [{token for token in _LETTER_OR_WORD.findall(body) if len(token) == 1} for body in bodies]
    only_gold, only_answer = letters[0] - letters[1], letters[1] - letters[0]
    is_constant = all(pattern.fullmatch(text) for pattern, text in zip(_CONSTANTS, (gold, answer), strict=True))
    is_solution = "=" in gold or "," in gold or gold_about
    is_bound = is_constant or (is_solution and _BOUND.search(gold + gold_about + about))
    if len(only_gold) != 1 or len(only_answer) != 1 or not is_bound:
        return {}
    names = only_gold | only_answer
    return {only_answer.pop(): only_gold.pop()} if names <= _BOUND_NAMES else {}


def _renamed(text: str, names: dict[str, str]) -> str:
    """Rename letters in a cleaned formula, but not in words and commands."""
    return _LETTER_OR_WORD.sub(lambda match: names.get(match[0], match[0]), text)


@lru_cache(maxsize=16_384)
def _readings(gold: str) -> tuple[str, ...]:
    """Return the cleaned gold, and, if the gold is a sentence, the answer that it states."""
    cleaned = clean(_bare(gold))
    return tuple(dict.fromkeys((cleaned, strip_lead(cleaned))))


def _bare(gold: str) -> str:
    text = mend_escapes(gold)
    if "\\boxed" in text or "\\fbox" in text:
        return final_answer(text) or text
    return text


@lru_cache(maxsize=16_384)
def _shape(cleaned: str) -> Shape:
    return shape(cleaned)


def _is_letter(gold: str) -> bool:
    return len(gold.strip()) == 1 and gold.strip() in "ABCDEFGHIJ"
