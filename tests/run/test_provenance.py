"""What a run writes down of where it came from."""

import json
import subprocess

import pytest
from transformers import AutoTokenizer

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.report.page import _versions
from aspo_rllib.rollout.prompts import PromptEncoder, task_hashes
from aspo_rllib.run import provenance
from envs.arithmetic import ArithmeticEnv


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True, text=True).stdout


def test_git_state_is_revision_and_whether_it_was_changed(tmp_path):
    assert provenance.git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    revision = git(tmp_path, "rev-parse", "HEAD").strip()
    assert provenance.git_state(tmp_path) == {"revision": revision, "changed": False}
    (tmp_path / "new").write_text("untracked files change nothing")
    assert not provenance.git_state(tmp_path)["changed"]
    (tmp_path / "a").write_text("2")
    assert provenance.git_state(tmp_path)["changed"]


@pytest.fixture(scope="module")
def hashes():
    """env settings -> `task_hashes`"""
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    return lambda **settings: task_hashes(PromptEncoder(ArithmeticEnv(**settings), tokenizer))


def test_the_hash_is_that_of_the_tasks(hashes):
    assert hashes(digits=3) == hashes(digits=3)
    assert hashes(digits=3)["prompts_blake2b"] != hashes(digits=3, split="test")["prompts_blake2b"]
    assert hashes(digits=3)["num_tasks"] == len(ArithmeticEnv(digits=3))


def test_a_run_leaves_a_record_and_a_restored_one_adds_to_it(tmp_path):
    config = ASPOConfig().environment("aspo/Arithmetic-v0").llm(model=TINY_MODEL)
    for tasks in ({"num_tasks": 3}, {"num_tasks": 4}):
        path = provenance.write(tmp_path, plan=config.plan(), config=config.to_dict(), tasks=tasks)
    first, second = json.loads(path.read_text())
    assert path == tmp_path / "run.json"
    assert (first["tasks"], second["tasks"]) == ({"num_tasks": 3}, {"num_tasks": 4})
    assert first["versions"]["ray"].startswith("2.60") and first["config"]["llm_model"] == TINY_MODEL
    assert "64 prompts x 16" in first["plan"]
    assert "ray 2.60" in _versions(tmp_path) and "python 3." in _versions(tmp_path)
