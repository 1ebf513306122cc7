"""Word problems in plain English with small numbers, for small pretrained language models."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from envs.text_env import Grade, SingleTurnTextEnv, Task

SPLITS = ("train", "test")
LARGEST_ANSWER = 99

_TEST_SHARE = 8  # one calculation in so many is held out
_INTEGER = re.compile(r"[0-9]+")
_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Julia", "Karim", "Lena", "Maria", "Tom")
_THINGS = ("apples", "books", "buttons", "cards", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "toys")


@dataclass(frozen=True)
class Story:
    """A kind of word problem.

    steps: number of calculations.
    formula: its name in metrics, for example "a+b-c".
    text: the question; {a}, {b} and {c} are the numbers, and {total} is a*b.
    answer: the answer from the three numbers.
    small: names of the numbers that are at most 9; the others are at most 20.
    """

    steps: int
    formula: str
    text: str
    answer: Callable[[int, int, int], int]
    small: str = ""


STORIES = (
    Story(
        1,
        "a+b",
        "{name} has {a} {things}. {other} gives {name} {b} more {things}. How many {things} does {name} have now?",
        lambda a, b, c: a + b,
    ),
    Story(
        1,
        "a-b",
        "{name} has {a} {things} and gives {b} {things} to {other}. How many {things} does {name} have left?",
        lambda a, b, c: a - b,
    ),
    Story(
        1,
        "a*b",
        "{name} has {a} boxes. There are {b} {things} in each box. How many {things} does {name} have in total?",
        lambda a, b, c: a * b,
        small="ab",
    ),
    Story(
        1,
        "ab/b",
        "{name} shares {total} {things} equally among {b} friends. How many {things} does each friend get?",
        lambda a, b, c: a,
        small="ab",
    ),
    Story(
        2,
        "a+b-c",
        "{name} has {a} {things}. {other} gives {name} {b} more {things}. Then {name} loses {c} {things}. "
        "How many {things} does {name} have now?",
        lambda a, b, c: a + b - c,
    ),
    Story(
        2,
        "a-b-c",
        "{name} has {a} {things}. {name} gives {b} {things} to {other} and sells {c} {things}. "
        "How many {things} does {name} have left?",
        lambda a, b, c: a - b - c,
        small="bc",
    ),
    Story(
        2,
        "a*b+c",
        "{name} has {c} {things}. Then {name} buys {a} bags with {b} {things} in each bag. "
        "How many {things} does {name} have now?",
        lambda a, b, c: a * b + c,
        small="ab",
    ),
    Story(
        2,
        "a*b-c",
        "{name} has {a} boxes with {b} {things} in each box. {name} gives {c} {things} to {other}. "
        "How many {things} does {name} have left?",
        lambda a, b, c: a * b - c,
        small="ab",
    ),
    Story(
        2,
        "a+a+b",
        "{name} has {a} {things}. {other} has {b} {things} more than {name}. "
        "How many {things} do {name} and {other} have together?",
        lambda a, b, c: a + a + b,
    ),
)


class WordProblemsEnv(SingleTurnTextEnv):
    """Word problems of one or two steps, such as "Anna has 7 coins and gives 3 coins to Tom. How many ...?".

    A story, three numbers, names and things are drawn for every index from a generator of its own. Which split a
    calculation (a story's formula with its numbers) belongs to is the same for every seed: an eighth of the
    calculations is held out for the test split, so no test calculation is used in training.

    The last integer of a completion is its answer. A completion without one has the status "no_answer".

    Args:
        steps: the numbers of steps of the stories, out of 1 and 2.
        split: "train" or "test".
        num_tasks: number of tasks, at least 1.
        seed: a non-negative integer; other seeds draw other tasks.

    Raises:
        ValueError: for an argument outside its range, naming it, its value and the range.
    """

    system_prompt = "Answer with one short calculation and the number."
    answer_prefix = "Calculation:"

    def __init__(self, steps: tuple[int, ...] = (1, 2), split: str = "train", num_tasks: int = 4096, seed: int = 0):
        super().__init__()
        self.stories = [story for story in STORIES if story.steps in steps]
        if not self.stories or not set(steps) <= {1, 2}:
            raise ValueError(f"steps={steps!r} is not one of (1,), (2,) and (1, 2)")
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is not one of {', '.join(map(repr, SPLITS))}")
        for name, value, lowest in (("num_tasks", num_tasks, 1), ("seed", seed, 0)):
            if type(value) is not int or value < lowest:
                raise ValueError(f"{name}={value!r} is not an integer in {lowest}..")
        self.split, self.num_tasks, self.seed = split, num_tasks, seed

    def __len__(self) -> int:
        return self.num_tasks

    def task(self, index: int) -> Task:
        rng = random.Random(f"aspo/WordProblems-v0 {self.split} {self.seed} {index}")
        story = rng.choice(self.stories)
        numbers = self._numbers(story, rng)
        name, other = rng.sample(_NAMES, 2)
        a, b, c = numbers
        text = story.text.format(name=name, other=other, things=rng.choice(_THINGS), a=a, b=b, c=c, total=a * b)
        return Task(text, str(story.answer(*numbers)), f"words/{story.formula}")

    def grade(self, task: Task, completion: str) -> Grade:
        """Compare the completion's last integer, as text: int() rejects 4301 digits."""
        numbers = _INTEGER.findall(completion)
        if not numbers:
            return Grade(reward=0.0, correct=False, extracted=None, status="no_answer")
        correct = numbers[-1] == task.answer
        return Grade(float(correct), correct, extracted=numbers[-1], status="ok" if correct else "wrong")

    def _numbers(self, story: Story, rng: random.Random) -> tuple[int, int, int]:
        """Draw numbers of this split until the answer is in 1..LARGEST_ANSWER."""
        while True:
            a, b, c = (rng.randint(2, 9 if letter in story.small else 20) for letter in "abc")
            calculation = (story.formula, a, b, c) if "c" in story.formula else (story.formula, a, b)
            if is_held_out(calculation) == (self.split == "test") and 1 <= story.answer(a, b, c) <= LARGEST_ANSWER:
                return a, b, c


def is_held_out(calculation: tuple) -> bool:
    """Whether a calculation, a formula and its numbers, belongs to the test split."""
    return blake2b(repr(calculation).encode(), digest_size=8).digest()[0] % _TEST_SHARE == 0
