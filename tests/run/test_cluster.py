"""Connecting to a cluster that asks for a token."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_missing_token_is_named_with_the_remedy(tmp_path):
    program = "from aspo_rllib.run.cluster import connect; connect(address='127.0.0.1:1')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "The Ray cluster asks for a token: Token authentication is enabled but no" in done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr and "docs/clusters.md" in done.stderr
