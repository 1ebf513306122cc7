"""Graders: is this completion right? Each is usable without an environment, and from the command line."""
