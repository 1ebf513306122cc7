"""Several envs as one, by weights."""

import json
import pickle
import re
from collections import Counter

import gymnasium
import pytest

import envs  # noqa: F401
from envs.mixture import MixEnv


@pytest.fixture
def sets(tmp_path):
    path = tmp_path / "math.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{i}+1", "answer": str(i + 1)}) + "\n" for i in range(10)))
    return {
        "math": {"env": "aspo/Math-v0", "data": path, "weight": 2, "cache_dir": tmp_path / "cache"},
        "sums": {"env": "aspo/Arithmetic-v0", "digits": 1, "weight": 1},
    }


@pytest.mark.parametrize("name", ["mean", "group_std", "math+code", "math@2", "a/b", "", 3])
def test_a_set_has_a_name_that_metrics_can_have(sets, name):
    with pytest.raises(ValueError, match=f"sets: the name {re.escape(repr(name))}: expected letters, digits and _"):
        MixEnv({name: sets["math"]})


def test_sets_are_interleaved_by_weight_and_every_task_is_asked(sets):
    env = MixEnv(sets)
    assert Counter(env.task(i).data_source for i in range(9)) == {"math": 6, "sums": 3}
    asked = [(t.data_source, t.prompt) for t in map(env.task, range(len(env)))]
    assert {p for s, p in asked if s == "math"} == {f"{i}+1" for i in range(10)}
    assert len({p for s, p in asked if s == "sums"}) == len(env.envs["sums"])
    assert asked == [(t.data_source, t.prompt) for t in map(MixEnv(sets).task, range(len(env)))]


def test_every_set_has_its_own_prompt_and_grader(sets):
    env = gymnasium.make("aspo/Mix-v0", sets=sets)
    for index in range(6):
        _, info = env.reset(options={"index": index})
        own = env.unwrapped.envs[info["data_source"]]
        assert [m["content"] for m in info.get("history", [])] == ([own.system_prompt] if own.system_prompt else [])
        gold = env.unwrapped.task(index).answer[1].answer
        text = f"\\boxed{{{gold.golds[0]}}}" if info["data_source"] == "math" else str(gold)
        _, reward, _, _, step_info = env.step(text)
        assert (reward, step_info["set"]) == (1.0, info["data_source"])
    assert list(env.unwrapped.load_reports()) == ["math"]
    assert len(set(env.unwrapped.questions().tolist())) == 10
    assert len(pickle.loads(pickle.dumps(env.unwrapped))) == len(env.unwrapped)
    env.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 0}, r"sets\['math'\]: weight=0 is not a number above 0"),
        ({"env": None}, r"sets\['math'\] names no env"),
        ({"data": None}, "data is missing"),
        ({"answer_prefix": "So"}, "answer_prefix='So' cannot be set in a mixture"),
    ],
)
def test_bad_sets_are_named(sets, change, message):
    with pytest.raises(Exception, match=message):
        MixEnv({"math": {**sets["math"], **change}})
