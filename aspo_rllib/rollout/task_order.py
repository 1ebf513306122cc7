"""The order of the tasks: a seeded permutation per epoch, which depends only on the seed and the position."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np


class TaskOrder:
    """Draws task indices without replacement, reshuffled every epoch.

    The only state is `position`, the number of prompts drawn so far. Two runs with the same seed therefore draw the
    same prompts in the same order, with any loss, any number of runners and any restarts.
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
        """The next `n` tasks for which `fits(index)` is true, as (position, index); other tasks are skipped.

        Raises ValueError when no task of a whole epoch fits.
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
                raise ValueError(f"num_tasks={self.num_tasks}: none of the tasks fits.")
        return tasks
