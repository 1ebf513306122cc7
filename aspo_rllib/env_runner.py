"""The env runner: a vLLM engine that turns leased tasks into whole, graded groups of rollouts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
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
from ray.rllib.env.utils import _gym_env_creator
from ray.rllib.utils import force_list
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from aspo_rllib import placement, weight_sync
from aspo_rllib.engine import Completion, Engine
from aspo_rllib.env_creators import EnvCreator, env_creator_of
from aspo_rllib.evaluation_sets import set_configs
from aspo_rllib.group_sampler import GroupRequest, GroupSampler
from aspo_rllib.prompts import Prompt, PromptEncoder, load_tokenizer
from aspo_rllib.stepping_thread import SteppingThread
from aspo_rllib.types import RolloutGroup
from aspo_rllib.vllm_engine import VLLMEngine
from aspo_rllib.watchdog import watch
from envs.grading.pool import GradingPool, WorkerContext

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig

CPU_KV_CACHE_BYTES = 1 << 28
T = TypeVar("T")


class VLLMEnvRunner(EnvRunner, Checkpointable):
    """Samples and grades. Not a SingleAgentEnvRunner: its next-step autoreset would waste every second generation."""

    config: ASPOConfig
    env: gym.Env[str, str]

    def __init__(self, *, config: ASPOConfig, env_creator: EnvCreator, spaces: Any = None, **kwargs: Any):
        super().__init__(config=config, **kwargs)
        self._env_creator = env_creator
        self._callbacks = [cls() for cls in force_list(config.callbacks_class)]
        self._tasks: dict[bytes, tuple[PromptEncoder, GradingPool]] = {}
        self._base_seed = config.seed if config.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._weights: weight_sync.WeightsHandle | None = None
        self.transfer_group: str | None = None
        self.tokenizer, self.stop_token_ids = load_tokenizer(config)
        self.make_env()
        self._has_failed = False
        self._under_way: dict[Hashable, list[Future[RolloutGroup]]] = {}
        self._thread = SteppingThread(self._make_sampler, name="engine")
        self.engine = self._thread.call(lambda sampler: sampler.engine)

    # ---- sampling --------------------------------------------------------------------------------------------

    def sample(
        self, *, tasks: Sequence[tuple[int, int]] = (), config: ASPOConfig | None = None, **kwargs: Any
    ) -> list[RolloutGroup]:
        """Generate and grade `group_size` completions for each task; grading goes on beside generation.

        Args:
            tasks: (position, index) as `TaskOrder.lease` gives them.
            config: Whose env and sampling settings to use; None: the runner's own. Evaluation passes its own.

        Returns one group per task, in the order of `tasks`. Raises ValueError for a prompt that is too long.
        """
        return self._finish(self._start(tasks, config))

    def submit(self, ticket: Hashable, tasks: Sequence[tuple[int, int]], config: ASPOConfig | None = None) -> None:
        """`sample` without waiting: it goes on while the caller, and this runner, do something else.

        ticket: what to `collect` the groups with.
        """
        self._under_way[ticket] = self._start(tasks, config)

    def collect(self, ticket: Hashable, enough: int | None = None) -> list[RolloutGroup]:
        """Wait for the groups of a `submit`; none if this runner, restarted since, knows nothing of it.

        enough: how many finished groups to wait for; the others are given up. None: all.
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
        """Give up whatever was submitted and not collected."""
        futures = list(chain.from_iterable(self._under_way.values()))
        self._under_way.clear()
        self._thread.call(lambda sampler: sampler.cancel(futures))

    def probe(self, prompt_ids: Sequence[np.ndarray], max_tokens: int) -> list[Completion]:
        """One short completion per prompt, to compare the engine's logprobs with the learner's."""
        return self._thread.call(lambda sampler: sampler.probe(prompt_ids, self.config, max_tokens))

    def _start(self, tasks: Sequence[tuple[int, int]], config: ASPOConfig | None) -> list[Future[RolloutGroup]]:
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

    def _encode(self, encoder: PromptEncoder, index: int, config: ASPOConfig) -> Prompt:
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
        """Version of the weights in the engine; 0 are those of the model's folder."""
        return self._weights.version if self._weights else 0

    def set_state(self, state: dict[str, Any]) -> None:
        """Load the weights behind a handle, unless the engine holds just these.

        They enter between two engine steps; completions under way go on with the new weights where they are.
        """
        handle: weight_sync.WeightsHandle | None = state.get(COMPONENT_RL_MODULE)
        # By identity, not by number: after restoring an older checkpoint the same version means other weights.
        if handle is not None and handle != self._weights:
            load = {"full": self.engine.load_weights, "adapters": self.engine.load_adapters}[handle.kind]
            self._thread.call(lambda sampler: load(weight_sync.fetch(handle)))
            self._weights = handle

    def sleep(self) -> None:
        """Have the engine give its memory back; the next weights wake it. Nothing may be under way."""
        self._thread.call(lambda sampler: sampler.engine.sleep())
        self._weights = None

    # ---- vLLM's weight transfer: what the sending learner calls ----------------------------------------------

    def join_transfer(self, group: str, init_info: dict[str, Any]) -> None:
        """Connect with the learner that will send; `transfer_group` then tells with which."""
        self._on_vllm(methodcaller("join_transfer", init_info))
        self.transfer_group = group

    def start_transfer(self) -> None:
        """From here on no completion goes on: an engine with half of its weights must not sample."""
        self._thread.hold()
        self._weights = None
        self._on_vllm(methodcaller("start_transfer"))

    def receive(self, update_info: dict[str, Any]) -> None:
        """Take some of the weights; waits for them."""
        self._on_vllm(methodcaller("receive", update_info))

    def finish_transfer(self, handle: weight_sync.WeightsHandle) -> None:
        """All have come: the engine holds `handle`, and goes on."""
        self._on_vllm(methodcaller("finish_transfer"))
        self._weights = handle
        self._thread.release()

    def _on_vllm(self, call: Callable[[VLLMEngine], T]) -> T:
        engine = self.engine
        assert isinstance(engine, VLLMEngine)  # `validation` has seen to it
        return self._thread.call(lambda _: call(engine))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The runner owns nothing that a checkpoint needs: order and seeds are functions of the driver's position."""
        return {WEIGHTS_SEQ_NO: self.weights_version}

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {"config": self.config, "env_creator": self._env_creator}

    def get_metrics(self) -> dict[str, Any]:
        """What callbacks logged here since the last call."""
        metrics: dict[str, Any] = self.metrics.reduce()
        return metrics

    def take_times(self) -> dict[str, float]:
        """Seconds since the last call in which the engine generated, and in which only the graders worked."""
        return self._thread.call(lambda sampler: sampler.take_times())

    def on_engine_thread(self, func: Callable[[GroupSampler], T]) -> T:
        """`func(sampler)` between two engine steps, in the thread that makes them."""
        return self._thread.call(func)

    # ---- env, engine, life cycle -----------------------------------------------------------------------------

    def make_env(self) -> None:
        """(Re)create the training env and the workers that grade on copies of it."""
        self._close_envs()
        encoder, _ = self._tasks_of(self.config)
        self.env = encoder.env

    def _tasks_of(self, config: ASPOConfig) -> tuple[PromptEncoder, GradingPool]:
        """The env of a config, as a source of prompts and as copies that grade; made once."""
        # Not repr, which is the same for two data sets of one size.
        key = cloudpickle.dumps((config.env, config.env_config, config.graders, config.grader_timeout_s))
        if key not in self._tasks:
            context = EnvContext(config.env_config, worker_index=self.worker_index, num_workers=self.num_workers)
            creator = self._env_creator if config.env == self.config.env else env_creator_of(config)
            pool = GradingPool(_maker_of_copies(creator, context), config.graders, config.grader_timeout_s)
            env = creator(context)
            self._tasks[key] = (PromptEncoder(env, self.tokenizer), pool)
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
        return GroupSampler(self._make_engine(), self.tokenizer, self.stop_token_ids, self._base_seed)

    def _make_engine(self) -> Engine:
        config = self.config
        settings: dict[str, Any] = {
            "dtype": config.dtype,
            "max_model_len": max(c.max_model_len for c in (config, *set_configs(config).values())),
            "max_num_seqs": config.max_num_seqs,
            "seed": (self._base_seed + self.worker_index) % 2**31,
            "trust_remote_code": config.trust_remote_code,
            "lora": config.lora,
        }
        if config.engine == "transformers":
            from aspo_rllib.hf_engine import TransformersEngine

            return TransformersEngine(config.base_model, **settings)
        on_cpu = not config.num_gpus_per_env_runner
        return VLLMEngine(
            config.base_model,
            kv_cache_memory_bytes=config.kv_cache_memory_bytes or (CPU_KV_CACHE_BYTES if on_cpu else None),
            gpu_memory_utilization=config.gpu_memory_utilization,
            tensor_parallel_size=config.tensor_parallel_size,
            can_sleep=placement.engine_sleeps(config),
            transfer_backend=placement.transfer_backend(config),
            **settings,
        )

    def get_spaces(self) -> dict[str, tuple[gym.Space[str], gym.Space[str]]]:
        spaces = (self.env.observation_space, self.env.action_space)
        return {INPUT_ENV_SPACES: spaces, INPUT_ENV_SINGLE_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def assert_healthy(self) -> None:
        assert not self._has_failed  # the driver has it restarted, which may take a moment

    def apply(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        # RLlib's version ends the actor and leaves the traceback in its log; here the driver gets to see it.
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
    """What makes the env in a grading worker, without RLlib, whose import would take each worker many seconds."""
    light = WorkerContext(context, worker_index=context.worker_index, num_workers=context.num_workers)
    if isinstance(creator, partial) and creator.func is _gym_env_creator:
        env = creator.keywords["env_descriptor"]
        return partial(gym.make, env, **context) if isinstance(env, str) else partial(env, light)
    return partial(creator, light)
