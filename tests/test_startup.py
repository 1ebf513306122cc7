"""What a process imports: nothing that it does not use."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"ray", "torch", "transformers", "vllm", "pandas", "scipy", "pyarrow", "matplotlib", "tensorboard"}


def heavy_imports(code: str) -> set[str]:
    """Which of HEAVY a new Python process has imported after some code."""
    report = f"\nimport sys\nprint('IMPORTED', *({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code + report], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("IMPORTED")[2].split())


def test_the_package_itself_imports_nothing_heavy():
    assert heavy_imports("import aspo_rllib; assert 'LOSSES' in dir(aspo_rllib)") == set()


def test_the_losses_need_torch_alone():
    assert heavy_imports("from aspo_rllib.losses import policy_loss") == {"torch"}


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "aspo_rllib.evaluate"],
        ["-m", "aspo_rllib.replay"],
        ["-m", "aspo_rllib.report"],
        ["-m", "aspo_rllib.doctor"],
        *(
            [str(path.relative_to(ROOT))]
            for path in sorted((ROOT / "tuned_examples").glob("*.py"))
            if path.stem[0] != "_"
        ),
    ],
    ids=" ".join,
)
def test_help_is_shown_before_anything_heavy_is_imported(command):
    if command[0].endswith("tiny_model_training.py"):
        pytest.skip("no script")
    run = "runpy.run_module" if command[0] == "-m" else "runpy.run_path"
    code = f"""
import runpy, sys
sys.argv = [{command[-1]!r}, "--help"]
try:
    {run}({command[-1]!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
"""
    assert heavy_imports(code) == set()


@pytest.mark.parametrize(
    "code",
    [
        "import ray.tune; import aspo_rllib",
        "import aspo_rllib; import ray.tune",
        "import aspo_rllib, ray; from ray import tune",
    ],
)
def test_tune_knows_the_algorithms_after_the_bare_import(code):
    script = f"""
{code}
import sys
assert "aspo_rllib.aspo" not in sys.modules
from ray.tune.registry import get_trainable_cls
from aspo_rllib import ASPO, GRPO
assert get_trainable_cls("ASPO") is ASPO and get_trainable_cls("GRPO") is GRPO
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_a_grading_worker_needs_neither_torch_nor_ray():
    code = """
import gymnasium as gym
from envs.grading.pool import GradingPool
import envs.grading.child, envs.math, envs.code, envs.arithmetic
env = gym.make("envs:aspo/Arithmetic-v0", digits=3)
env.reset(options={"index": 3})
env.step("7")
"""
    assert heavy_imports(code) <= {"pyarrow"}  # the tables of tasks
