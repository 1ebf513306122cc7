"""Envs for the bundled model, which writes bare sums: no box, no fenced block."""

from envs.code import CodeEnv
from envs.math import MathEnv
from envs.text_env import Grade, SingleTurnTextEnv, Task


class SumTextEnv(MathEnv):
    """Takes the whole completion for the answer."""

    system_prompt = None

    def grade(self, task, completion):
        return self._grader.grade_text(task.answer, completion)


class SumProgramEnv(CodeEnv):
    """Makes a program of the completion, which prints its value: a sandbox runs what the model wrote."""

    system_prompt = None

    def grade(self, task, completion):
        return self._grader.grade(task.answer, f"```python\nprint({completion})\n```")


class HopelessEnv(SingleTurnTextEnv):
    """Sums that nothing is right for. RLlib calls an env's class with its env_config."""

    def __init__(self, env_config):
        super().__init__()

    def __len__(self):
        return 64

    def task(self, index):
        return Task(prompt=f"{index}+{index}=", answer="", data_source="hopeless")

    def grade(self, task, completion):
        return Grade(reward=0.0, correct=False, extracted=None, status="wrong")


class NamedSums(SumTextEnv):
    """RLlib calls an env's class with its env_config."""

    def __init__(self, env_config):
        super().__init__(**env_config)
