"""The code in the README and in docs/tune.md does what they say."""

import re
from pathlib import Path

import pytest
import torch
from ray import tune

from aspo_rllib import ASPOConfig
from aspo_rllib.losses import TokenInputs
from aspo_rllib.report.plan import read_plan

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    """The Python blocks of a page. A block in a list is indented."""
    found = re.findall(r"^( *)```python\n(.*?)^ *```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def block_with(page: str, text: str) -> str:
    (block,) = [block for block in blocks(page) if text in block]
    return block


def with_small_runs(block: str) -> str:
    """The block with one or two iterations per trial and two trials, on the engine that starts fastest."""
    for old, new in (
        ('{"training_iteration": 20}', '{"training_iteration": 1}'),
        ('{"training_iteration": 40}', '{"training_iteration": 2}'),
        ("[0, 1, 2]", "[0]"),
        ("[0, 1, 2, 3, 4, 5, 6, 7]", "[0]"),
        ("max_prompt_tokens=32)", 'max_prompt_tokens=32, engine="transformers")'),
        ("batch_prompts=32", "batch_prompts=8"),
        ("evaluation_interval=5,", "evaluation_interval=1, evaluation_duration=4,"),
        ("grace_period=10", "grace_period=1"),
        ("perturbation_interval=5", "perturbation_interval=1"),
        ("checkpoint_frequency=5", "checkpoint_frequency=1"),
        ("num_samples=20", "num_samples=2"),
        ("num_samples=8", "num_samples=2"),
        ("num_samples=4", "num_samples=2"),
    ):
        block = block.replace(old, new)
    return block


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_task_of_your_own_is_under_20_lines_and_grades():
    block = block_with("README.md", "class ReverseEnv")
    assert len(block.strip().splitlines()) <= 20
    namespace = {}
    exec(block, namespace)
    env = namespace["ReverseEnv"]()
    prompt, _ = env.reset(options={"index": 1})
    assert prompt == "Reverse: drawer"
    assert env.step("reward")[1] == 1.0


def test_the_loss_of_your_own_is_a_token_weight():
    namespace = {"config": ASPOConfig()}
    exec(block_with("docs/extending.md", "def reinforce"), namespace)
    x = TokenInputs(
        logprobs=torch.tensor([[-1.0, -2.0]]),
        old_logprobs=torch.tensor([[-1.5, -1.0]]),
        advantages=torch.ones(1, 2),
        loss_mask=torch.ones(1, 2, dtype=torch.bool),
        clip_low=0.2,
        clip_high=0.2,
    )
    assert namespace["config"].method.token_weight(x).tolist() == [[1.0, 1.0]]


@pytest.mark.slow
def test_the_readmes_run_is_saved_continued_and_compared(ray_session, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune.RunConfig, "__init__", in_folder(tmp_path, tune.RunConfig.__init__))
    namespace = {}
    exec(with_small_runs(block_with("README.md", "config.build_algo()")), namespace)
    assert (tmp_path / "checkpoint" / "learner_group" / "hf" / "model.safetensors").exists()
    assert "generated_text" in capsys.readouterr().out
    assert [result.error for result in namespace["results"]] == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("example", ["grid_search", "ASHAScheduler", "OptunaSearch", "PopulationBasedTraining"])
def test_the_examples_of_the_page_on_tune_run(ray_session, tmp_path, monkeypatch, example):
    if example == "OptunaSearch":
        pytest.importorskip("optuna")
    monkeypatch.setattr(tune.RunConfig, "__init__", in_folder(tmp_path, tune.RunConfig.__init__))
    results = []
    fit = tune.Tuner.fit
    monkeypatch.setattr(tune.Tuner, "fit", lambda tuner: results.append(fit(tuner)) or results[-1])
    first = with_small_runs(block_with("docs/tune.md", "grid_search"))
    namespace = {}
    if example == "grid_search":
        exec(first, namespace)
    else:
        exec(first.replace("results = tune.Tuner", "tuner = tune.Tuner").replace(".fit()", ""), namespace)
        namespace["config"].loss, namespace["config"].seed = "aspo", 0
        exec(with_small_runs(block_with("docs/tune.md", f"import {example}")), namespace)
    assert [result.error for result in results[-1]] == [None, None]
    assert len(results[-1]) == 2


def test_the_plan_on_the_page_on_tune_can_be_read(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/tune.md").read_text(), flags=re.DOTALL)
    (tmp_path / "plan.toml").write_text(text)
    assert [c.equivalence for c in read_plan(tmp_path / "plan.toml").comparisons] == [0.02, None]


def in_folder(folder, make):
    """`RunConfig.__init__` with this folder as its storage."""
    return lambda self, **kwargs: make(self, storage_path=str(folder), **kwargs)


def test_the_tree_names_every_part_of_the_package():
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    folder = ROOT / "aspo_rllib"
    parts = [f"{path.name}/" for path in folder.iterdir() if (path / "__init__.py").exists()]
    parts += [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert [part for part in parts if f"  {part} " not in contributing] == []
