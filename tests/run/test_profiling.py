"""Where the time went: the table's arithmetic, and a real trace of learner and engine."""

import json
import math
from pathlib import Path

import pytest

from aspo_rllib.run.profiling import FOLDER, ProfileCallback, StageTimes
from aspo_rllib.run.trial_folder import trial_folder


def test_the_table_has_seconds_per_iteration_and_shares():
    times = StageTimes()
    stages = {"wait_s": 2.0, "batch_s": 0.5, "sync_s": 0.5, "generate_s": 1.5, "grade_s": 0.0}
    times.add({"time": stages | {"update_s": 4.0, "old_logprobs_s": 1.0}, "time_this_iter_s": 10.0})
    times.add({"time": stages | {"update_s": math.nan, "old_logprobs_s": math.nan}, "time_this_iter_s": 10.0})
    rows = [line.split() for line in times.table().splitlines()]
    assert rows[0][-1] == "2"
    shown = {" ".join(row[:-3]): (row[-3], row[-1]) for row in rows[1:]}
    assert shown == {
        "waiting for rollouts": ("2.00", "20%"),
        "advantages, batches": ("0.50", "5%"),
        "learners' update": ("2.00", "20%"),
        "weight sync and check": ("0.50", "5%"),
        "evaluation, the rest": ("5.00", "50%"),  # 20 s less 2 x (2 + 0.5 + 0.5) and 4 s
        "(runners generated)": ("1.50", "15%"),
        "(runners waited for graders)": ("0.00", "0%"),
        "(scoring before the first step)": ("0.50", "5%"),
    }


@pytest.mark.slow
def test_one_iteration_is_traced(ray_session, make_config):
    algo = make_config().callbacks(ProfileCallback).build_algo()
    try:
        algo.train()
        algo.train()
        folder = Path(trial_folder(algo)) / FOLDER
        assert not folder.exists()
        algo.train()
        assert {path.name for path in folder.iterdir()} == {"learner_0.json", "runner_0.json", "ray_timeline.json"}
        learner, runner = (
            {event["name"] for event in json.loads((folder / name).read_text())["traceEvents"]}
            for name in ("learner_0.json", "runner_0.json")
        )
        assert any("AdamW" in name for name in learner) and any("Backward" in name for name in learner)
        assert any(name.startswith("aten::") for name in runner) and not any("Backward" in name for name in runner)
        assert isinstance(json.loads((folder / "ray_timeline.json").read_text()), list)
    finally:
        algo.stop()
