"""The part of the config for RLlib: our defaults, its factories, and errors for settings that have no effect."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.connectors.env_to_module import EnvToModulePipeline
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline
from ray.util.debug import log_once

from aspo_rllib.config.ignored import check_argument, check_fields
from aspo_rllib.config.other_names import OTHER_NAMES
from aspo_rllib.names import nearest

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm


class TextAlgorithmConfig(AlgorithmConfig):
    """An AlgorithmConfig whose env runners have text engines and whose module is a causal LM."""

    algo_class: type[Algorithm]

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.evaluation_duration = 128
        self.num_env_runners = 1
        self.create_local_env_runner = False  # it would need an engine on the driver
        # RLlib does not annotate some fields, so that mypy infers wrong types from their defaults.
        self.sample_timeout_s = None  # type: ignore[assignment]  # after RLlib's 60 s, results are silently discarded
        self.env_runner_restore_timeout_s = 600.0
        self.validate_env_runners_after_construction = False  # learners start in parallel with engines
        self.merge_env_runner_states = False  # type: ignore[assignment]  # there are no connector states
        self.broadcast_env_runner_states = False

    def validate(self) -> None:
        """Run RLlib's own checks. Raises ValueError for an unknown field, with the nearest name."""
        # Suppresses RLlib's message on how to switch to the old API stack, which is not supported here.
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")
        # RLlib's from_state adds the name "class", and Tune adds names with double underscores.
        fields = {name: v for name, v in vars(self).items() if name != "class" and not name.startswith("__")}
        defaults = vars(type(self)())
        self._reject_unknown(fields, defaults, "config field")
        check_fields(fields, defaults)
        super().validate()

    # ---- what RLlib asks for ---------------------------------------------------------------------------------

    # Rollouts are text and lists of tokens. No connector must pad them into arrays.
    def build_env_to_module_connector(
        self, env: Any = None, spaces: Any = None, device: Any = None
    ) -> EnvToModulePipeline:
        return EnvToModulePipeline(input_observation_space=None, input_action_space=None, connectors=[])

    def build_module_to_env_connector(self, env: Any = None, spaces: Any = None) -> ModuleToEnvPipeline:
        return ModuleToEnvPipeline(input_observation_space=None, input_action_space=None, connectors=[])

    def build_learner_connector(  # type: ignore[override]
        self, input_observation_space: Any, input_action_space: Any, device: Any = None
    ) -> None:
        """Returns None: the driver has already split the batch, see `ASPOTorchLearner.update`."""

    def get_evaluation_config_object(self) -> Self:
        """RLlib's method with a narrower return type: RLlib's may return any config, or None."""
        evaluation_config = super().get_evaluation_config_object()
        assert isinstance(evaluation_config, type(self))
        return evaluation_config

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {}

    @staticmethod
    def _reject_unknown(names: Iterable[str], known: Iterable[str], kind: str) -> None:
        known = list(known)
        for name in names:
            if name not in known:
                raise ValueError(f"Unknown {kind} {name!r}.{hint(name, known)}")


def hint(name: str, known: Collection[str]) -> str:
    """A sentence with the setting that is probably meant by an unknown name; "" if there is none."""
    if name in OTHER_NAMES:
        return f" Here it is .{OTHER_NAMES[name]}."
    return nearest(name, known)


def _refuse_ignored_arguments(method: str) -> Callable[..., Any]:
    """Wrap RLlib's builder method of this name, to refuse arguments that are unknown or have no effect."""
    rllib = getattr(AlgorithmConfig, method)
    known = inspect.signature(rllib).parameters

    @wraps(rllib)
    def build(self: TextAlgorithmConfig, *args: Any, **kwargs: Any) -> Any:
        self._reject_unknown(kwargs, known, f"{method}() argument")
        for name, value in kwargs.items():
            if value is not NotProvided:
                check_argument(self, method, name, value)
        return rllib(self, *args, **kwargs)

    return build


# The builder methods of RLlib to which `builders` adds no settings.
for _name in ("env_runners", "learners", "environment", "framework", "rl_module", "multi_agent", "offline_data"):
    setattr(TextAlgorithmConfig, _name, _refuse_ignored_arguments(_name))
