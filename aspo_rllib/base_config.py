"""How RLlib is told about text rollouts: its defaults, its factories, and no silent typo."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.connectors.env_to_module import EnvToModulePipeline
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.util.debug import log_once

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.util.placement_group import PlacementGroup

    from aspo_rllib.learner import ASPOTorchLearner
    from aspo_rllib.learner_group import ASPOLearnerGroup


class TextAlgorithmConfig(AlgorithmConfig):
    """An AlgorithmConfig whose env runners are vLLM engines and whose module is a causal LM.

    Subclasses set the fields that are declared here, and build them and others on `_set`.
    """

    algo_class: type[Algorithm]
    llm_model: str | None
    trust_remote_code: bool
    lora: dict[str, Any] | None

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class)
        from aspo_rllib.env_runner import VLLMEnvRunner
        from aspo_rllib.evaluation import evaluate

        # RLlib declares some fields by their defaults alone: None here is no type.
        self.env_runner_cls = VLLMEnvRunner  # type: ignore[assignment]
        self.custom_evaluation_function = evaluate  # type: ignore[assignment]
        self.evaluation_duration = 128
        self.num_env_runners = 1
        self.create_local_env_runner = False  # it would need an engine of its own on the driver
        self.sample_timeout_s = None  # type: ignore[assignment]  # RLlib's 60 s silently discards what comes later
        self.restart_failed_env_runners = False  # a failing env raises in train(), with its traceback
        self.merge_env_runner_states = False  # type: ignore[assignment]  # there are no connector states
        self.broadcast_env_runner_states = False

    def validate(self) -> None:
        """RLlib's own checks, and that every field is a known one; raises ValueError with the nearest name."""
        # Marks RLlib's advice on how to leave the new API stack as given: there is no other stack here.
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")
        # RLlib's from_state leaves "class" behind, Tune adds dunder names.
        fields = [name for name in vars(self) if name != "class" and not name.startswith("__")]
        self._reject_unknown(fields, vars(type(self)()), "config field")
        super().validate()

    # ---- what RLlib asks for ---------------------------------------------------------------------------------

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        from aspo_rllib.rl_module import CausalLMModule

        return RLModuleSpec(
            module_class=CausalLMModule,
            model_config={
                "model": self.llm_model,
                "trust_remote_code": self.trust_remote_code,
                "lora": self.lora,
            },
        )

    def get_default_learner_class(self) -> type[ASPOTorchLearner]:
        from aspo_rllib.learner import ASPOTorchLearner

        return ASPOTorchLearner

    def build_learner_group(
        self,
        *,
        env: Any = None,
        spaces: dict[str, tuple[gym.Space[Any], gym.Space[Any]]] | None = None,
        rl_module_spec: RLModuleSpec | MultiRLModuleSpec | None = None,
        placement_group: PlacementGroup | None = None,
    ) -> ASPOLearnerGroup:
        from aspo_rllib.learner_group import ASPOLearnerGroup

        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        return ASPOLearnerGroup(config=self.copy(), module_spec=spec, placement_group=placement_group)

    # Rollouts are text and token lists: nothing is to be padded into arrays on the way.
    def build_env_to_module_connector(
        self, env: Any = None, spaces: Any = None, device: Any = None
    ) -> EnvToModulePipeline:
        return EnvToModulePipeline(input_observation_space=None, input_action_space=None, connectors=[])

    def build_module_to_env_connector(self, env: Any = None, spaces: Any = None) -> ModuleToEnvPipeline:
        return ModuleToEnvPipeline(input_observation_space=None, input_action_space=None, connectors=[])

    def build_learner_connector(  # type: ignore[override]
        self, input_observation_space: Any, input_action_space: Any, device: Any = None
    ) -> None:
        """None: the driver has decided every cut, see `ASPOTorchLearner.update`."""

    def get_evaluation_config_object(self) -> Self:
        """As RLlib's, whose result may be any config, or None."""
        evaluation_config = super().get_evaluation_config_object()
        assert isinstance(evaluation_config, type(self))
        return evaluation_config

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {}

    # ---- helpers ---------------------------------------------------------------------------------------------

    def _set(self, method: str, given: dict[str, Any]) -> Self:
        """Set the arguments of a builder method, its `locals()`, as attributes; reject those in given["unknown"]."""
        known = inspect.signature(getattr(type(self), method)).parameters
        self._reject_unknown(given.pop("unknown"), known, f"{method}() argument")
        for name, value in given.items():
            if value is not NotProvided and name in vars(self):
                setattr(self, name, value)
        return self

    @staticmethod
    def _split_off_unknown(kwargs: dict[str, Any], method: Callable[..., Any]) -> dict[str, Any]:
        """Remove what `method` does not take from `kwargs`, and return that."""
        known = inspect.signature(method).parameters
        return {name: kwargs.pop(name) for name in list(kwargs) if name not in known}

    @staticmethod
    def _reject_unknown(names: Iterable[str], known: Iterable[str], kind: str) -> None:
        known = list(known)
        for name in names:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"Unknown {kind} {name!r}.{hint}")
