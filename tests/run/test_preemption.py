"""Signals to a training script: SIGTERM, Ctrl-C and kill -9 leave no process behind, and --resume loses nothing.

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
from counting import Counter
from ray import tune
from ray._private.dict import flatten_dict

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.recipe import options, run
from aspo_rllib.run import preemption
from aspo_rllib.run.start_ray import start_ray

ITERATIONS, SAVED_EVERY = 8, 4
NAME = "signals"
LONGEST_START_S = 600  # on a busy machine; a quiet one takes half a minute
parser = options(
    "Sums.", name=NAME, model=TINY_MODEL, data="none", iterations=ITERATIONS, num_env_runners=1, num_learners=0
)


class Script:
    """A training under way in a process group of its own, as a terminal starts it; what it prints goes to a file."""

    def __init__(self, log: Path, storage: Path, *arguments: str):
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                # A process that a shell started in the background ignores SIGINT, and its children inherit that.
                ["env", "--default-signal=INT", sys.executable, __file__, "--storage-path", str(storage), *arguments],
                env=os.environ | {"RAY_ADDRESS": "local"},
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
        found = re.findall(r"^\w+ +(\d+)/", self.output, re.MULTILINE)
        return [int(n) for n in found if n != "0"]  # 0: before training

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
    """`start(storage, *options)`: one more Script of the run that is stored there."""
    scripts = []

    def go(storage: Path, *arguments: str) -> Script:
        scripts.append(Script(tmp_path / f"{len(scripts)}.log", storage, *arguments))
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


# What of a result is measured in time, names this process, or says what Tune did with it.
OF_THE_MOMENT = re.compile(
    r"^(config|perf)/|^time|^(tokens_per_s|grader/seconds|date|pid|hostname|node_ip|trial_id|iterations_since_restore)$"
    r"|^(done|should_checkpoint|checkpoint_dir_name)$"
    r"|trainable_parameters$"  # RLlib gives them in the first result of each start alone
)


def numbers(results: Path) -> dict[int, list[dict[str, str]]]:
    """Of each iteration, as often as it was trained, every metric that does not depend on the moment, as written."""
    (file,) = results.glob(f"{NAME}/*/result.json")
    found = defaultdict(list)
    for result in map(json.loads, file.read_text().splitlines()):
        flat = flatten_dict(result)
        kept = {name: json.dumps(flat[name]) for name in flat if not OF_THE_MOMENT.search(name)}
        found[result["training_iteration"]].append(kept)
    return found


def learner_in(checkpoint: str) -> dict[str, bytes]:
    """Weights, optimizer and the loadable model of a checkpoint, by file."""
    folder = Path(checkpoint, "learner_group")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".metadata")  # has ids of its own
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_is_the_one_that_never_was(start, tmp_path):
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    script = start(undisturbed, "--iterations", "100")
    started = script.reach(ITERATIONS + 1)  # then the checkpoint of the one before is known
    os.killpg(script.pid, signal.SIGINT)  # as a terminal does
    assert script.end(within_s=180) == preemption.INTERRUPTED, script.output
    assert left_of(started, within_s=10) == []
    (undisturbed_checkpoint,) = re.findall(r"was the last, 8 is saved in (\S+)", script.output)
    assert "with --resume" in script.output

    script = start(stopped, "--grace-s", "60")
    started = script.reach(5)
    kinds = " ".join(argument for process in started for argument in process.cmdline())
    assert all(kind in kinds for kind in ("gcs_server", "raylet", "ray::ASPO", "ray::TextEnvRunner", "envs.grading"))
    os.kill(script.pid, signal.SIGTERM)
    assert script.end(within_s=240) == 0, script.output
    assert left_of(started, within_s=10) == []
    assert script.iterations == [1, 2, 3, 4, 5, 6]
    (saved,) = re.findall(r"iteration 6 was the last, 6 is saved in (\S+)", script.output)
    assert len(list(Path(saved).parent.glob("checkpoint_*"))) == 2  # that one and the fourth iteration's

    script = start(stopped, "--resume")
    started = script.reach(7)
    agents = [p for p in started if p.name().endswith("Agent")]  # they ask Ray's dead head for a minute, then they end
    script.kill()
    assert left_of([p for p in started if p not in agents], within_s=30) == []
    assert script.iterations == [7]

    script = start(stopped, "--resume")
    assert script.end(within_s=LONGEST_START_S) == 0, script.output
    assert script.iterations == [7, 8]
    assert left_of(agents, within_s=90) == []

    expected, trained = numbers(undisturbed), numbers(stopped)
    assert sorted(trained) == list(range(1, ITERATIONS + 1))
    for iteration, times in trained.items():
        assert len(expected[iteration][0]) > 100
        assert all(again == expected[iteration][0] for again in times), iteration
    (checkpoint,) = re.findall(r"^checkpoint  (\S+)", script.output, re.MULTILINE)
    weights = learner_in(checkpoint)
    assert {"state/__0_0.distcp", "hf/model.safetensors"} < weights.keys()
    assert weights == learner_in(undisturbed_checkpoint)


# ---- every way to end -----------------------------------------------------------------------------------------------


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


def test_trials_that_are_done_are_not_nothing(tmp_path, capfd):
    stop = preemption.Stop(grace_s=60)
    stop.on_signal(signal.SIGTERM, None)
    checkpoint = tune.Checkpoint.from_directory(tmp_path)
    done = tune.Result(metrics={"done": True}, checkpoint=checkpoint, error=None, path=str(tmp_path))
    waiting = tune.Result(metrics={}, checkpoint=None, error=None, path=str(tmp_path))
    with pytest.raises(SystemExit) as exit_:
        preemption.exit_if_stopped(stop, [done, waiting])
    assert exit_.value.code == 0
    out = capfd.readouterr().out
    assert (
        "trials that are done: 1" in out
        and "with --resume continues from there" in out
        and "nothing is saved" not in out
    )


def test_a_second_signal_ends_at_once():
    with pytest.raises(SystemExit) as exit_, preemption.stoppable(grace_s=60):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert exit_.value.code == preemption.INTERRUPTED


if __name__ == "__main__":
    args = parser.parse_args()
    start_ray(num_cpus=4, include_dashboard=False, logging_level="ERROR")
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
