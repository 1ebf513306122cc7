"""The kinds of faults that real data showed in math graders: the listed pairs, and more pairs of the same kinds."""

import json
from pathlib import Path

import pytest

from envs.grading.answers import MathAnswer
from envs.grading.math.golds import mend_escapes, why_not_comparable
from envs.grading.math.grader import MathGrader

DATA = Path(__file__).parents[2] / "data"
ROWS = [json.loads(line) for line in (DATA / "math_kinds.jsonl").read_text().splitlines()]
KINDS = sorted({row["kind"] for row in ROWS})


@pytest.fixture(scope="module")
def grader():
    return MathGrader()


@pytest.mark.parametrize("kind", KINDS)
def test_listed_pairs(kind, grader):
    rows = [row for row in ROWS if row["kind"] == kind]
    wrong = [
        (row["gold"], row["answer"])
        for row in rows
        if grader.grade_text(MathAnswer((row["gold"],)), row["answer"]).correct != row["expected"]
    ]
    assert wrong == []


# "+ gold ~ answer" is right, "- gold ~ answer" is not.
PAIRS = [line for line in (DATA / "math_pairs.txt").read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("line", PAIRS)
def test_more_pairs_of_these_kinds(line, grader):
    gold, answer = line[2:].split(" ~ ")
    assert grader.grade(MathAnswer((gold,)), f"so \\boxed{{{answer}}}.").correct == (line[0] == "+")
    assert grader.grade(MathAnswer((gold,)), f"so \\boxed{{{gold}}}.").correct


# Golds as GSM8K, MATH, asdiv, college_math, Big-Math and OlympiadBench have them.
GOLDS = r"""
72
1,080
$18.50
165 (pennies)
4 (feet tall)
3/4 (of a pizza)
25\%
\frac{14}{3}
-\frac{\sqrt{3}}{2}
(3,-1)
[-2,5)
(-\infty,2)\cup(2,\infty)
\begin{pmatrix}1&-2\\0&3\end{pmatrix}
\left\{\frac{1}{2},3\right\}
x=2, y=-1
y=-\frac{1}{2}x+4
2x^2-3x+1
9 \text{ inches}
\text{Evelyn}
12 \text{ and } 20
x^4-x^3+x^2-x+1
6+9i
\text{(C)}
2516_8
\pm\frac{\sqrt{2}}{2}
Converges
No
The lines are parallel
$3 /(1000 \pi)$ meters $/$ second
No solution : $\oslash$
Maximum at $x=2$, minimum at $x=-1$
$\ln |x|+C$
$y=C e^{-2 x}$
$\frac{d y}{d x}=\frac{2 x}{y}$
$\sqrt{3} / 2$
140 miles per hour
12 ft by 20 ft
84\% confidence
$(x-2)^{2}+(y+1)^{2}=9$
$\{x \mid x \geq 3\}$
$\exists x \neg P(x)$
$2 \sin x \cos x$
$\langle 1,-2,3\rangle$
$f^{-1}(x)=\frac{x+1}{2}$
$1+\frac{x^{2}}{2 !}+\cdots$
5 dollars and 20 cents
Tuesday at 3 p.m.
$n \equiv 1 \pmod 4$
①③④
a > b > c
1:2:\sqrt{3}
\lfloor n/2 \rfloor
$2^{n-1}$ for all $n \geq 1$
$(1,2,3),(2,1,3)$
$x_1 = 1, x_2 = -3$
\frac{1}{2}\left(1 - \frac{1}{3^n}\right)
all integers
Linear, order 2
"""


@pytest.mark.parametrize("gold", GOLDS.strip().splitlines())
def test_the_gold_itself_is_right_and_with_a_tail_or_another_digit_it_is_wrong(gold, grader):
    answer = MathAnswer((gold,))
    assert why_not_comparable(gold) is None
    assert grader.grade(answer, f"so \\boxed{{{gold}}}.").correct
    assert not grader.grade(answer, f"so \\boxed{{{gold} \\text{{ is not true}}}}.").correct
    assert not grader.grade(answer, f"so \\boxed{{\\text{{not }} {gold}}}.").correct
    changed = "".join(str((int(char) + 1) % 10) if char in "123456789" else char for char in gold)
    if changed != gold and "①" not in gold:
        assert not grader.grade(answer, f"so \\boxed{{{changed}}}.").correct, changed


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("2 \text{ or } 3", r"2 \text{ or } 3"),
        ("\frac{1}{2}", r"\frac{1}{2}"),
        ("\boxed{3}", r"\boxed{3}"),
        ("3 \times 4", r"3 \times 4"),
        ("\right) + \beta", r"\right) + \beta"),
        ("x \neq 2", r"x \neq 2"),
        ("30^\theta", r"30^\theta"),
        ("a\tb", "a\tb"),
        ("one\ntwo", "one\ntwo"),
        ("an apple\textile", "an apple\textile"),
        ("no\negative", "no\negative"),
    ],
)
def test_escapes_that_json_has_broken_are_mended(broken, mended):
    assert mend_escapes(broken) == mended


@pytest.mark.parametrize(
    "gold",
    [
        "proof",
        "notfound",
        "N/A",
        r"\phantom{5}",
        "$$",
        ".",
        r"\frac{1}{2",
        "![](a.png)",
        "[asy]draw();[/asy]",
        "word " * 40,
    ],
)
def test_golds_that_nothing_can_be_compared_with(gold):
    assert why_not_comparable(gold)


def test_a_gold_that_is_a_sentence_states_an_answer(grader):
    range_of_a = MathAnswer(("The range of values for a is a \\leq 3.",))
    assert grader.grade(range_of_a, r"\boxed{a \leq 3}").correct
    assert not grader.grade(range_of_a, r"\boxed{3}").correct
    assert not grader.grade(MathAnswer(("The opposite of x is 3.",)), r"\boxed{3}").correct


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        # What stands before a rough value must be near it.
        ("5", r"5 \approx 9", False),
        (r"\pi", r"\pi \approx 4", False),
        ("5", r"5 \approx \text{banana}", False),
        (r"\sqrt{2}", r"\sqrt{2} \approx 1.41", True),
        (r"\frac{22}{7}", r"x = \frac{22}{7} \approx 3.14", True),
        # A base that has such digits may be missing on one side.
        ("101", "101_2", True),
        ("5", "5_3", False),
        ("19", "19_8", False),
        ("A", "A_3", False),
        ("A", "A_{12}", False),
        # A percent sign changes words as it changes numbers.
        (r"\text{east}", r"\text{east}\%", False),
        (r"\text{east}", r"-\text{east}", False),
        (r"\text{north-east}", r"\text{north-east}", True),
        # Words before a name may say what it is; they may not change it.
        ("x=4", r"\text{the opposite of }x=4", False),
        ("x=4", r"\text{half of }x=4", False),
        ("x=4", r"\text{the reciprocal of }x=4", False),
        ("x=4", r"\text{the value of }x=4", True),
        ("x=4", r"\text{so } x=4", True),
    ],
)
def test_signs_after_a_value(gold, answer, expected):
    assert MathGrader().grade(MathAnswer((gold,)), rf"\boxed{{{answer}}}").correct == expected
