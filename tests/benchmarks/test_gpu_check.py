"""benchmarks/gpu_check.py is a program that runs: at small sizes, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_stages_run_on_a_cpu_and_one_that_fails_does_not_stop_the_next(tmp_path):
    command = [sys.executable, "benchmarks/gpu_check.py", "--tiny", "--out", tmp_path, "--stages"]
    stages = ["attention", "logprobs", "learner", "shared"]
    done = subprocess.run([*command, *stages], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (tmp_path / "gpu.log").read_text()[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert all(found[stage]["ok"] for stage in stages)
    assert found["learner"]["found"]["tiny"]["ours, packed"]["tokens_s"] > 0
    assert found["shared"]["found"]["sync_configured"]["drift_synced"] < 0.01
