"""From a config's env, an id or a class, to what makes it."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext


def env_creator_of(config: AlgorithmConfig) -> Callable[[EnvContext], gym.Env]:
    """What RLlib makes the env of a config with; the ids "aspo/..." are known without an import."""
    env = config.env
    # They are registered by the package `envs`, which Gymnasium imports for an id in this form.
    if isinstance(env, str) and env.startswith("aspo/"):
        env = f"envs:{env}"
    return Algorithm._get_env_id_and_creator(env, config)[1]
