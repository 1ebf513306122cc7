"""Saved batches of rollouts, and their way through the learner once more, without an engine."""
