"""The line that a run prints per iteration."""

import io
import math
from types import SimpleNamespace

from aspo_rllib.run.progress import ProgressCallback

UPDATE = {
    "time": {"update_s": 1.0},
    "entropy": {"mean": 0.5},
    "clip": {"pos_frac": 0.25},
    "kl": {"old": 0.01},
}
NO_UPDATE = {group: dict.fromkeys(values, math.nan) for group, values in UPDATE.items()}


def lines(*results):
    stream = io.StringIO()
    callback = ProgressCallback(iterations=10, stream=stream)
    for number, result in enumerate(results, start=1):
        common = {
            "training_iteration": number,
            "time_total_s": 2.0 * number,
            "time_this_iter_s": 2.0,
            "reward": {"accuracy": 0.75},
            "tokens": {"completion": 100},
        }
        callback.on_trial_result(number, [], SimpleNamespace(trial_id="a1", custom_trial_name=None), common | result)
    return stream.getvalue().splitlines()


def test_an_iteration_without_an_update_says_so_and_shows_no_nan():
    _, trained, idle, no_verdicts = lines(
        UPDATE,
        NO_UPDATE | {"groups": {"used_frac": 0.0, "all_right_frac": 0.75, "all_wrong_frac": 0.25}},
        NO_UPDATE | {"groups": {"used_frac": 0.0}},
    )
    assert trained.split() == ["a1", "1/10", "0.750", "0.500", "0.250", "0.0100", "50", "0:00:18"]
    assert idle.split()[:5] == ["a1", "2/10", "0.750", "50", "0:00:16"]
    assert idle.endswith("no update: 75% of the groups all right, 25% all wrong")
    assert no_verdicts.endswith("no update: the rewards within each group are equal")


def test_the_first_iteration_may_be_without_an_update():
    # RLlib has no entry for what was never logged.
    _, first = lines({"time": {"wait_s": 1.0}, "groups": {"all_right_frac": 0.0, "all_wrong_frac": 1.0}})
    assert first.endswith("no update: 0% of the groups all right, 100% all wrong")
