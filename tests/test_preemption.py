"""Signals to a training script: SIGTERM, Ctrl-C and kill -9 leave no process behind, and --resume goes on.

Run as a script, this file is the training: the bundled model, through `recipe.run`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import psutil
import pytest
import ray
from ray import tune

from aspo_rllib import TINY_MODEL, ASPOConfig, preemption
from aspo_rllib.recipe import options, run

ROOT = Path(__file__).resolve().parents[1]
ITERATIONS, SAVED_EVERY = 8, 4
NAME = "signals"
LONGEST_START_S = 300  # on a busy machine; a quiet one takes half a minute
parser = options(
    "Sums.", name=NAME, model=TINY_MODEL, data="none", iterations=ITERATIONS, num_env_runners=1, num_learners=0
)


class Script:
    """A training under way in a process group of its own, as a terminal starts it; what it prints goes to a file."""

    def __init__(self, storage: Path, log: Path, *arguments: str):
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--storage-path", str(storage), *arguments],
                env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def iterations(self) -> list[int]:
        """Those that it has trained."""
        return [int(n) for n in re.findall(rf" (\d+)/{ITERATIONS} ", self.output) if n != "0"]  # 0: before training

    def reach(self, iteration: int, within_s: float = LONGEST_START_S) -> list[psutil.Process]:
        """Wait until this one is done and the next one is under way; the processes that the script has started."""
        deadline = time.monotonic() + within_s
        while iteration not in self.iterations:
            assert self._process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.05)
        return psutil.Process(self.pid).children(recursive=True)

    def end(self, within_s: float) -> int:
        """Wait for the end; the exit code."""
        return self._process.wait(within_s)

    def kill(self) -> None:
        """The script and, by their pact with it, its Ray."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def start(tmp_path):
    """`start(*options)`: one more Script of the same run."""
    scripts = []

    def go(*arguments: str) -> Script:
        scripts.append(Script(tmp_path, tmp_path / f"{len(scripts)}.log", *arguments))
        return scripts[-1]

    yield go
    for script in scripts:
        script.kill()


def left_of(processes: list[psutil.Process], within_s: float) -> list[psutil.Process]:
    """Those that still run then; a zombie has ended, whether or not somebody asks for its exit code."""
    deadline = time.monotonic() + within_s
    left = processes
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    return left


def numbers(storage: Path) -> dict[int, list[str]]:
    """Of each iteration, as often as it was trained: what must not depend on where the run had been stopped before."""
    (file,) = storage.glob(f"{NAME}/*/result.json")
    found = defaultdict(list)
    for result in map(json.loads, file.read_text().splitlines()):
        found[result["training_iteration"]].append(
            json.dumps([result[k] for k in ("tasks", "reward", "entropy", "optim")], sort_keys=True)
        )
    return found


@pytest.mark.slow
def test_a_run_that_is_stopped_three_ways_goes_on_each_time(start, tmp_path):
    script = start("--grace-s", "60")
    started = script.reach(5)
    kinds = " ".join(argument for process in started for argument in process.cmdline())
    assert all(kind in kinds for kind in ("gcs_server", "raylet", "ray::ASPO", "ray::VLLMEnvRunner", "envs.grading"))
    os.kill(script.pid, signal.SIGTERM)
    assert script.end(within_s=120) == 0, script.output
    assert left_of(started, within_s=10) == []
    assert script.iterations == [1, 2, 3, 4, 5, 6]
    (saved,) = re.findall(r"iteration 6 was the last, 6 is saved in (\S+)", script.output)
    assert len(list(Path(saved).parent.glob("checkpoint_*"))) == 2  # that one and the fourth iteration's
    assert "with --resume" in script.output

    script = start("--resume")
    started = script.reach(7)
    agents = [p for p in started if p.name().endswith("Agent")]  # they ask Ray's dead head for a minute, then they end
    script.kill()
    assert left_of([p for p in started if p not in agents], within_s=30) == []
    assert script.iterations == [7]

    script = start("--resume")
    started = script.reach(7)
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does
    assert script.end(within_s=60) == preemption.INTERRUPTED, script.output
    assert left_of(started, within_s=10) == []
    assert script.iterations == [7] and "iteration 7 was the last, 6 is saved in" in script.output
    assert left_of(agents, within_s=90) == []

    trained = numbers(tmp_path)
    assert sorted(trained) == [1, 2, 3, 4, 5, 6, 7]
    assert len(set(trained[7])) == 1, trained[7]


# ---- every way to end -----------------------------------------------------------------------------------------------


class Counter(tune.Trainable):
    def setup(self, config):
        self.count = 0

    def step(self):
        self.count += 1
        return {"count": self.count}

    def save_checkpoint(self, checkpoint_dir):
        Path(checkpoint_dir, "count").write_text(str(self.count))


class Signal(tune.Callback):
    """Sends this process a signal when the second iteration is done."""

    def __init__(self, signum: int):
        self.signum = signum

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if result["training_iteration"] == 2:
            os.kill(os.getpid(), self.signum)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "grace_s", "frequency", "code", "line"),
    [
        (signal.SIGTERM, 60, 0, 0, "iteration 3 was the last, 3 is saved in"),
        (signal.SIGTERM, 0, 1, 0, "iteration 2 was the last, 1 is saved in"),
        (signal.SIGTERM, 0, 0, preemption.NOTHING_SAVED, "nothing is saved yet"),
        (signal.SIGINT, 60, 1, preemption.INTERRUPTED, "iteration 2 was the last, 1 is saved in"),
    ],
)
def test_the_exit_code_and_a_line_tell_what_is_saved(
    ray_session, tmp_path, capfd, signum, grace_s, frequency, code, line
):
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    tuner = tune.Tuner(
        Counter,
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"training_iteration": 20},
            callbacks=[preemption.StopCallback(), Signal(signum)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=frequency),
            verbose=0,
        ),
    )
    with preemption.stoppable(grace_s) as stop:
        results = tuner.fit()
    with pytest.raises(SystemExit) as exit_:
        preemption.exit_if_stopped(stop, results)
    assert exit_.value.code == code
    assert line in capfd.readouterr().out
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == handlers


def test_a_second_signal_ends_at_once():
    with pytest.raises(SystemExit) as exit_, preemption.stoppable(grace_s=60):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert exit_.value.code == preemption.INTERRUPTED


if __name__ == "__main__":
    args = parser.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
    run(
        ASPOConfig()
        .environment("aspo/Arithmetic-v0", env_config={"digits": 3, "split": "train"})
        .llm(model=args.model, max_prompt_tokens=32, engine="transformers")  # it starts in half of vLLM's time
        .sampling(group_size=8, max_completion_tokens=8)
        .training(batch_prompts=16, minibatch_prompts=4, lr=1e-4)
        .evaluation(
            evaluation_interval=SAVED_EVERY, evaluation_duration=16, evaluation_config={"env_config": {"split": "test"}}
        )
        .debugging(seed=args.seed),
        args,
    )
