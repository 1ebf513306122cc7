"""benchmarks/growth_rollouts.py and long_run.py are programs that run, at small sizes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def output_of(*command):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_every_part_has_a_time_per_token_at_each_size_and_their_ratio():
    printed = output_of("benchmarks/growth_rollouts.py", "--tokens", "64", "128", "--repeats", "1")
    rows = printed[printed.index("last / first") :].splitlines()[1:]
    assert any(row.startswith("entropy classes, mixed") for row in rows)
    for row in rows:
        first, last, ratio = map(float, row.replace(",", "").split()[-3:])
        assert ratio == pytest.approx(last / first, rel=0.02, abs=0.02)


@pytest.mark.soak  # minutes, like the program itself
def test_a_long_run_prints_its_marks():
    printed = output_of("benchmarks/long_run.py", "--iterations", "4", "--rows", "2000", "--marks", "2")
    assert "2,000 rows, second open" in printed
    marks = [line for line in printed.splitlines() if line.startswith("== iteration")]
    assert marks == ["== iteration 2, since 1, per iteration:", "== iteration 4, since 2, per iteration:"]
    for what in ("algorithm", "runner", "graders", "Tune"):
        assert printed.count(f"{what} ") >= 2 * 2  # CPU and memory at two marks
