"""Checks whether this machine can train: `python -m aspo_rllib.doctor`. Prints a remedy for each problem.

The checks cover the installed packages and their imports, the machine, the sandbox for programs, and Ray's record of
running clusters. The last check starts an engine, loads new weights into it and compares its log-probabilities with
those of the learner's model. The command itself needs only the standard library; each check imports what it needs.
"""

from aspo_rllib.doctor.finding import Finding

__all__ = ["Finding"]
