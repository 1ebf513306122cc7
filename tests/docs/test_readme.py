"""The README's code does what the README says."""

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run_block(containing: str) -> dict:
    (block,) = [b for b in BLOCKS if containing in b]
    namespace: dict = {}
    exec(block, namespace)
    return namespace


def test_the_task_of_your_own_is_under_20_lines_and_grades():
    (block,) = [b for b in BLOCKS if "ReverseEnv" in b]
    assert len(block.strip().splitlines()) <= 20
    env = run_block("class ReverseEnv")["ReverseEnv"]()
    prompt, _ = env.reset(options={"index": 1})
    assert prompt == "Reverse: drawer"
    assert env.step("reward")[1] == 1.0


def test_the_loss_of_your_own_is_a_token_weight():
    import torch

    from aspo_rllib import ASPOConfig
    from aspo_rllib.losses import TokenInputs

    (block,) = [b for b in BLOCKS if "def reinforce" in b]
    namespace = {"config": ASPOConfig()}
    exec(block, namespace)
    x = TokenInputs(
        logprobs=torch.tensor([[-1.0, -2.0]]),
        old_logprobs=torch.tensor([[-1.5, -1.0]]),
        advantages=torch.ones(1, 2),
        loss_mask=torch.ones(1, 2, dtype=torch.bool),
        clip_low=0.2,
        clip_high=0.2,
    )
    assert namespace["config"].method.token_weight(x).tolist() == [[1.0, 1.0]]


def test_the_tree_names_every_part_of_the_package():
    folder = Path(__file__).parents[2] / "aspo_rllib"
    parts = [f"{path.name}/" for path in folder.iterdir() if (path / "__init__.py").exists()]
    parts += [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert [part for part in parts if f"  {part} " not in README] == []
