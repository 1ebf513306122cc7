"""The script for SmolLM2 trains, evaluates and leaves a model behind, where its weights can be had."""

import subprocess
import sys
from pathlib import Path

import pytest

from aspo_rllib.models import smollm2

ROOT = Path(__file__).parents[2]


@pytest.mark.soak  # minutes on idle cores, and a download
def test_two_iterations(tmp_path):
    pytest.importorskip("gguf")
    try:
        model = smollm2.folder()
    except RuntimeError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [
            *(sys.executable, "tuned_examples/smollm2_word_problems.py", "--iterations", "2"),
            *("--storage-path", str(tmp_path), "--model", str(model), "--set", "evaluation_duration=8"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("accuracy 0.")
    assert "chat with it:" in done.stdout
    assert list(tmp_path.glob("*.png"))
    assert list(tmp_path.rglob("checkpoint_*/learner_group/hf/model.safetensors"))
