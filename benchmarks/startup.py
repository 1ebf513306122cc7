"""The cost of a start: CPU seconds of imports and --help, and of every process until the end of the first iteration.

    python benchmarks/startup.py                              # this checkout
    python benchmarks/startup.py --checkouts ../before .      # two of them, in turns

Each command is run `--runs` times, alternating between the checkouts, and medians are shown. A difference between two
checkouts is significant only if it is larger than the difference between two runs of the same checkout.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import psutil

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import aspo_rllib": ["-c", "import aspo_rllib"],
    "from aspo_rllib.losses import policy_loss": ["-c", "from aspo_rllib.losses import policy_loss"],
    "python -m aspo_rllib.evaluate --help": ["-m", "aspo_rllib.evaluate", "--help"],
    "python -m aspo_rllib.report --help": ["-m", "aspo_rllib.report", "--help"],
    "python tuned_examples/arithmetic_aspo.py --help": ["tuned_examples/arithmetic_aspo.py", "--help"],
    "python tuned_examples/aspo_vs_grpo.py --help": ["tuned_examples/aspo_vs_grpo.py", "--help"],
}
# A pattern in a process's command line, or in the name that Ray gives it -> the name of its kind.
KINDS = {
    r"ray::ASPO": "algorithm with learner",
    r"ray::(VLLM|Text)EnvRunner": "env runner with engine",
    r"envs\.grading": "graders",
    r"arithmetic_aspo\.py": "script",
    r"raylet|gcs_server|/ray/|ray::": "Ray's own",
}
FIRST_ITERATION = re.compile(r"\b1/1\b")
INTERVAL_S = 0.1


def command_cost(checkout: Path, arguments: list[str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script = (
        "import resource, runpy, sys, atexit\n"  # the child reports its own peak; RUSAGE_CHILDREN keeps the largest
    )
    script += (
        "atexit.register(lambda: print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))\n"
    )
    if arguments[0] == "-c":
        script += arguments[1]
    elif arguments[0] == "-m":
        script += f"sys.argv = {arguments[1:]!r}; runpy.run_module({arguments[1]!r}, run_name='__main__')"
    else:
        script += f"sys.argv = {arguments!r}; runpy.run_path({arguments[0]!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=checkout, env=_environment(checkout), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, int(re.search(r"PEAK (\d+)", done.stderr)[1]) / 1024


def first_iteration(checkout: Path) -> tuple[float, dict[str, tuple[float, float]]]:
    """Wall seconds until the end of the quickstart's first iteration; CPU seconds and peak MB by kind of process."""
    with tempfile.TemporaryDirectory() as storage:
        command = ["tuned_examples/arithmetic_aspo.py", "--iterations", "1", "--storage-path", storage]
        output = Path(storage) / "output.txt"
        start = time.perf_counter()
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-u", *command], cwd=checkout, env=_environment(checkout), stdout=file, stderr=file
            )
        cpu_s: dict[int, float] = {}
        peak: dict[tuple[int, str], float] = defaultdict(float)  # by kind, too: a child starts as a copy of its parent
        kinds: dict[int, str] = {}
        while process.poll() is None and not FIRST_ITERATION.search(output.read_text()):
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                try:
                    with one.oneshot():
                        times, kind = one.cpu_times(), _kind(" ".join(one.cmdline()))
                        cpu_s[one.pid] = times.user + times.system
                        peak[one.pid, kind] = max(peak[one.pid, kind], one.memory_info().rss / 1e6)
                except psutil.Error:  # the process has just ended
                    continue
                kinds[one.pid] = kind
            time.sleep(INTERVAL_S)
        wall_s = time.perf_counter() - start
        assert FIRST_ITERATION.search(output.read_text()), output.read_text()
        process.wait()
    costs = {kind: (0.0, 0.0) for kind in KINDS.values()}
    for pid, kind in kinds.items():
        costs[kind] = (costs[kind][0] + cpu_s[pid], costs[kind][1] + peak[pid, kind])
    return wall_s, costs


def _kind(command: str) -> str:
    return next((kind for pattern, kind in KINDS.items() if re.search(pattern, command)), "Ray's own")


def _environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout), "RAY_ADDRESS": "local"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkouts", nargs="+", type=Path, default=[Path()], help="folders to compare")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    checkouts = [path.resolve() for path in args.checkouts]
    found: dict[str, dict[Path, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(args.runs):
        for checkout in checkouts:
            for name, arguments in COMMANDS.items():
                found[name][checkout].append(command_cost(checkout, arguments))
            wall_s, costs = first_iteration(checkout)
            found["first iteration: wall seconds"][checkout].append((wall_s, sum(mb for _, mb in costs.values())))
            for kind, cost in costs.items():
                found[f"first iteration: {kind}"][checkout].append(cost)
    names = " | ".join(f"{path.name}: CPU s | {path.name}: peak MB" for path in checkouts)
    print(f"| | {names} |\n|---|{'---|' * 2 * len(checkouts)}")
    for name, by_checkout in found.items():
        cells = [
            f"{median(s for s, _ in runs):.2f} | {median(mb for _, mb in runs):.0f}" for runs in by_checkout.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
