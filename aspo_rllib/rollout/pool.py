"""The env runners as one pool: a runner that fails or hangs is restarted, and then gets the current weights."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, TypeVar

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.rllib.core import COMPONENT_RL_MODULE

from aspo_rllib.internals import actor_manager
from aspo_rllib.rollout.engines.engine import EngineError
from aspo_rllib.watchdog import patience_s, tell_waiting

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from aspo_rllib.config.settings import ASPOSettings
    from aspo_rllib.rollout.env_runner import TextEnvRunner
    from aspo_rllib.weights.object_store import WeightsHandle

T = TypeVar("T")
POLL_S = 0.5
STOP_TIMEOUT_S = 30.0


class RunnerPool:
    """Calls the runners of a group and restarts those that fail or do not answer in time.

    weights: returns the current weights, which runners get after a restart and when they wake up.

    With `restart_failed_env_runners=False` a runner's error is raised here instead of restarting the runner. An
    EngineError is always raised: an engine that cannot work with the model cannot do so after a restart. A runner is in
    service if it answered its last call; `num_lost` counts the runners that were taken out of service, also by RLlib,
    which does this when a function raises that a user calls by `foreach_env_runner`.
    """

    def __init__(self, env_runner_group: EnvRunnerGroup, config: ASPOSettings, weights: Callable[[], WeightsHandle]):
        self._actors = actor_manager(env_runner_group)
        self._config = config
        self._weights = weights
        self.asleep = False
        self.num_lost = 0
        self.last_error: Exception | None = None
        self._restarting: set[int] = set()

    @property
    def healthy(self) -> list[int]:
        """The runners in service."""
        return self._actors.healthy_actor_ids()

    def wait_for_engines(self) -> None:
        """Wait until all engines have started. Raises EngineError, or RuntimeError for a runner that died."""
        with tell_waiting("waiting for the engines of the env runners to start"):
            results = self._actors.foreach_actor(lambda runner: runner.assert_healthy()).result_or_errors
        for result in results:
            if not result.ok:
                _raise_engine_error(result.get())
                raise RuntimeError(f"Env runner {result.actor_id} could not start: {result.get()}")

    def call(
        self,
        func: Callable[[TextEnvRunner], T] | Sequence[Callable[[TextEnvRunner], T]],
        runners: Sequence[int] | None = None,
    ) -> dict[int, T]:
        """Run `func` on each of `runners` in parallel; returns the results by runner number.

        func: one function for all runners, or a sequence with one function per runner.
        runners: numbers of the runners to call. None: all in service.

        Runners that raise, die, or take longer than `stage_timeout_s` are restarted. The result does not contain them.
        """
        runners = self.healthy if runners is None else list(runners)
        if not runners:  # RLlib would treat an empty list as all runners.
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
        """Load these weights into every runner in service and wait until all have them. This wakes their engines."""
        versions = self.call(partial(_load, handle))
        self.asleep = False
        assert all(version == handle.version for version in versions.values()), versions

    def sleep(self) -> None:
        """Make the engines release their memory until they get new weights."""
        self.asleep = True
        self.call(methodcaller("sleep"))

    def actors(self, runners: Sequence[int]) -> list[ActorHandle[TextEnvRunner]]:
        """The actor handles of these runners, for processes other than the driver that call them directly."""
        return [self._actors.actors()[number] for number in runners]

    def recover(self) -> list[int]:
        """Load the current weights into runners that have restarted and put them back into service; returns them."""
        return self._probe()[0]

    def ready(self) -> list[int]:
        """The runners in service, including those that have restarted.

        Waits while there is none. All of them are awake: the weights are loaded again if an update failed while the
        engines slept. Raises RuntimeError when no runner restarts within `env_runner_restore_timeout_s`, or when none
        can be restarted.
        """
        limit = self._config.env_runner_restore_timeout_s if self._config.restart_failed_env_runners else 0.0
        deadline = time.monotonic() + limit
        with tell_waiting(f"no env runner is in service; waiting up to env_runner_restore_timeout_s={limit:g} for one"):
            while True:
                _, num_gone = self._probe()
                if self.asleep:
                    self.load(self._weights())
                if self.healthy:
                    return self.healthy
                if num_gone == self._actors.num_actors() or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"No env runner is left: {num_gone} of {self._actors.num_actors()} cannot be restarted, the "
                        f"others did not come back within {limit:g} s (env_runner_restore_timeout_s). The last error "
                        "is above."
                    ) from self.last_error
                time.sleep(POLL_S)

    def stop(self) -> None:
        """Stop all runners, including those that hang."""
        self._actors.foreach_actor(lambda runner: runner.stop(), healthy_only=False, timeout_seconds=STOP_TIMEOUT_S)
        self._actors.clear()

    def _probe(self) -> tuple[list[int], int]:
        """The runners that have restarted and are in service again, and the number of those that Ray cannot restart."""
        away = [number for number in self._actors.actor_ids() if number not in self.healthy]
        if not away:
            return [], 0
        for number in set(away) - self._restarting:  # taken out of service by RLlib
            self._note_loss(number, RuntimeError("a function that was called on it has raised"))
        results = self._actors.foreach_actor(
            lambda runner: runner.assert_healthy(),
            remote_actor_ids=away,
            healthy_only=False,
            timeout_seconds=self._config.env_runner_health_probe_timeout_s,
            mark_healthy=True,
        ).result_or_errors
        back = [result.actor_id for result in results if result.ok]
        self._restarting -= set(back)
        for result in results:
            if not result.ok:
                _raise_engine_error(result.get())
        if back:
            back = list(self.call(partial(_load, self._weights()), back))
        return back, sum(isinstance(result.get(), ActorDiedError) for result in results if not result.ok)

    def _lose(self, number: int, error: Exception) -> None:
        """Take a runner out of service; Ray restarts it. Raises an EngineError, which a restart does not help."""
        _raise_engine_error(error)
        if not self._config.restart_failed_env_runners:
            self.last_error = error
            raise error
        self._note_loss(number, error)
        self._actors.set_actor_state(number, healthy=False)
        if not isinstance(error, RayActorError):
            # The process is alive, but after an exception the state of its engine and env is unknown.
            ray.kill(self._actors.actors()[number], no_restart=False)

    def _note_loss(self, number: int, error: Exception) -> None:
        self.last_error = error
        self.num_lost += 1
        self._restarting.add(number)
        print(f"env runner {number} is restarted: {error}", file=sys.stderr, flush=True)


def _raise_engine_error(error: Exception) -> None:
    """Raise the EngineError of a runner, without the tracebacks of its process: its message has the reason."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, EngineError):
        raise cause from None


def _load(handle: WeightsHandle, runner: TextEnvRunner) -> int:
    """Load the weights into a runner; returns the version that it holds afterwards."""
    runner.set_state({COMPONENT_RL_MODULE: handle})
    return runner.weights_version
