"""Task families as Gymnasium environments, importable from an install or from the working directory.

Importing this package registers every family, so either line is enough:

    import envs; gymnasium.make("aspo/Arithmetic-v0", digits=2)
    gymnasium.make("envs:aspo/Arithmetic-v0", digits=2)

The second form needs no import by the caller, so it also works in a process that knows only the id. (Gymnasium 1.0
removed the plugin entry points of older versions.)
"""

import gymnasium

_ENTRY_POINTS = {
    "aspo/Arithmetic-v0": "envs.arithmetic:ArithmeticEnv",
    "aspo/Code-v0": "envs.code:CodeEnv",
    "aspo/Math-v0": "envs.math:MathEnv",
    "aspo/Mix-v0": "envs.mixture:MixEnv",
    "aspo/Prompts-v0": "envs.prompts:PromptsEnv",
    "aspo/Reasoning-v0": "envs.reasoning:ReasoningEnv",
    "aspo/WordProblems-v0": "envs.word_problems:WordProblemsEnv",
}


def register_envs() -> None:
    """Register every id of this package with Gymnasium; calling it again changes nothing."""
    for env_id, entry_point in _ENTRY_POINTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=entry_point)


register_envs()
