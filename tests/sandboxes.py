"""Limits that the sandbox's tests share, and which ways to confine programs this machine has."""

import os

from envs.grading.code.grader import working_backend
from envs.grading.sandbox import Limits

MEMORY_MB = 512
# For right programs, on a busy machine too; for those that are to run into a limit.
PATIENT = Limits(wall_s=20, cpu_s=20, memory_mb=MEMORY_MB, output_bytes=1 << 20, scratch_mb=32)
STRICT = Limits(wall_s=3, cpu_s=1, memory_mb=MEMORY_MB, output_bytes=1 << 20, scratch_mb=32)


def is_missing(backend) -> bool:
    """Whether a backend cannot run programs here; the error says why one cannot that REQUIRE_SANDBOXES names."""
    try:
        working_backend((backend,))
    except RuntimeError:
        if backend.name in os.environ.get("REQUIRE_SANDBOXES", "").split():
            raise
        return True
    return False
