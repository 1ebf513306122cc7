"""From groups of rollouts to an optimizer step."""
