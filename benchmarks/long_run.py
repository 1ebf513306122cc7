"""A long run over a million tasks: what stays as it was, and what grows with the number of iterations.

    python benchmarks/long_run.py                                       # 500 iterations
    python benchmarks/long_run.py --iterations 2000
    python benchmarks/long_run.py --iterations 6 --rows 2000 --marks 2  # a small run

The rows are generated into a file, which is opened once, and a second time, in processes of their own. The run is
Tune's, with all its files, as the scripts in tuned_examples/ start it: the bundled model, the transformers engine, and
completions of one token, so that as little as possible but the driver's work is left. At each mark the table has the
seconds and CPU seconds per iteration since the mark before, the memory of each process without shared memory, and the
sizes of files. "driver" is what an iteration spends outside of sampling, update and sync. On a busy machine CPU seconds
say more than seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from memory_peak import peak_bytes, resident_bytes
from ray import tune
from timing import timed

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.recipe import run, run_options
from aspo_rllib.run.cluster import connect
from envs.data import open_tasks
from envs.grading.answers import MathAnswer

MARKS = [50, 200, 500, 1000, 2000]
MB = 1e6
# Processes by their title: this one runs Tune, the algorithm's has the learner, too.
TITLES = {"algorithm": "ray::ASPO", "runner": "ray::TextEnvRunner", "graders": "envs.grading.child"}
FILES = {"events": "events.out.tfevents*", "result.json": "result.json", "progress.csv": "progress.csv"}


def write_rows(path: Path, count: int) -> None:
    with path.open("w") as file:
        for i in range(count):
            file.write(f'{{"problem": "What is {i} plus one?", "answer": "{i + 1}"}}\n')


def open_here(path: str, cache: str) -> None:
    """Open the rows in this process; prints seconds, and megabytes that were added at the end and at the peak."""
    before = resident_bytes()
    seconds, table = timed(lambda: open_tasks(path, answer_type=MathAnswer, cache_dir=cache))
    assert table[len(table) - 1].prompt.startswith("What is")
    print(seconds, (resident_bytes() - before) / MB, (peak_bytes() - before) / MB)


def opened(path: Path, cache: Path) -> list[float]:
    """What `open_here` prints in a process of its own."""
    command = [sys.executable, __file__, "--open", str(path), str(cache)]
    *_, last = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [float(value) for value in last.split()]


def named_processes() -> Iterator[tuple[str, psutil.Process]]:
    """The run's processes, all of which descend from this one."""
    own = psutil.Process()
    yield "Tune", own
    for process in own.children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:  # it has just ended
            continue
        for name, title in TITLES.items():
            if title in command:
                yield name, process


def megabytes(folder: Path, pattern: str) -> float:
    return sum(path.stat().st_size for path in folder.glob(pattern)) / MB


class Marks(tune.Callback):
    """Prints a line of the table at each mark."""

    def __init__(self, marks: list[int]):
        self._marks = marks
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._cpu_s: dict[str, float] = {}
        self._last = (0, 0.0)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        done, stages = result["training_iteration"], result["time"]
        self._seconds["iteration"].append(result["time_this_iter_s"])
        work = sum(stages.get(name, 0.0) for name in ("wait_s", "update_s", "sync_s"))
        self._seconds["driver"].append(result["time_this_iter_s"] - work)
        if done == 1 or done in self._marks:
            self._print(done, trial)

    def _print(self, done: int, trial: Any) -> None:
        memory, cpu_s = defaultdict(float), defaultdict(float)
        for name, process in named_processes():
            memory[name] += process.memory_full_info().uss / MB
            cpu_s[name] += sum(process.cpu_times()[:2])
        # Tune's loggers write into a folder of their own; the algorithm writes into that of the results.
        sizes = {name: megabytes(Path(trial.local_path), pattern) for name, pattern in FILES.items()}
        sizes["histograms"] = megabytes(Path(trial.path), "histograms/*")
        sizes["state"] = megabytes(Path(trial.local_experiment_path), "experiment_state*")
        then, since = self._last
        now = time.perf_counter()
        if done > 1:
            count = done - then
            print(f"== iteration {done}, since {then}, per iteration:")
            print(f"   ms: all of it {1e3 * (now - since) / count:.1f}", end="")
            print("".join(f", {name} {1e3 * median(s):.1f}" for name, s in self._seconds.items()))
            spent = {name: 1e3 * (cpu_s[name] - self._cpu_s[name]) / count for name in cpu_s}
            print("   CPU ms: " + ", ".join(f"{name} {value:.1f}" for name, value in spent.items()))
            print("   MB in memory: " + ", ".join(f"{name} {value:.0f}" for name, value in memory.items()))
            print("   MB in files: " + ", ".join(f"{name} {value:.3f}" for name, value in sizes.items()), flush=True)
        self._seconds.clear()
        self._cpu_s, self._last = dict(cpu_s), (done, now)


def make_config(rows: Path, cache: Path) -> ASPOConfig:
    return (
        ASPOConfig()
        .environment("aspo/Math-v0", env_config={"data": str(rows), "system_prompt": "", "cache_dir": str(cache)})
        .llm(model=TINY_MODEL, engine="transformers", max_prompt_tokens=64)
        .sampling(group_size=2, max_completion_tokens=1)
        .training(batch_prompts=8, minibatch_prompts=4, num_epochs=1, lr=1e-7, kl_coef=0.0, drop_uniform_groups=False)
        .evaluation(evaluation_interval=0)
        .debugging(seed=0)
    )


def main() -> None:
    if sys.argv[1:2] == ["--open"]:
        open_here(*sys.argv[2:])
        return
    parser = run_options(__doc__, name="long_run", iterations=500)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--marks", type=int, nargs="+", default=MARKS, help="iterations; the last one is always a mark")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="long-run-") as folder:
        rows, cache, args.storage_path = Path(folder, "rows.jsonl"), Path(folder, "cache"), str(Path(folder, "results"))
        write_rows(rows, args.rows)
        for what in ("first", "second"):
            seconds, added, peak = opened(rows, cache)
            print(f"{args.rows:,} rows, {what} open: {seconds:.3f} s, {added:.0f} MB added, {peak:.0f} MB at the peak")
        store = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        print(f"file {rows.stat().st_size / MB:.0f} MB, store {store / MB:.0f} MB", flush=True)
        connect(address="local", include_dashboard=False)
        run(make_config(rows, cache), args, callbacks=[Marks([*args.marks, args.iterations])])


if __name__ == "__main__":
    main()
