"""From a config's env, an id or a class, to what makes it."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

import gymnasium as gym
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.utils.error import EnvError

from envs.grading.pool import WorkerContext

EnvCreator = Callable[[EnvContext | WorkerContext], gym.Env[str, str]]


def env_creator_of(config: AlgorithmConfig) -> EnvCreator:
    """What RLlib makes the env of a config with; the ids "aspo/..." are known without an import."""
    env = config.env
    # They are registered by the package `envs`, which Gymnasium imports for an id in this form.
    if isinstance(env, str) and env.startswith("aspo/"):
        env = f"envs:{env}"
    creator: EnvCreator = Algorithm._get_env_id_and_creator(env, config)[1]  # type: ignore[assignment]  # may give None
    return creator


def make_env(config: AlgorithmConfig) -> gym.Env[str, str]:
    """The env of a config, made here.

    Raises ValueError for an id that nobody registered, with the nearest one, and for an argument that the env does not
    take, besides what the env itself raises.
    """
    try:
        return env_creator_of(config)(EnvContext(config.env_config, worker_index=0))
    except EnvError:
        raise ValueError(f"env={config.env!r}: no env has this id.{_nearest(str(config.env))}") from None
    except ModuleNotFoundError as error:
        raise ValueError(f"env={config.env!r}: {error} The part before the colon is what is imported.") from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        reason = str(error).partition(" was raised")[0]
        raise ValueError(
            f"env_config={dict(config.env_config)!r}: {reason}. Its docstring lists what {config.env} takes."
        ) from error


def _nearest(env: str) -> str:
    import envs  # noqa: F401  registers the ids of this package

    near = get_close_matches(env.removeprefix("envs:"), gym.registry, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Another one is registered with tune.register_env, or given as 'module:id' or as its class."
