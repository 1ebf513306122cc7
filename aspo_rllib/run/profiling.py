"""Shows where a run spends its time: a table of the stages, and a trace of one iteration."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback

from aspo_rllib.run.trial_folder import trial_folder

if TYPE_CHECKING:
    from aspo_rllib.run.base_algorithm import TextAlgorithm

FOLDER = "profile"
# Metrics under time/. The driver runs the stages in _STAGES one after the other. Those in _INSIDE are parts of them, or
# run in parallel with them.
_STAGES = {
    "wait_s": "waiting for rollouts",
    "batch_s": "advantages, batches",
    "update_s": "learners' update",
    "sync_s": "weight sync and check",
}
_INSIDE = {
    "generate_s": "(runners generated)",
    "grade_s": "(runners waited for graders)",
    "old_logprobs_s": "(scoring before the first step)",
}


class StageTimes:
    """Adds up the times of the stages over iterations.

    Call `add` with each of Tune's results. `table` needs at least one of them; `iterations` counts them.
    """

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self.iterations = 0

    def add(self, result: Mapping[str, Any]) -> None:
        self.iterations += 1
        # A stage that did not run in an iteration may be NaN.
        self._seconds.update({name: seconds for name, seconds in result["time"].items() if seconds == seconds})
        self._seconds["total_s"] += result["time_this_iter_s"]

    def table(self) -> str:
        """Seconds per iteration and share of each stage. Labels in brackets are inside or parallel to other stages."""
        rest = self._seconds["total_s"] - sum(self._seconds[name] for name in _STAGES)
        lines = [(label, self._seconds[name]) for name, label in (_STAGES | _INSIDE).items()]
        lines.insert(len(_STAGES), ("evaluation, the rest", rest))
        total = self._seconds["total_s"]
        rows = [f"  {label:<34} {s / self.iterations:>8.2f} s {s / total:>5.0%}" for label, s in lines]
        return "\n".join([f"time of an iteration, mean of {self.iterations}", *rows])


class ProfileCallback(RLlibCallback):
    """Traces one iteration: every learner, every runner's engine, and Ray's own timeline.

    The folder `profile/` in the trial's folder then contains a Chrome trace of each process (chrome://tracing,
    Perfetto) and `ray_timeline.json`. A traced iteration is slower than the others.

    iteration: number of the traced iteration, >= 2, because the first one is a warm-up.
    """

    iteration = 3

    def on_train_result(self, *, algorithm: TextAlgorithm, result: dict[str, Any], **kwargs: Any) -> None:
        done = algorithm.iterations_trained
        if done == self.iteration - 1:
            algorithm.learner_group.on_all(start_trace)
            _on_engines(algorithm, start_trace)
        if done == self.iteration:
            folder = trial_folder(algorithm) / FOLDER
            for number, trace in enumerate(algorithm.learner_group.on_all(stop_trace)):
                _write(folder / f"learner_{number}.json", trace)
            for number, trace in enumerate(_on_engines(algorithm, stop_trace)):
                _write(folder / f"runner_{number}.json", trace)
            ray.timeline(str(folder / "ray_timeline.json"))


def _on_engines(algorithm: TextAlgorithm, func: Callable[..., Any]) -> list[Any]:
    """`func` in every runner's engine thread, where the profiler sees the engine's work."""
    return algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner.on_engine_thread(func), local_env_runner=False
    )


def start_trace(worker: Any) -> None:
    """Start tracing the current thread."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    worker.trace = torch.profiler.profile(activities=activities)
    worker.trace.start()


def stop_trace(worker: Any) -> bytes:
    """Stop tracing; returns a Chrome trace as JSON. The driver writes the file, as this node may not see its folder."""
    worker.trace.stop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        worker.trace.export_chrome_trace(str(path))
        return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
