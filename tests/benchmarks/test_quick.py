"""benchmarks/quick.py: its table in docs/benchmarks.md, what counts as fallen, and small runs of all its scripts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import quick

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_has_a_row_for_exactly_what_is_compared():
    page = quick.PAGE.read_text(encoding="utf-8")
    for script, what in quick.SCRIPTS.items():
        assert all(f"| `{script}.py` | {name} | " in page for name in what.ratios)
    assert quick.with_table(page, {}) == page  # no other row, and the column "better" is that of the program


def test_recording_some_ratios_keeps_the_others():
    page = quick.PAGE.read_text(encoding="utf-8")
    changed = quick.with_table(page, {("grading", "MathGrader"): 12.344})
    assert quick.read_table(changed) == quick.read_table(page) | {("grading", "MathGrader"): 12.3}
    assert changed.split(quick.BEGIN)[0] == page.split(quick.BEGIN)[0]
    assert changed.split(quick.END)[1] == page.split(quick.END)[1]


@pytest.mark.parametrize(
    ("found", "higher_is_better", "fallen"),
    [(0.91, True, False), (0.89, True, True), (2.0, True, False), (1.1, False, False), (1.12, False, True)],
)
def test_a_ratio_has_fallen_if_it_is_worse_by_more_than_a_tenth(found, higher_is_better, fallen, capsys):
    assert quick.has_fallen(found, 1.0, higher_is_better) == fallen
    key = ("grading", "MathGrader") if higher_is_better else ("learner", "learner, packed")
    assert quick.compare({key: found}, {key: 1.0}) == fallen
    assert ("FELL" in capsys.readouterr().out) == fallen


def test_an_unknown_script_is_refused(capsys):
    with pytest.raises(SystemExit):
        quick.main(["learner", "grader"])
    assert "SCRIPT 'grader': expected some of iteration, learner" in capsys.readouterr().err


@pytest.mark.soak  # minutes, like the program itself
def test_all_scripts_run_and_return_the_ratios_that_are_compared():
    command = [sys.executable, "benchmarks/quick.py", "--tiny"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and done.returncode in (0, 1), done.stderr[-3000:]  # 1: a ratio has fallen
    table = done.stdout[done.stdout.rindex("\nscript") :]
    for what in quick.SCRIPTS.values():
        assert all(name in table for name in what.ratios)
