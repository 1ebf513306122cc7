"""The parent's view of a system of vs_trl.py: starts its process, controls it, and measures it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from process_tree import cpu_seconds, file_bytes, processes, watch_own_bytes
from vs_trl_job import Job

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Repeat:
    """Completions per second of one repeat: of CPU time, and of wall time."""

    per_cpu_s: float
    per_wall_s: float


class Side:
    """Starts `script` and controls it.

    threads: environment variables with the number of threads of its processes.

    Its methods raise RuntimeError, with the end of the script's stderr, if the script ends early.
    """

    def __init__(self, script: str, job: Job, threads: dict[str, str], log: Path):
        self._job, self._log = job, log
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
        environment = {
            **inherited,
            **threads,
            "TOKENIZERS_PARALLELISM": "false",
            "RAY_ADDRESS": "local",
            # Ray's workers and the graders must also find the modules of the benchmarks.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
        }
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / script), json.dumps(asdict(job))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )

    def warm_up(self) -> int:
        """Wait for the end of the warm-up; returns the peak memory in bytes."""
        with watch_own_bytes(self._process.pid) as own:
            self._expect("READY")
        return max(own) + file_bytes(self._process.pid)

    def repeat(self) -> Repeat:
        pid = self._process.pid
        self._go_on()
        self._expect("START")
        start, cpu = time.perf_counter(), cpu_seconds(pid)
        iterations = int(self._expect("END"))
        wall_s, cpu_s = time.perf_counter() - start, cpu_seconds(pid) - cpu
        completions = iterations * self._job.prompts * self._job.group_size
        return Repeat(completions / cpu_s, completions / wall_s)

    def finish(self) -> list[int]:
        """Let the script end; returns the lengths of all completions."""
        self._go_on()
        lengths = json.loads(self._expect("LENGTHS"))
        self._process.communicate()
        assert len(lengths) % (self._job.prompts * self._job.group_size) == 0, len(lengths)
        return lengths

    def stop(self) -> None:
        """Kill its processes that have not ended yet."""
        if self._process.poll() is None:
            for process in reversed(processes(self._process.pid)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()

    def _expect(self, start: str) -> str:
        """Wait for a line with this start; returns its rest. Other lines, from libraries, are ignored."""
        for line in self._process.stdout:
            if line.startswith(start):
                return line[len(start) :]
        raise RuntimeError(f"{' '.join(self._process.args)} ended early:\n{self._log.read_text()[-3000:]}")

    def _go_on(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
