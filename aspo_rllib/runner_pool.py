"""The env runners as one pool: one that fails or hangs is restarted, and comes back with the current weights."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, TypeVar

import ray
from ray.exceptions import ActorDiedError, RayActorError
from ray.rllib.core import COMPONENT_RL_MODULE

from aspo_rllib.watchdog import patience_s

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from aspo_rllib.config import ASPOConfig
    from aspo_rllib.env_runner import VLLMEnvRunner
    from aspo_rllib.weight_sync import WeightsHandle

T = TypeVar("T")
POLL_S = 0.5
STOP_TIMEOUT_S = 30.0


class RunnerPool:
    """Calls to the runners of a group, and what becomes of those that do not answer.

    weights: gives those that a runner which has come back, or is woken, gets.

    `restart_failed_env_runners=False` raises what a runner raised instead. `num_lost` counts.
    """

    def __init__(self, env_runner_group: EnvRunnerGroup, config: ASPOConfig, weights: Callable[[], WeightsHandle]):
        # The group's own calls do not say which runner an answer is from.
        self._actors = env_runner_group._worker_manager
        self._config = config
        self._weights = weights
        self.asleep = False
        self.num_lost = 0
        self.last_error: Exception | None = None

    @property
    def healthy(self) -> list[int]:
        """The runners in service."""
        return self._actors.healthy_actor_ids()

    def call(
        self,
        func: Callable[[VLLMEnvRunner], T] | Sequence[Callable[[VLLMEnvRunner], T]],
        runners: Sequence[int] | None = None,
    ) -> dict[int, T]:
        """`func(runner)`, or one function for each, on these runners or all; what each in service answered.

        Those that raise, die, or take longer than `stage_timeout_s` are restarted, and missing in the answer.
        """
        runners = self.healthy if runners is None else list(runners)
        if not runners:  # RLlib would take that for all of them
            return {}
        asked = set(runners) & set(self.healthy)
        results = self._actors.foreach_actor(
            func if callable(func) else list(func),
            remote_actor_ids=runners,
            timeout_seconds=patience_s(self._config.stage_timeout_s),
        ).result_or_errors
        answers: dict[int, T] = {result.actor_id: result.get() for result in results if result.ok}
        errors: dict[int, Exception] = {result.actor_id: result.get() for result in results if not result.ok}
        silent = asked - answers.keys() - errors.keys()
        limit = self._config.stage_timeout_s
        errors |= {n: TimeoutError(f"no answer within stage_timeout_s={limit}") for n in silent}
        for number, error in errors.items():
            self._lose(number, error)
        return answers

    def load(self, handle: WeightsHandle) -> None:
        """Bring these weights to every runner in service, which wakes it; waits until all have them."""
        versions = self.call(partial(_load, handle))
        self.asleep = False
        assert all(version == handle.version for version in versions.values()), versions

    def sleep(self) -> None:
        """Have the engines give their memory back until they get new weights."""
        self.asleep = True
        self.call(methodcaller("sleep"))

    def actors(self, runners: Sequence[int]) -> list[ActorHandle[VLLMEnvRunner]]:
        """For others than the driver to call."""
        return [self._actors.actors()[number] for number in runners]

    def recover(self) -> list[int]:
        """Put runners that have restarted back into service, with the current weights; returns them."""
        return self._probe()[0]

    def ready(self) -> list[int]:
        """The runners in service, with those that have come back; all awake, an update that failed may have left some.

        Waits while there is none. Raises RuntimeError when none came back within `env_runner_restore_timeout_s`, or
        none ever will.
        """
        limit = self._config.env_runner_restore_timeout_s if self._config.restart_failed_env_runners else 0.0
        deadline = time.monotonic() + limit
        while True:
            _, num_gone = self._probe()
            if self.asleep:
                self.load(self._weights())
            if self.healthy:
                return self.healthy
            if num_gone == self._actors.num_actors() or time.monotonic() > deadline:
                raise RuntimeError(
                    f"No env runner is left: {num_gone} of {self._actors.num_actors()} cannot be restarted, the others "
                    f"did not come back within {limit:g} s (env_runner_restore_timeout_s). The last error is above."
                ) from self.last_error
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End all runners, those that hang too."""
        self._actors.foreach_actor(lambda runner: runner.stop(), healthy_only=False, timeout_seconds=STOP_TIMEOUT_S)
        self._actors.clear()

    def _probe(self) -> tuple[list[int], int]:
        """Which runners have come back, and how many are gone for good."""
        away = [number for number in self._actors.actor_ids() if number not in self.healthy]
        if not away:
            return [], 0
        results = self._actors.foreach_actor(
            lambda runner: runner.assert_healthy(),
            remote_actor_ids=away,
            healthy_only=False,
            timeout_seconds=self._config.env_runner_health_probe_timeout_s,
            mark_healthy=True,
        ).result_or_errors
        back = [result.actor_id for result in results if result.ok]
        if back:
            back = list(self.call(partial(_load, self._weights()), back))
        return back, sum(isinstance(result.get(), ActorDiedError) for result in results if not result.ok)

    def _lose(self, number: int, error: Exception) -> None:
        """Take a runner out of service; Ray starts it anew."""
        self.last_error = error
        if not self._config.restart_failed_env_runners:
            raise error
        print(f"env runner {number} is restarted: {error}", file=sys.stderr, flush=True)
        self.num_lost += 1
        self._actors.set_actor_state(number, healthy=False)
        if not isinstance(error, RayActorError):
            # It lives, but after an exception its engine and env are not to be trusted.
            ray.kill(self._actors.actors()[number], no_restart=False)


def _load(handle: WeightsHandle, runner: VLLMEnvRunner) -> int:
    """Returns the version that the runner has then."""
    runner.set_state({COMPONENT_RL_MODULE: handle})
    return runner.weights_version
