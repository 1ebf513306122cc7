"""GEM: any single-turn text env as a `gem.Env`, for its wrappers and vector envs."""

from typing import Any

import gem

from envs.text_env import SingleTurnTextEnv


class GemEnv(gem.Env):
    """A text env with the interface of GEM: the same prompts, actions, rewards and infos.

    Args:
        env: such as `gymnasium.make("envs:aspo/Math-v0", data="train.jsonl").unwrapped`.
    """

    def __init__(self, env: SingleTurnTextEnv):
        self.env = env

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Return the prompt of a random task; `seed` restarts the generator that draws it."""
        super().reset(seed)
        return self.env.reset(seed=seed)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Grade a completion and end the episode."""
        return self.env.step(action)

    def sample_random_action(self) -> str:
        """Draw a short printable text."""
        return self.env.action_space.sample()
