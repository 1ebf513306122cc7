"""Which task comes next: a seeded permutation per epoch, as a pure function of how many prompts were drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np


class TaskOrder:
    """Draws task indices without replacement, reshuffled every epoch.

    The only state is `position`, the number of prompts drawn so far: two runs with the same seed draw the same prompts
    in the same order, whatever their loss, their runners or their restarts.
    """

    def __init__(self, num_tasks: int, seed: int):
        if num_tasks < 1:
            raise ValueError(f"num_tasks={num_tasks}: the env has no task to train on.")
        self.num_tasks = num_tasks
        self.position = 0
        self._permutation = lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng([seed, epoch]).permutation(num_tasks)
        )

    def lease(self, n: int, fits: Callable[[int], bool] = lambda index: True) -> list[tuple[int, int]]:
        """The next `n` tasks that fit as (position, index); the others are passed over.

        Raises ValueError when a whole epoch holds no task that fits.
        """
        tasks: list[tuple[int, int]] = []
        passed_over = 0
        while len(tasks) < n:
            epoch, offset = divmod(self.position, self.num_tasks)
            index = int(self._permutation(epoch)[offset])
            if fits(index):
                tasks.append((self.position, index))
                passed_over = 0
            else:
                passed_over += 1
            self.position += 1
            if passed_over == self.num_tasks:
                raise ValueError(f"num_tasks={self.num_tasks}: not one of the tasks fits.")
        return tasks
