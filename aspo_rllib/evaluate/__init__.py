"""Evaluation of a model: during training, or without training by `python -m aspo_rllib.evaluate`."""
