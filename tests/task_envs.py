"""Math and code envs for the bundled model, which writes bare sums: no box, no fenced block."""

from envs.code import CodeEnv
from envs.math import MathEnv


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
