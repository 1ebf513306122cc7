"""Adapters of the graders and the envs to other frameworks. The modules do not depend on each other."""
