"""What runs in the child process of `MathGrader`: the math-verify library, without its time-outs.

Formulas go straight to its LaTeX grammar. Its `parse` would also find answers in texts, and so reads a half of garbage
as the number that stands somewhere in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

# No sum of decimals is rounded: the decimals of an answer are compared before.
FLOAT_ROUNDING = 12
NUMERIC_PRECISION = 30


def make_verifier() -> Callable[[tuple[str, str]], bool]:
    """Return the function that tells whether two formulas (gold, answer) are the same; it raises for garbage."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify import verify
    from math_verify.grader import should_treat_as_complex

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )

    def read(formula: str) -> Any:
        text = normalize_latex(formula, normalization)
        return latex2sympy(
            text, is_real=not should_treat_as_complex(text), convert_degrees=False, normalization_config=None
        )

    def same(formulas: tuple[str, str]) -> bool:
        gold, answer = (read(formula) for formula in formulas)
        return verify(
            gold,
            answer,
            float_rounding=FLOAT_ROUNDING,
            numeric_precision=NUMERIC_PRECISION,
            allow_set_relation_comp=True,
            timeout_seconds=None,
        )

    same(("1", "2"))  # load what is loaded lazily, before the first deadline runs
    return same
