"""Graders: math answers and programs per second on one core, compared with math-verify alone and a plain subprocess.

    python benchmarks/grading.py                   # both
    python benchmarks/grading.py math --pairs 500  # a small run
    python benchmarks/grading.py --data gsm8k.jsonl  # verdicts on the rows of a data file, and their rate

Math: completions of about 2,000 characters that end in a box, two thirds of them right. No answer occurs twice, so that
the grader's cache has no effect. Code: one program, three tests by stdin; "subprocess" starts a new interpreter without
protection per test. Repeats are interleaved and results are medians. Both graders are warmed up first.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial

from math_verify import parse, verify
from timing import timed

from envs.grading.answers import CodeTests, MathAnswer
from envs.grading.check import check
from envs.grading.code.grader import CodeGrader
from envs.grading.math.grader import MathGrader

PROGRAM = "n = int(input())\nprint(sum(map(int, input().split()[:n])))\n"
TESTS = CodeTests(
    "stdin", inputs=("3\n1 2 3\n", "1\n-41\n", "5\n1000000000000 1 1 1 1\n"), outputs=("6", "-41", "1000000000004")
)


def math_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Pairs (gold, completion) with the kinds of answers of public math sets, in similar proportions."""
    rng = random.Random(seed)
    kinds = [
        (50, lambda n: (f"{n}", f"{n}")),
        (12, lambda n: (rf"\frac{{{n}}}{{{n + 7}}}", f"{n}/{n + 7}")),
        (8, lambda n: (f"{n}.25", rf"{n}.250")),
        (6, lambda n: (rf"{n}\sqrt{{3}}", rf"{n} \sqrt 3")),
        (5, lambda n: (f"{n},{n % 1000:03d}", f"{n}{n % 1000:03d}")),
        (5, lambda n: (rf"({n}, \pi)", rf"\left({n},\pi\right)")),
        (4, lambda n: (rf"{n}\%", rf"{n} \%")),
        (4, lambda n: (rf"{n}\text{{ cm}}", f"{n}")),
        (3, lambda n: (rf"[{n}, \infty)", rf"[{n},\infty)")),
        (3, lambda n: (f"x^2+{n}x+1", f"1+x^2+{n}x")),
    ]
    weights = [weight for weight, _ in kinds]
    thought = "so we get $x_1 = 3$ and then \\( y = \\frac{1}{2} \\) from the line above; "
    pairs = []
    for n in range(100, 100 + count):
        _, make = rng.choices(kinds, weights)[0]
        gold, answer = make(n)
        if rng.random() < 1 / 3:
            _, answer = make(n + 1)
        pairs.append((gold, f"<think>{thought * 30}</think>\nThe answer is $\\boxed{{{answer}}}$."))
    return pairs


def bare_math_verify(gold: str, text: str) -> bool:
    """The verdict of math-verify without time limits, which needs the gold in a box."""
    boxed_gold = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    return verify(boxed_gold, parse(text, parsing_timeout=None), timeout_seconds=None)


def last_line(completion: str) -> str:
    """The line with the box, for a faster baseline that reads only this line."""
    return completion.rpartition("\n")[2]


def subprocess_grade(tests: CodeTests, program: str) -> bool:
    """Run a program in a new interpreter per test, without protection."""
    for given, expected in zip(tests.inputs, tests.outputs, strict=True):
        done = subprocess.run([sys.executable, "-c", program], input=given, capture_output=True, text=True, timeout=10)
        if done.stdout.split() != expected.split():
            return False
    return True


def rates(ways: dict[str, Callable[[int], Sequence[bool]]], repeats: int) -> dict[str, float]:
    """Median items per second of each way. Repeats are interleaved; `way(r)` grades the r-th share of the items."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for r in range(repeats):
        for name, way in ways.items():
            seconds, verdicts = timed(partial(way, r))
            measured[name].append(len(verdicts) / seconds)
    return {name: statistics.median(values) for name, values in measured.items()}


def report(title: str, measured: dict[str, float]) -> dict[str, float]:
    """Print one table and return its ratios; the last way is the baseline."""
    baseline = list(measured.values())[-1]
    print(f"\n| {title} | per second | / baseline |\n|---|---|---|")
    for name, rate in measured.items():
        print(f"| {name} | {rate:,.0f} | {rate / baseline:.2f} |")
    return {name: rate / baseline for name, rate in measured.items()}


def run_math(num_pairs: int, repeats: int) -> dict[str, float]:
    """Measure math. The grader gets different pairs in every repeat; the baselines get some of them."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns about every call without a time limit
    shares = [math_pairs(num_pairs * repeats, seed=0)[r::repeats] for r in range(repeats)]
    with MathGrader() as grader:
        grader.grade(MathAnswer(("x^2+1",)), r"\boxed{\sin(x)+x^3}")  # starts the child process
        return report(
            "math",
            rates(
                {
                    "MathGrader": lambda r: [grader.grade(MathAnswer((g,)), c).correct for g, c in shares[r]],
                    "math-verify": lambda r: [bare_math_verify(g, c) for g, c in shares[r][: num_pairs // 20]],
                    "math-verify, last line only": lambda r: [
                        bare_math_verify(g, last_line(c)) for g, c in shares[r][: num_pairs // 5]
                    ],
                },
                repeats,
            ),
        )


def run_code(num_programs: int, repeats: int) -> dict[str, float]:
    """Measure code with the same right program in every run; no result is cached between runs."""
    with CodeGrader() as grader:
        assert grader.grade_program(TESTS, PROGRAM).correct
        return report(
            "code, 3 tests",
            rates(
                {
                    "CodeGrader": lambda r: [grader.grade_program(TESTS, PROGRAM).correct for _ in range(num_programs)],
                    "subprocess": lambda r: [subprocess_grade(TESTS, PROGRAM) for _ in range(num_programs // 4)],
                },
                repeats,
            ),
        )


def run_data(path: str) -> None:
    """Grade the golds and solutions of a data file; print the rows with wrong verdicts, and the rate."""
    seconds, checks = timed(lambda: check(path))
    for each in checks:
        print(each)
        for row, seen in each.disagreeing:
            print(f"  {row}: {seen[:200]}")
    judged = sum(each.total for each in checks[1:])
    print(f"{judged} verdicts in {seconds:.2f} s: {judged / seconds:,.0f} a second, reading the file included")


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print the tables; returns their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=["math", "code", []], help="what to measure; default: both")
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", metavar="FILE", help="a data file whose rows are judged, instead")
    args = parser.parse_args(argv)
    if args.data:
        run_data(args.data)
        return {}
    ratios: dict[str, float] = {}
    if not args.kinds or "math" in args.kinds:
        ratios |= run_math(args.pairs, args.repeats)
    if not args.kinds or "code" in args.kinds:
        ratios |= run_code(args.programs, args.repeats)
    return ratios


if __name__ == "__main__":
    main()
