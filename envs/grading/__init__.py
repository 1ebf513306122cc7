"""Graders that decide whether a completion is right. They work without an env, and from the command line."""
