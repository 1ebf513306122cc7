"""Connects a script to a Ray cluster, or starts Ray on this machine, without Ray's log lines."""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from aspo_rllib.run.start_ray import start_ray

_TOKEN = """\
The Ray cluster asks for a token: {reason}
Set RAY_AUTH_MODE=token, and give the token of the cluster's head (its ~/.ray/auth_token) as RAY_AUTH_TOKEN or in the \
same file here; or start the head with RAY_AUTH_MODE=disabled. See docs/clusters.md, "A job on a running cluster"."""


def connect(**settings: Any) -> None:
    """Call `start_ray` unless this process is connected already. Raises SystemExit if the cluster refuses the token.

    settings: arguments of `ray.init`.
    """
    if ray.is_initialized():
        return
    try:
        start_ray(logging_level=logging.ERROR, logging_config=ray.LoggingConfig(log_level="ERROR"), **settings)
    except AuthenticationError as error:
        raise SystemExit(_TOKEN.format(reason=error.message.splitlines()[0])) from None
