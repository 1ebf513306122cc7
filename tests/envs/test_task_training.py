"""Training on files of tasks, through the real runner, graders, pool and sandbox."""

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from ray import tune
from task_envs import SumProgramEnv, SumTextEnv

from aspo_rllib.run.pass_rates import PassRatesCallback
from envs.arithmetic import ArithmeticEnv


@pytest.fixture(scope="module")
def sums():
    env = ArithmeticEnv(digits=3)
    return [env.task(index) for index in range(64)]


@pytest.fixture
def math_file(tmp_path, sums):
    """Sums as math rows, one of them too long for the model's prompt."""
    path = tmp_path / "math.jsonl"
    rows = [{"problem": task.prompt, "answer": task.answer} for task in sums]
    rows.append({"problem": "1+" * 40 + "1=", "answer": "41"})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def code_file(tmp_path, sums):
    """Sums as programs to write, in the layout of PRIME's code rows."""
    path = tmp_path / "code.jsonl"
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": task.prompt}],
            "ability": "code",
            "reward_model": {"ground_truth": json.dumps({"inputs": [""], "outputs": [task.answer]})},
        }
        for task in sums
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def train(ray_session, make_config, tmp_path):
    """`train(EnvClass, file, iterations)`: the results, the file of pass rates; `beside` runs beside each iteration."""

    def run(env_class, path, iterations, beside=lambda: None, **data_options):
        tune.register_env("tasks", lambda context: env_class(**context))
        config = make_config(batch_prompts=6, minibatch_prompts=3).environment("tasks").sampling(num_graders=2)
        config.env_config = {"data": str(path), "cache_dir": str(tmp_path / "cache"), **data_options}
        config.callbacks(PassRatesCallback).llm(engine="transformers")  # it starts in half of vLLM's time
        config.evaluation(evaluation_config={"env_config": {"split": "train"}})  # nothing is held out of so few
        algo = config.build_algo()
        try:
            with ThreadPoolExecutor(1) as executor:
                results = []
                for _ in range(iterations):
                    done = executor.submit(beside)
                    results.append(algo.train())
                    done.result()
        finally:
            algo.stop()
        return results, Path(algo.logdir) / "pass_rates.jsonl"

    return run


def numbers(results):
    """What may not depend on who graded."""
    keys = ("reward", "groups", "length", "entropy", "ratio", "weight")
    return [{key: result[key] for key in keys} for result in results]


@pytest.mark.slow
def test_training_on_a_math_file(train, math_file):
    results, pass_rates = train(SumTextEnv, math_file, iterations=12)
    assert all(0 < result["reward"]["accuracy"] < 1 for result in results)
    assert sum(result["tasks"]["overlong"] for result in results) == 1  # 72 of 65 prompts: an epoch and a bit
    assert all(result["grader"]["errors"] == 0 for result in results)

    # What a run leaves behind chooses the tasks of the next one.
    asked = [json.loads(line) for line in pass_rates.read_text().splitlines()]
    assert len(asked) == 72 and all(row["num_samples"] == 8 for row in asked)
    middling = SumTextEnv(str(math_file), pass_rates=pass_rates, pass_rate_range=(0.2, 0.8))
    assert 0 < middling.tasks.report.filtered_by_pass_rate == 65 - len(middling) < 65


@pytest.mark.slow
def test_training_on_a_code_file_and_grading_workers_killed_in_the_middle(train, code_file):
    quiet, _ = train(SumProgramEnv, code_file, iterations=3)
    assert any(0 < result["reward"]["accuracy"] < 1 for result in quiet)
    assert all(result["grader"]["errors"] == 0 for result in quiet)

    killed = []

    def kill_a_grader_at_work():
        """One in each iteration: a completion that workers died of twice would rightly count as ungraded."""
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):  # short-lived ones come and go
                    if "envs.grading.child" in " ".join(process.cmdline()) and process.children():
                        process.kill()
                        killed.append(process.pid)
                        return
            time.sleep(0.1)

    disturbed, _ = train(SumProgramEnv, code_file, iterations=3, beside=kill_a_grader_at_work)
    assert len(set(killed)) == 3
    assert numbers(disturbed) == numbers(quiet)
