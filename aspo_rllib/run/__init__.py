"""The parts of a run that RLlib and Tune need besides the training step."""
