"""Which task comes next: a seeded permutation per epoch, as a pure function of how many prompts were drawn."""

from __future__ import annotations

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

    def lease(self, n: int) -> list[tuple[int, int]]:
        """The next `n` tasks as (position, index)."""
        tasks = []
        for position in range(self.position, self.position + n):
            epoch, offset = divmod(position, self.num_tasks)
            tasks.append((position, int(self._permutation(epoch)[offset])))
        self.position += n
        return tasks
