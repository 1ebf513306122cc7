"""Whether this machine can train: `python -m aspo_rllib.doctor`. Ends with what to do about each problem.

Looks at what is installed, at whether it can be imported, at the machine, at the sandbox for programs, at Ray's record
of running clusters, and last boots an engine, gives it new weights and compares its log-probabilities with those of the
learner's model. It starts with the standard library alone: whatever else it needs is imported by the check that does.
"""

from aspo_rllib.doctor.finding import Finding

__all__ = ["Finding"]
