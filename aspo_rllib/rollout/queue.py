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

from aspo_rllib.rollout import stats
from aspo_rllib.rollout.errors import reason
from aspo_rllib.types import RolloutGroup

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings
    from aspo_rllib.rollout.env_runner import TextEnvRunner
    from aspo_rllib.rollout.pool import RunnerPool
    from aspo_rllib.rollout.task_order import TaskOrder

Task = tuple[int, int]  # (position, index)
MAX_TRIES = 3  # the run ends when this many runners failed while they worked on the same task
MAX_RESAMPLING = 4  # the run ends when this many times batch_prompts were sampled without a full usable batch
_tickets = count()


class PendingBatch:
    """Tasks in progress on all runners in service. The constructor submits them.

    config: the config whose env and sampling settings are used. None: the runners' own config.

    The constructor and `collect` raise RuntimeError when no runner is left, or when `MAX_TRIES` runners failed while
    they worked on the same task.
    """

    def __init__(self, runners: RunnerPool, tasks: Sequence[Task], config: ASPOSettings | None = None):
        self.tasks = list(tasks)
        self._runners = runners
        self._config_ref = ray.put(config)
        self._losses: Counter[Task] = Counter()
        self._submit(self.tasks)

    def collect(self, enough: int | None = None) -> list[RolloutGroup]:
        """Wait for the groups and return them in the order of `tasks`. Tasks of a failed runner are sampled again.

        enough: number of groups to wait for. Each runner finishes its share of them and cancels its slowest groups.
            None: all groups.
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
        """Count the failures of each task whose runner did not answer.

        Without a limit, a task that crashes every runner would be sampled again without end.
        """
        for number in self._shares.keys() - set(answers):
            lost = self._shares.pop(number)
            self._losses.update(lost)
            print(f"sampling again tasks at {[position for position, _ in lost]}", file=sys.stderr, flush=True)
        worst = [task for task, times in self._losses.items() if times >= MAX_TRIES]
        if worst:
            raise RuntimeError(
                f"{MAX_TRIES} env runners failed while sampling the tasks (position, index) {worst[:8]}; "
                f"the last error: {reason(self._runners.last_error)}"
            ) from self._runners.last_error


def _submit_share(ticket: int, share: Sequence[Task], config_ref: ray.ObjectRef[Any], runner: TextEnvRunner) -> None:
    runner.submit(ticket, share, ray.get(config_ref))


class RolloutQueue:
    """Returns whole batches in the order of the tasks, sampled with weights at most `max_staleness` updates old.

    The runners start batch b right before iteration b - max_staleness trains, with the weights of that moment.
    Iteration b trains on batch b, even if a later batch was finished earlier.

    num_prompt_tokens: returns the number of prompt tokens of a task. Tasks whose prompt is too long are skipped.
    """

    def __init__(
        self,
        runners: RunnerPool,
        task_order: TaskOrder,
        config: ASPOSettings,
        num_prompt_tokens: Callable[[int], int],
    ):
        self._runners = runners
        self._task_order = task_order
        self._config = config
        self._num_prompt_tokens = num_prompt_tokens
        self._ahead: deque[PendingBatch] = deque()
        self._restored: deque[list[Task]] = deque()  # in progress when the checkpoint was written
        self.num_overlong = 0

    def next_batch(self) -> list[RolloutGroup]:
        """Return at least `batch_prompts` groups, and start the batches that the next iterations will need.

        If the grader failed on a prompt's completions, the next prompt is sampled in addition. With `max_refills` the
        same is done for groups that carry no gradient. Those groups stay in the result, so that metrics count them.

        Raises RuntimeError when grading fails on too many prompts, BadNumbersError when the engine's log-probabilities
        are NaN or inf.
        """
        config = self._config
        self.num_overlong = 0
        while len(self._ahead) <= config.max_staleness:
            if self._restored:
                self._ahead.append(PendingBatch(self._runners, self._restored.popleft()))
            else:
                self._ahead.append(self._ask(math.ceil(config.batch_prompts * config.oversampling)))
        sampled = self._ahead.popleft().collect(config.batch_prompts if config.oversampling > 1 else None)
        while (missing := config.batch_prompts - sum(map(self.is_usable, sampled))) > 0:
            if len(sampled) >= MAX_RESAMPLING * config.batch_prompts:
                stats.check_completions(sampled)
                reason = next((f" First of all, {g.grade_error}." for g in sampled if g.grade_error), "")
                raise RuntimeError(
                    f"Grading failed twice on the completions of {sum(not self.is_usable(g) for g in sampled)} of "
                    f"{len(sampled)} prompts, for example of task {sampled[-1].index}.{reason}"
                )
            sampled += self._ask(missing).collect()
        for _ in range(config.max_refills):
            asked = [g.without_truncated() for g in sampled] if config.truncated == "drop" else sampled
            missing = config.batch_prompts - sum(group.is_informative for group in asked)
            if missing <= 0:
                break
            sampled += self._ask(missing).collect()
        return sampled

    def is_usable(self, group: RolloutGroup) -> bool:
        """Whether the group has enough graded rollouts to compare them with each other."""
        return len(group.rollouts) >= min(2, self._config.group_size)

    def _ask(self, num_prompts: int) -> PendingBatch:
        start = self._task_order.position
        tasks = self._task_order.lease(num_prompts, fits=self._fits)
        self.num_overlong += self._task_order.position - start - num_prompts
        return PendingBatch(self._runners, tasks)

    def _fits(self, index: int) -> bool:
        return self._num_prompt_tokens(index) <= self._config.max_prompt_tokens

    def get_state(self) -> dict[str, Any]:
        """The position in the task order, and the tasks that were drawn but not trained on yet."""
        under_way = [pending.tasks for pending in self._ahead] + list(self._restored)
        return {"task_position": self._task_order.position, "tasks_under_way": under_way}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from this state. Tasks that were in progress are sampled again, with the runners' new weights."""
        self._runners.call(lambda runner: runner.forget())
        self._ahead.clear()
        self._task_order.position = state["task_position"]
        self._restored = deque(state["tasks_under_way"])


def sample_groups(runners: RunnerPool, tasks: Sequence[Task], config: ASPOSettings | None = None) -> list[RolloutGroup]:
    """Sample all `tasks` on all runners in service; returns their groups in order."""
    return PendingBatch(runners, tasks, config).collect()
