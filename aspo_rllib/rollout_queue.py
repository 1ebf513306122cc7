"""Batches of groups from the env runners, sampled up to `max_staleness` batches ahead of the learner."""

from __future__ import annotations

import math
import sys
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import count
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import ray

from aspo_rllib import health
from aspo_rllib.advantages import informative_groups
from aspo_rllib.types import RolloutGroup

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig
    from aspo_rllib.env_runner import VLLMEnvRunner
    from aspo_rllib.runner_pool import RunnerPool
    from aspo_rllib.task_order import TaskOrder

Task = tuple[int, int]  # (position, index)
MAX_TRIES = 3  # runners that a task may take down with it
MAX_RESAMPLING = 4  # times batch_prompts, before graders or an engine that fail end the run
_tickets = count()


class Asked:
    """Tasks that all runners in service are busy with, from the moment this is made.

    config: whose env and sampling settings to use; None: the runners' own.

    Raises RuntimeError, here or in `collect`, when no runner is left, or when a task was lost with `MAX_TRIES` runners.
    """

    def __init__(self, runners: RunnerPool, tasks: Sequence[Task], config: ASPOConfig | None = None):
        self.tasks = list(tasks)
        self._runners = runners
        self._config_ref = ray.put(config)
        self._losses: Counter[Task] = Counter()
        self._submit(self.tasks)

    def collect(self, enough: int | None = None) -> list[RolloutGroup]:
        """The groups, in the order of `tasks`; what a runner loses, the others do again.

        enough: how many are wanted. Each runner gives up its slowest ones beyond its share of them. None: all.
        """
        groups: dict[int, RolloutGroup] = {}
        while True:
            runners = list(self._shares)
            share = None if enough is None else math.ceil(enough / max(1, len(runners)))
            answers: dict[int, list[RolloutGroup]] = self._runners.call(
                methodcaller("collect", self._ticket, share), runners
            )
            groups |= {group.position: group for some in answers.values() for group in some}
            self._count_losses(answers)
            missing = [task for task in self.tasks if task[0] not in groups]
            if len(groups) >= (len(self.tasks) if enough is None else enough):
                return [groups[position] for position, _ in self.tasks if position in groups][:enough]
            self._submit(missing)

    def _submit(self, tasks: Sequence[Task]) -> None:
        numbers = self._runners.ready()[: len(tasks)]
        self._ticket = next(_tickets)
        self._shares = {number: tasks[k :: len(numbers)] for k, number in enumerate(numbers)}
        calls = [partial(_submit_share, self._ticket, share, self._config_ref) for share in self._shares.values()]
        self._count_losses(self._runners.call(calls, numbers))

    def _count_losses(self, answers: Collection[int]) -> None:
        """Note whose runners did not answer. A task that takes every runner down with it must not go round for ever."""
        for number in self._shares.keys() - set(answers):
            lost = self._shares.pop(number)
            self._losses.update(lost)
            print(f"sampled again: tasks at {[position for position, _ in lost]}", file=sys.stderr, flush=True)
        worst = [task for task, times in self._losses.items() if times >= MAX_TRIES]
        if worst:
            raise RuntimeError(
                f"{MAX_TRIES} env runners failed while they had (position, index) {worst[:8]}; the last error is above."
            ) from self._runners.last_error


def _submit_share(ticket: int, share: Sequence[Task], config_ref: ray.ObjectRef[Any], runner: VLLMEnvRunner) -> None:
    runner.submit(ticket, share, ray.get(config_ref))


class RolloutQueue:
    """Whole batches in the order of the tasks, so that none is older than `max_staleness` updates.

    Batch b is asked for right before iteration b - max_staleness trains, with the weights of that moment, and is what
    iteration b trains on, however long others took.

    fits: whether a task's prompt is short enough; the others are passed over.
    """

    def __init__(
        self,
        runners: RunnerPool,
        task_order: TaskOrder,
        config: ASPOConfig,
        fits: Callable[[int], bool],
    ):
        self._runners = runners
        self._task_order = task_order
        self._config = config
        self._fits = fits
        self._ahead: deque[Asked] = deque()
        self._restored: deque[list[Task]] = deque()  # what was under way when the checkpoint was written
        self.num_overlong = 0

    def next_batch(self) -> list[RolloutGroup]:
        """At least `batch_prompts` groups, with those under way that the next iterations will need.

        A prompt on whose completions the grader itself failed is replaced by the next. With `max_refills` so are those
        that teach nothing, which stay in the batch to be counted.
        """
        config = self._config
        self.num_overlong = 0
        while len(self._ahead) <= config.max_staleness:
            if self._restored:
                self._ahead.append(Asked(self._runners, self._restored.popleft()))
            else:
                self._ahead.append(self._ask(math.ceil(config.batch_prompts * config.oversampling)))
        sampled = self._ahead.popleft().collect(config.batch_prompts if config.oversampling > 1 else None)
        while (missing := config.batch_prompts - sum(map(self.is_usable, sampled))) > 0:
            if len(sampled) >= MAX_RESAMPLING * config.batch_prompts:
                health.check_completions(sampled)
                raise RuntimeError(
                    f"Grading failed, after a second try each, on the completions of "
                    f"{sum(not self.is_usable(g) for g in sampled)} of {len(sampled)} prompts, task "
                    f"{sampled[-1].index} among them."
                )
            sampled += self._ask(missing).collect()
        for _ in range(config.max_refills):
            missing = config.batch_prompts - sum(map(_is_informative, sampled))
            if missing <= 0:
                break
            sampled += self._ask(missing).collect()
        return sampled

    def is_usable(self, group: RolloutGroup) -> bool:
        """Whether enough of its rollouts could be graded to compare them."""
        return len(group.rollouts) >= min(2, self._config.group_size)

    def _ask(self, num_prompts: int) -> Asked:
        start = self._task_order.position
        tasks = self._task_order.lease(num_prompts, fits=self._fits)
        self.num_overlong += self._task_order.position - start - num_prompts
        return Asked(self._runners, tasks)

    def get_state(self) -> dict[str, Any]:
        """How far tasks were drawn, and those whose groups nobody has trained on yet."""
        under_way = [asked.tasks for asked in self._ahead] + list(self._restored)
        return {"task_position": self._task_order.position, "tasks_under_way": under_way}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there; what was under way is sampled anew, with the weights that the runners have by then."""
        self._runners.call(lambda runner: runner.forget())
        self._ahead.clear()
        self._task_order.position = state["task_position"]
        self._restored = deque(state["tasks_under_way"])


def sample_groups(runners: RunnerPool, tasks: Sequence[Task], config: ASPOConfig | None = None) -> list[RolloutGroup]:
    """The groups of all `tasks`, in order, generated by all runners in service."""
    return Asked(runners, tasks, config).collect()


def _is_informative(group: RolloutGroup) -> bool:
    return bool(group.rollouts) and informative_groups([[r.correct for r in group.rollouts]])[0]
