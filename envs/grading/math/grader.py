"""The grader of math answers.

An answer is read (`text`), brought to one spelling (`clean`), taken apart (`shape`) and compared part by
part (`compare`, `leaf`) with exact arithmetic (`value`). Only formulas outside that grammar go to
math-verify, in a child process that is killed at the deadline. The conventions are in the docstrings of `leaf`
and `compare`, except two:

- Of several boxes the last counts; boxes that are joined by commas or "and" are one list.
- A formula that is no final answer (an integral, a sum, a tower of powers) is "guarded", unless the gold is the same
  text. It is never evaluated, and repeating the integral of the question earns nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from time import monotonic

from envs.grading.answers import MathAnswer
from envs.grading.child import Child, ChildDied, ChildError, ChildTimeout
from envs.grading.math.clean import clean, key
from envs.grading.math.compare import same_answer
from envs.grading.math.guard import is_costly
from envs.grading.math.parse import TooLarge
from envs.grading.math.shape import shape
from envs.grading.math.text import boxed_answer, chosen_letter, final_answer, is_prose
from envs.text_env import Grade

CACHE_ANSWERS = 4_096
MIN_ASK_S = 0.01
# A gold of fewer words, "July 4", is an answer and not a sentence that holds one.
MIN_PROSE_WORDS = 4
# Longer answers are only compared as texts.
MAX_ANSWER_CHARS = 10_000
MAX_CHILD_ANSWERS = 20_000
MAX_CHILD_GROWTH_BYTES = 1 << 30

_FACTORY = "envs.grading.math.verify_worker:make_verifier"


class _Guarded(Exception):
    pass


class MathGrader:
    """Grades completions of math problems.

    It starts a child process when it first needs one; use it as a context manager, or call `close`. A copy in another
    process (pickle) starts a child of its own. Not for several threads at once.

    Args:
        timeout_s: Seconds that one completion may take; above 0. The start of the child does not count.

    Raises:
        ValueError: for a `timeout_s` that is not above 0.
    """

    def __init__(self, timeout_s: float = 5.0):
        if not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s!r} must be above 0")
        self.timeout_s = timeout_s
        self._child = Child(_FACTORY, max_answers=MAX_CHILD_ANSWERS, max_growth_bytes=MAX_CHILD_GROWTH_BYTES)
        self._verdicts: OrderedDict[tuple[MathAnswer, str], Grade] = OrderedDict()

    def grade(self, answer: MathAnswer, completion: str) -> Grade:
        """Grade a completion for training: only what is in its last \\boxed{...} counts.

        This is what prompts ask for, and without it a completion could mention many numbers and end well by chance.
        A completion without a complete box after its thought is "no_answer".
        """
        return self._graded(answer, boxed_answer(completion))

    def grade_text(self, answer: MathAnswer, text: str) -> Grade:
        """Grade a text with or without a box; without one, its final answer is what reads like one."""
        found = final_answer(text)
        if found is not None and "\\boxed" not in text and _is_letter(answer.golds[0]):
            found = chosen_letter(text) or found
        return self._graded(answer, found)

    def close(self) -> None:
        """End the child process, if there is one; a later call starts it again."""
        self._child.close()

    def __enter__(self) -> MathGrader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _graded(self, answer: MathAnswer, extracted: str | None) -> Grade:
        if extracted is None or not extracted.strip():
            return Grade(0.0, False, None, "no_answer")
        cache_key = (answer, extracted)
        grade = self._verdicts.get(cache_key)
        if grade is None:
            status = self._status(answer, extracted)
            correct = status == "ok"
            grade = Grade(float(correct), correct, extracted, status)
            if status in ("ok", "wrong", "guarded"):
                self._verdicts[cache_key] = grade
                if len(self._verdicts) > CACHE_ANSWERS:
                    self._verdicts.popitem(last=False)
        return grade

    def _status(self, answer: MathAnswer, extracted: str) -> str:
        cleaned = clean(extracted)
        cleaned_golds = [_cleaned_gold(gold) for gold in answer.golds]
        if answer.require_all and len(cleaned_golds) > 1:
            cleaned_golds = [" , ".join(cleaned_golds)]
        if key(cleaned) in map(key, cleaned_golds):
            return "ok"
        if len(cleaned) > MAX_ANSWER_CHARS or any(len(gold) > MAX_ANSWER_CHARS for gold in cleaned_golds):
            return "guarded"
        golds = [_shape(gold) for gold in cleaned_golds]
        given = shape(cleaned)
        self._left_s = self.timeout_s
        statuses = []
        for gold in golds:
            try:
                if same_answer(gold, given, answer.tolerance, self._ask):
                    return "ok"
                statuses.append("wrong")
            except (_Guarded, TooLarge):
                statuses.append("guarded")
            except ChildTimeout:
                statuses.append("timeout")
            except ChildDied:
                statuses.append("sandbox_error")
        return max(statuses, key=("wrong", "guarded", "timeout", "sandbox_error").index)

    def _ask(self, gold: str, answer: str) -> bool:
        """Ask math-verify about a pair of formulas, within what is left of the completion's time."""
        if is_costly(gold, answer):
            raise _Guarded
        for attempts_left in (1, 0):
            self._child.start()
            start = monotonic()
            try:
                return self._child.ask((gold, answer), self._left_s)
            except ChildError:
                return False  # math-verify cannot read it
            except ChildDied:
                if not attempts_left:
                    raise
            finally:
                self._left_s = max(MIN_ASK_S, self._left_s - (monotonic() - start))


@lru_cache(maxsize=16_384)
def _cleaned_gold(gold: str) -> str:
    text = gold
    if "\\boxed" in gold or "\\fbox" in gold or (is_prose(gold) and len(gold.split()) >= MIN_PROSE_WORDS):
        text = final_answer(gold) or gold
    return clean(text)


_shape = lru_cache(maxsize=16_384)(shape)


def _is_letter(gold: str) -> bool:
    return len(gold.strip()) == 1 and gold.strip() in "ABCDEFGHIJ"
