"""Starts Ray, on a busy machine too."""

from __future__ import annotations

import os
from typing import Any

import ray

_ATTEMPTS = 3
# Ray gives its first process 30 s to open its port, unless this variable says otherwise.
_PORT_WAIT_S = "180"
# Ray gives the node 30 s to register, which cannot be changed, and raises a plain Exception with this text.
_TOO_SLOW = "timed out during startup"


def start_ray(*args: Any, **kwargs: Any) -> None:
    """`ray.init(...)` with the same arguments, tried again if the machine was too busy for Ray's time limits.

    Raises:
        RuntimeError: if Ray did not start in any attempt.
    """
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", _PORT_WAIT_S)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(*args, **kwargs)
            return
        except Exception as error:
            if _TOO_SLOW not in str(error):
                raise
            slow = error
        ray.shutdown()
        print(f"Ray did not start within its limit of 30 s (attempt {attempt} of {_ATTEMPTS}).", flush=True)
    raise RuntimeError(
        f"Ray did not start in {_ATTEMPTS} attempts. The machine is too busy, or its disk or memory is full: end other "
        "processes, or start a cluster with `ray start --head` and set RAY_ADDRESS=auto."
    ) from slow
