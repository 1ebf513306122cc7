"""The comparison of methods: runs, reports, and goes on where it stopped."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


def compare(results: Path, *arguments: str, succeeds: bool = True) -> str:
    # The transformers engine starts in half of vLLM's time.
    smoke = ("--smoke", "--engine", "transformers", "--results", str(results))
    command = [sys.executable, "tuned_examples/aspo_vs_grpo.py", *smoke, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert (done.returncode == 0) == succeeds, done.stderr
    return done.stdout if succeeds else done.stderr


def trials(results: Path) -> list[list[dict]]:
    files = sorted(results.glob("aspo_vs_grpo/*/result.json"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def test_settings_of_all_trials_and_names_of_methods():
    script = runpy.run_path(str(ROOT / "tuned_examples" / "aspo_vs_grpo.py"))
    parse = script["parser"].parse_args
    args = parse(["--methods", "aspo", "no_is-clips", "aspo-uncapped", "--seeds", "1", "--set", "max_staleness=0"])
    trials = [SimpleNamespace(config=trial) for trial in script["planned_trials"](args)]
    assert list(map(script["trial_name"], trials)) == [
        *("aspo_seed0_lr5e-05", "no_is-clips_seed0_lr5e-05", "aspo-uncapped_seed0_lr5e-05")
    ]
    assert script["make_config"](2, "transformers", args.set).max_staleness == 0
    with pytest.raises(SystemExit, match="--set 'max_stale=0': the config has no field 'max_stale'"):
        script["make_config"](2, "transformers", ["max_stale=0"])
    with pytest.raises(SystemExit, match="--set lr: it differs between the trials; use --methods, --lr or --seeds"):
        script["planned_trials"](parse(["--set", "lr=1"]))


@pytest.mark.slow
def test_the_comparison_runs_reports_and_restores(tmp_path):
    output = compare(tmp_path, "--seeds", "1")
    assert "2 methods x 1 learning rate(s) x 1 seeds = 2 trials of 2 iterations" in output
    runs = trials(tmp_path)
    assert [len(run) for run in runs] == [2] * 2
    assert {run[0]["config"]["engine"] for run in runs} == {"transformers"}
    first = [run[0] for run in runs]
    assert [(row["config"]["loss"], row["config"]["seed"]) for row in first] == [("aspo", 0), ("grpo", 0)]
    # Paired: before training, trials of one seed see the same completions of the same prompts.
    assert first[0]["evaluation_at_start"] == first[1]["evaluation_at_start"]
    assert first[0]["reward"] == first[1]["reward"] and first[0]["length"] == first[1]["length"]

    report = tmp_path / "aspo_vs_grpo" / "report"
    assert "One seed" in (report / "report.html").read_text()
    assert (report / "token_weights.png").exists()

    compare(tmp_path, "--seeds", "1", "--resume")
    assert trials(tmp_path) == runs
    assert "was begun with seeds=1, not 2" in compare(tmp_path, "--seeds", "2", "--resume", succeeds=False)
