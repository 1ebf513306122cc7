"""The command that evaluates a model on its own."""

import json
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.evaluate import progress
from aspo_rllib.evaluate.__main__ import INTERRUPTED, _parser, main
from aspo_rllib.evaluate.samples import COLUMNS, completion_rows
from aspo_rllib.evaluate.settings import Settings
from aspo_rllib.evaluate.standalone import config_of, evaluate

SETTINGS = Settings(
    model=TINY_MODEL,
    env="aspo/Arithmetic-v0",
    env_config={"digits": 3, "split": "test"},
    k=4,
    limit=6,
    temperature=0.8,
    max_prompt_tokens=32,
    max_completion_tokens=8,
)


@pytest.fixture(scope="module")
def finished(ray_session, tmp_path_factory):
    """The folder of a whole evaluation, and its numbers."""
    out = tmp_path_factory.mktemp("finished")
    numbers = evaluate(SETTINGS, out)
    return out, numbers


def table(out):
    return pd.read_parquet(out / "completions").sort_values(["index", "sample"]).reset_index(drop=True)


def without_prompts(out, indices):
    """Make the folder that of an evaluation that was interrupted before these prompts were kept."""
    whole = table(out)
    for path in (out / "completions").glob("*.parquet"):
        path.unlink()
    whole[~whole["index"].isin(indices)].to_parquet(out / "completions" / "kept.parquet")


@pytest.mark.slow
def test_every_completion_is_kept_and_counted(finished):
    out, numbers = finished
    rows = table(out)
    assert list(rows.columns) == list(COLUMNS) and len(rows) == 6 * 4
    assert rows.groupby("index")["sample"].apply(list).tolist() == [[0, 1, 2, 3]] * 6
    assert numbers["accuracy"] == numbers["avg_at_4"] == rows["correct"].mean()
    assert (numbers["num_prompts"], numbers["ungraded_prompts"], numbers["overlong_prompts"]) == (6, 0, 0)
    assert json.loads((out / "results.json").read_text())["results"] == numbers


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_to_the_same_result(finished):
    out, numbers = finished
    whole = table(out)
    without_prompts(out, [1, 4, 5])
    kept = (out / "completions" / "kept.parquet").stat().st_mtime_ns
    assert evaluate(SETTINGS, out) == numbers
    assert (out / "completions" / "kept.parquet").stat().st_mtime_ns == kept
    pd.testing.assert_frame_equal(table(out), whole)


@pytest.mark.slow
def test_a_finished_evaluation_starts_no_engine_and_says_the_same(finished, capsys):
    out, numbers = finished
    flags = ["--model", TINY_MODEL, "--env", "aspo/Arithmetic-v0", "--k", "4", "--limit", "6", "--out", str(out)]
    flags += ["--env-config", '{"digits": 3, "split": "test"}', "--max-prompt-tokens", "32"]
    main([*flags, "--max-completion-tokens", "8"])
    printed = capsys.readouterr().out
    assert re.search(rf"^avg_at_4 +{numbers['avg_at_4']:.4g} ± {numbers['avg_at_4_se']:.2g}$", printed, re.MULTILINE)
    with pytest.raises(SystemExit, match="max_completion_tokens=8, not 9"):
        main([*flags, "--max-completion-tokens", "9"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 1.0}, "temperature=0.8, not 1.0"),
        ({"k": 8, "seed": 1}, "k=4, not 8; seed=0, not 1"),
        ({"env_config": {"digits": 3}}, "env_config={'digits': 3, 'split': 'test'}, not {'digits': 3}"),
    ],
)
def test_other_settings_are_refused(finished, changes, message):
    out, _ = finished
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate(replace(SETTINGS, **changes), out)


@pytest.mark.slow
def test_other_weights_and_prompts_under_the_same_names_are_refused(finished):
    out, _ = finished
    begun = json.loads((out / "settings.json").read_text())
    for name in ("weights", "prompts"):
        (out / "settings.json").write_text(json.dumps(begun | {name: "others"}))
        with pytest.raises(ValueError, match=f"was begun with {name}='others', not"):
            evaluate(SETTINGS, out)
    (out / "settings.json").write_text(json.dumps(begun))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "group_size=0: expected an int >= 1"),
        ({"temperature": 0.0}, "group_size=4 at temperature=0"),
        ({"limit": 0}, "evaluation_duration=0: expected an int >= 1"),
        ({"max_prompt_tokens": 2}, "all 6 prompts of the evaluation are longer"),
        ({"env_config": {"digits": 0}}, "digits=0"),
        ({"top_k": -1}, "top_k=-1: expected an int >= 0"),
        ({"min_p": 1.0}, "min_p=1.0: expected in [0, 1)"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: expected > 0"),
        ({"stop": [""]}, "stop=['']: expected a list of texts that are not empty"),
        (
            {"reward_weights": {"correct": 0}},
            "reward_weights={'correct': 0}: expected a dict of names to finite numbers",
        ),
        ({"model": "./nowhere"}, "llm_model='./nowhere'"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate(replace(SETTINGS, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_checkpoints_model_evaluates_as_inside_training(finished, make_config, tmp_path):
    config = make_config()
    config.evaluation(
        evaluation_config={"env_config": {"split": "test"}, "group_size": 4, "temperature": 0.8},
        evaluation_duration=12,
    )
    algo = config.build_algo()
    try:
        for _ in range(3):
            algo.train()
        inside = algo.evaluate()
        inside_rows = pd.DataFrame(completion_rows(algo.latest_evaluation_groups["default"]))
        path = algo.save_to_path(tmp_path / "checkpoint")
    finally:
        algo.stop()
    settings = replace(SETTINGS, model=f"{path}/learner_group/hf", limit=12)
    outside = evaluate(settings, tmp_path / "two_runners", num_env_runners=2)
    assert table(tmp_path / "two_runners")["completion"].tolist() == inside_rows["completion"].tolist()
    untrained = table(finished[0])  # of the first half of these prompts
    assert untrained["index"].tolist() == inside_rows["index"][: len(untrained)].tolist()
    assert untrained["completion"].tolist() != inside_rows["completion"][: len(untrained)].tolist()

    def nested(name):
        value = inside
        for part in name.split("/"):
            value = value[part]
        return value

    assert outside == {name: nested(name) for name in outside}


def test_prompts_have_the_date_of_the_training_by_default():
    assert Settings("", "").template_date == ASPOConfig().template_date
    config = config_of(replace(SETTINGS, template_date="2026-02-03"))
    assert config.get_evaluation_config_object().template_date == "2026-02-03"


# ---- the command line ----------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def test_the_help_has_every_default_and_an_example_that_can_be_run(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    values = [field.default for field in fields(Settings) if type(field.default) in (int, float, str)]
    assert [value for value in values if f"default: {value}" not in " ".join(text.split())] == []
    command = shlex.split(text.rpartition("python -m aspo_rllib.evaluate --model")[2].replace("\\\n", " "))
    args = _parser().parse_args(["--model", *command])
    assert (ROOT / args.data).is_file()


def test_the_command_samples_and_weighs_as_it_is_told(ray_session, tmp_path):
    data, out = tmp_path / "sums.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps({"prompt": f"{n}+105=", "answer": str(n + 105)}) + "\n" for n in (200, 300)))
    functions = {"rewards": ["reward_examples:always_half"], "system_prompt": ""}
    env_config = {"data": str(data), "cache_dir": str(tmp_path)} | functions
    flags = ["--model", TINY_MODEL, "--env", "aspo/Math-v0", "--env-config", json.dumps(env_config), "--k", "4"]
    flags += ["--engine", "transformers", "--max-prompt-tokens", "32", "--max-completion-tokens", "8"]
    flags += ["--out", str(out)]
    chosen = ["--top-k", "1", "--stop", "0", "5", "--reward-weights", '{"correct": 1, "Judge": 2}']
    main([*flags, *chosen])
    begun = json.loads((out / "settings.json").read_text())
    assert (begun["top_k"], begun["stop"], begun["reward_weights"]) == (1, ["0", "5"], {"correct": 1, "Judge": 2})
    rows = table(out)
    assert (rows.groupby("index")["completion"].nunique() == 1).all()  # the likeliest token only
    assert rows["completion"].str.fullmatch("[^05]*[05]?").all()
    with pytest.raises(SystemExit, match=r"top_k=1, not 0; .*stop=\['0', '5'\], not None"):
        main(flags)


def test_without_a_terminal_there_are_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    lines = progress.show_progress(40, 10)
    lines.update(0)
    lines.update(15)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "evaluate: 10 of 40 prompts after 00:00"
    assert second == "evaluate: 25 of 40 prompts after 00:00, 00:00 left"
    monkeypatch.setattr(progress, "LINE_S", 60.0)
    lines.update(1)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_ctrl_c_ends_in_one_line_and_the_command_continues(tmp_path):
    config = '{"digits": 3, "split": "test"}'
    command = [sys.executable, "-m", "aspo_rllib.evaluate", "--model", TINY_MODEL, "--env", "aspo/Arithmetic-v0"]
    command += ["--env-config", config, "--engine", "transformers", "--k", "64", "--out", str(tmp_path / "out")]
    command += ["--max-prompt-tokens", "32", "--max-completion-tokens", "8"]
    # A process that a shell started in the background ignores SIGINT, and its children inherit that.
    command = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        before = next(line for line in process.stderr if re.match("evaluate: [1-9]", line))
        process.send_signal(signal.SIGINT)
        after = [line for line in process.stderr.read().splitlines() if " prompts after " not in line]
    assert process.returncode == INTERRUPTED, before
    assert after == [f"evaluate: stopped; the same command continues from what is in {tmp_path / 'out'}"]
    assert list((tmp_path / "out" / "completions").glob("*.parquet"))
