"""Moves the weights from the learner to the engines and checks that they arrived."""
