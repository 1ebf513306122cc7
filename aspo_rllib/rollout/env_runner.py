"""The env runner: samples completions for leased tasks with its engine and returns whole, graded groups."""

from __future__ import annotations

import signal
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import cached_property, partial
from itertools import chain
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeVar

import cloudpickle
import gymnasium as gym
import numpy as np
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils import force_list
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from aspo_rllib.config.env_creators import EnvCreator, env_creator_of
from aspo_rllib.internals import env_made_by_gymnasium
from aspo_rllib.rollout.engines.engine import Completion, Engine
from aspo_rllib.rollout.engines.make import engine_errors, engine_seed, make_engine, start_engine
from aspo_rllib.rollout.engines.vllm_engine import VLLMEngine
from aspo_rllib.rollout.group_sampler import GroupRequest, GroupSampler
from aspo_rllib.rollout.prompts import Prompt, PromptEncoder, load_tokenizer
from aspo_rllib.rollout.stepping_thread import SteppingThread
from aspo_rllib.types import RolloutGroup
from aspo_rllib.watchdog import watch
from aspo_rllib.weights import object_store
from envs.grading.pool import GradingPool, WorkerContext

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

T = TypeVar("T")


class TextEnvRunner(EnvRunner, Checkpointable):
    """Samples and grades. Not a SingleAgentEnvRunner: its next-step autoreset would waste every second generation."""

    config: ASPOSettings
    env: gym.Env[str, str]

    def __init__(self, *, config: ASPOSettings, env_creator: EnvCreator, spaces: Any = None, **kwargs: Any):
        super().__init__(config=config, **kwargs)
        self._env_creator = env_creator
        self._callbacks = [cls() for cls in force_list(config.callbacks_class)]
        self._tasks: dict[bytes, tuple[PromptEncoder, GradingPool]] = {}
        self._base_seed = config.seed if config.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._weights: object_store.WeightsHandle | None = None
        self.transfer_group: str | None = None
        self.tokenizer, self.stop_token_ids = load_tokenizer(config)
        self.make_env()
        self._has_failed = False
        self._under_way: dict[Hashable, list[Future[RolloutGroup]]] = {}
        # The engine starts in its own thread while other actors are created; `assert_healthy` waits for it.
        self._thread = SteppingThread(self._make_sampler, name="engine")

    @cached_property  # cached, because a call from the engine's own thread would wait for itself
    def engine(self) -> Engine:
        """The engine that generates. Waits until it has started; raises the error if it could not start."""
        return self._thread.call(lambda sampler: sampler.engine)

    # ---- sampling --------------------------------------------------------------------------------------------

    def sample(
        self, *, tasks: Sequence[tuple[int, int]] = (), config: ASPOSettings | None = None, **kwargs: Any
    ) -> list[RolloutGroup]:
        """Generate and grade `group_size` completions for each task. Grading runs in parallel with generation.

        Args:
            tasks: (position, index) pairs from `TaskOrder.lease`.
            config: The config whose env and sampling settings are used. None: the runner's own config. Evaluation
                passes its own.

        Returns one group per task, in the order of `tasks`. Raises ValueError for a prompt that is too long.
        """
        return self._finish(self._start(tasks, config))

    def submit(self, ticket: Hashable, tasks: Sequence[tuple[int, int]], config: ASPOSettings | None = None) -> None:
        """Start what `sample` does and return at once. Generation continues while this runner answers other calls.

        ticket: the key for the `collect` that returns the groups.
        """
        self._under_way[ticket] = self._start(tasks, config)

    def collect(self, ticket: Hashable, enough: int | None = None) -> list[RolloutGroup]:
        """Wait for the groups of a `submit`. Returns none if this runner was restarted after it.

        enough: number of finished groups to wait for; the others are cancelled. None: all.
        """
        futures = self._under_way.pop(ticket, [])
        if enough is not None:
            pending = set(futures)
            while len(futures) - len(pending) < min(enough, len(futures)):
                _, pending = wait(pending, return_when=FIRST_COMPLETED)
            self._thread.call(lambda sampler: sampler.cancel(pending))
            futures = [future for future in futures if future not in pending]
        return self._finish(futures)

    def forget(self) -> None:
        """Cancel all groups that were submitted and not collected."""
        futures = list(chain.from_iterable(self._under_way.values()))
        self._under_way.clear()
        self._thread.call(lambda sampler: sampler.cancel(futures))

    def probe(self, prompt_ids: Sequence[np.ndarray], max_tokens: int) -> list[Completion]:
        """Generate one short completion per prompt, to compare the engine's logprobs with the learner's."""
        return self._thread.call(lambda sampler: sampler.probe(prompt_ids, self.config, max_tokens))

    def _start(self, tasks: Sequence[tuple[int, int]], config: ASPOSettings | None) -> list[Future[RolloutGroup]]:
        config = config or self.config
        encoder, pool = self._tasks_of(config)
        requests = [
            GroupRequest(position, index, self._encode(encoder, index, config), config, pool, self.weights_version)
            for position, index in tasks
        ]
        return self._thread.call(lambda sampler: sampler.start(requests))

    def _finish(self, futures: Sequence[Future[RolloutGroup]]) -> list[RolloutGroup]:
        groups = [future.result() for future in futures]
        make_callback(
            "on_sample_end",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_sample_end,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "samples": groups},
        )
        return groups

    def _encode(self, encoder: PromptEncoder, index: int, config: ASPOSettings) -> Prompt:
        prompt = encoder.encode(index)
        if len(prompt.ids) > config.max_prompt_tokens:
            raise ValueError(
                f"max_prompt_tokens={config.max_prompt_tokens}: the prompt of task {index} of {config.env} has "
                f"{len(prompt.ids)} tokens."
            )
        return prompt

    # ---- weights and state -----------------------------------------------------------------------------------

    @property
    def weights_version(self) -> int:
        """Version of the weights in the engine; version 0 are the weights from the model's folder."""
        return self._weights.version if self._weights else 0

    def set_state(self, state: dict[str, Any]) -> None:
        """Load the weights of a handle, unless the engine already holds exactly these weights.

        They are loaded between two engine steps; completions in progress continue with the new weights.
        """
        handle: object_store.WeightsHandle | None = state.get(COMPONENT_RL_MODULE)
        # Handles are compared by identity: after an older checkpoint is restored, a version number is used again
        # for different weights.
        if handle is not None and handle != self._weights:
            load = {"full": self.engine.load_weights, "adapters": self.engine.load_adapters}[handle.kind]
            with engine_errors(f"does not take the weights of version {handle.version}", self.config):
                self._thread.call(lambda sampler: load(object_store.fetch(handle)))
            self._weights = handle

    def sleep(self) -> None:
        """Make the engine release its memory until it gets new weights. No request may be in progress."""
        self._thread.call(lambda sampler: sampler.engine.sleep())
        self._weights = None

    # ---- vLLM's weight transfer: what the sending learner calls ----------------------------------------------

    def join_transfer(self, group: str, init_info: dict[str, Any]) -> None:
        """Connect to the learner that will send; `transfer_group` is the name of this connection afterwards."""
        self._on_vllm(methodcaller("join_transfer", init_info))
        self.transfer_group = group

    def start_transfer(self) -> None:
        """Pause all completions until `finish_transfer`: an engine that has only some new weights must not sample."""
        self._thread.hold()
        self._weights = None
        self._on_vllm(methodcaller("start_transfer"))

    def receive(self, update_info: dict[str, Any]) -> None:
        """Receive a part of the weights; waits until it has arrived."""
        self._on_vllm(methodcaller("receive", update_info))

    def finish_transfer(self, handle: object_store.WeightsHandle) -> None:
        """End the transfer: the engine now holds the weights of `handle` and generation continues."""
        self._on_vllm(methodcaller("finish_transfer"))
        self._weights = handle
        self._thread.release()

    def _on_vllm(self, call: Callable[[VLLMEngine], T]) -> T:
        engine = self.engine
        assert isinstance(engine, VLLMEngine)  # `validation` allows transfers to vLLM engines only
        return self._thread.call(lambda _: call(engine))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The weights' version only: task order and seeds follow from the driver's position, which is checkpointed."""
        return {WEIGHTS_SEQ_NO: self.weights_version}

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {"config": self.config, "env_creator": self._env_creator}

    def get_metrics(self) -> dict[str, Any]:
        """The metrics that callbacks logged on this runner since the last call."""
        metrics: dict[str, Any] = self.metrics.reduce()
        return metrics

    def take_times(self) -> dict[str, float]:
        """Seconds that the engine generated, and seconds that only the graders worked, since the last call."""
        return self._thread.call(lambda sampler: sampler.take_times())

    def on_engine_thread(self, func: Callable[[GroupSampler], T]) -> T:
        """Run `func(sampler)` on the engine's thread, between two engine steps; returns its result."""
        return self._thread.call(func)

    # ---- env, engine, life cycle -----------------------------------------------------------------------------

    def make_env(self) -> None:
        """(Re)create the training env and the workers that grade on copies of it."""
        self._close_envs()
        encoder, _ = self._tasks_of(self.config)
        self.env = encoder.env

    def _tasks_of(self, config: ASPOSettings) -> tuple[PromptEncoder, GradingPool]:
        """The prompt encoder and the grading pool of a config's env; created once per env and its settings."""
        # The key is not made with repr, which is the same for two data sets of equal size.
        template = (config.chat_template_kwargs, config.template_date)
        key = cloudpickle.dumps((config.env, config.env_config, config.graders, config.grader_timeout_s, template))
        if key not in self._tasks:
            context = EnvContext(config.env_config, worker_index=self.worker_index, num_workers=self.num_workers)
            creator = self._env_creator if config.env == self.config.env else env_creator_of(config)
            pool = GradingPool(_maker_of_copies(creator, context), config.graders, config.grader_timeout_s)
            env = creator(context)
            self._tasks[key] = (PromptEncoder(env, self.tokenizer, *template), pool)
            make_callback(
                "on_environment_created",
                callbacks_objects=self._callbacks,
                callbacks_functions=self.config.callbacks_on_environment_created,
                kwargs={
                    "env_runner": self,
                    "metrics_logger": self.metrics,
                    "env": env.unwrapped,
                    "env_context": context,
                },
            )
        return self._tasks[key]

    def _close_envs(self) -> None:
        for encoder, pool in self._tasks.values():
            pool.close()
            encoder.close()
        self._tasks.clear()

    def _make_sampler(self) -> GroupSampler:
        engine = start_engine(self.make_engine, self.config)
        return GroupSampler(engine, self.tokenizer, self.stop_token_ids, self._base_seed)

    def make_engine(self) -> Engine:
        """Boot the engine that this runner samples with; a subclass may bring an engine of its own."""
        return make_engine(self.config, seed=engine_seed(self._base_seed, self.worker_index))

    def get_spaces(self) -> dict[str, tuple[gym.Space[str], gym.Space[str]]]:
        spaces = (self.env.observation_space, self.env.action_space)
        return {INPUT_ENV_SPACES: spaces, INPUT_ENV_SINGLE_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def assert_healthy(self) -> None:
        """Wait for the engine; raises its error. After the error of another call: end this process for a new one."""
        if self._has_failed:
            signal.raise_signal(signal.SIGKILL)  # Ray would not restart an actor that ends itself by `exit_actor`
        assert self.engine

    def apply(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        # RLlib's version ends the actor, and the traceback is only in the actor's log. Here the driver gets the error.
        with watch(f"env runner {self.worker_index}", self.config.stage_timeout_s):
            try:
                return func(self, *args, **kwargs)
            except Exception:
                self._has_failed = True
                raise

    def stop(self) -> None:
        self.forget()
        self._thread.call(lambda sampler: sampler.engine.close())
        self._thread.close()
        self._close_envs()


def _maker_of_copies(creator: EnvCreator, context: EnvContext) -> Callable[[], gym.Env[str, str]]:
    """A function that creates the env in a grading worker without RLlib, whose import takes many seconds."""
    light = WorkerContext(context, worker_index=context.worker_index, num_workers=context.num_workers)
    if (env := env_made_by_gymnasium(creator)) is not None:
        return partial(gym.make, env, **context) if isinstance(env, str) else partial(env, light)
    return partial(creator, light)


VLLMEnvRunner = TextEnvRunner
"""A second name for the same class: the setting `engine` chooses between vLLM and transformers."""
