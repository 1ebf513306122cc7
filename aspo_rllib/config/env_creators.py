"""Finds the creator of a config's env, which is given as an id or a class."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.utils.error import EnvError

from aspo_rllib.internals import rllib_env_creator
from aspo_rllib.names import nearest
from envs.grading.pool import WorkerContext

EnvCreator = Callable[[EnvContext | WorkerContext], gym.Env[str, str]]


def env_creator_of(config: AlgorithmConfig) -> EnvCreator:
    """RLlib's creator of a config's env. The ids "aspo/..." need no import by the user."""
    env = config.env
    # The package `envs` registers these ids. Gymnasium imports it for an id of the form "envs:aspo/...".
    if isinstance(env, str) and env.startswith("aspo/"):
        env = f"envs:{env}"
    creator: EnvCreator = rllib_env_creator(env, config)
    return creator


def make_env(config: AlgorithmConfig) -> gym.Env[str, str]:
    """Create the env of a config in this process.

    Raises ValueError for an id that is not registered (the message has the nearest id), and for an argument that the
    env does not accept. Errors of the env itself are not changed.
    """
    try:
        return env_creator_of(config)(EnvContext(config.env_config, worker_index=0))
    except EnvError:
        raise ValueError(f"env={config.env!r}: no env has this id.{_advice(str(config.env))}") from None
    except ModuleNotFoundError as error:
        raise ValueError(f"env={config.env!r}: {error} The part before the colon is what is imported.") from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        reason = str(error).partition(" was raised")[0]
        raise ValueError(
            f"env_config={dict(config.env_config)!r}: {reason}. The docstring of {config.env} lists its arguments."
        ) from error


def _advice(env: str) -> str:
    import envs  # noqa: F401  registers the ids of this package

    hint = nearest(env.removeprefix("envs:"), gym.registry)
    return f"{hint} For another env, call tune.register_env, or set 'module:id' or its class."
