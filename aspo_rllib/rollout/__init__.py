"""From a task to a graded group of rollouts."""
