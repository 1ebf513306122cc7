"""One grader of each kind for this process, for frameworks that call a function per completion."""

from functools import cache

from envs.grading.answers import Answer, MathAnswer
from envs.grading.code.grader import CodeGrader
from envs.grading.math.grader import MathGrader
from envs.text_env import Grade


def grade(answer: Answer, completion: str) -> Grade:
    """Grade a completion by the grader for this kind of answer."""
    grader = _math_grader() if isinstance(answer, MathAnswer) else _code_grader()
    return grader.grade(answer, completion)


@cache
def _math_grader() -> MathGrader:
    return MathGrader()


@cache
def _code_grader() -> CodeGrader:
    return CodeGrader()
