"""All checks that need a GPU in one program: first correct results, then speed, memory, weight sync and training.

    python benchmarks/gpu_check.py --out OUT                        # all stages, each in a separate process
    python benchmarks/gpu_check.py --out OUT --stages attention engine --budget-s 300
    python benchmarks/gpu_check.py --out OUT --tiny                 # tests this program on a CPU, in minutes

Stages are independent: if one fails, hangs, or cannot import vLLM or Ray, this is recorded and the next one starts. The
folder OUT then contains gpu.json, which is rewritten after every stage, and gpu.log with the output of the stages. The
intermediate results of the running stage are in a separate file. Models have random weights and real shapes; nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Stage:
    """A stage: runs module.name(sizes, note) in a separate process, for at most limit_s.

    needs: modules that must be importable.
    """

    module: str
    limit_s: int
    needs: tuple[str, ...] = ()


# The most important stages come first.
STAGES = {
    "versions": Stage("gpu_parts", 60),
    "attention": Stage("gpu_parts", 60),
    "logprobs": Stage("gpu_parts", 60),
    "learner": Stage("gpu_steps", 160),
    "kernels": Stage("gpu_steps", 150),
    # vLLM alone takes 60 to 90 s to start on a machine with an empty compile cache.
    "engine": Stage("gpu_runs", 200, ("ray",)),
    "shared": Stage("gpu_runs", 260, ("ray",)),
    "trl": Stage("gpu_trl", 180, ("trl", "datasets")),
    "quickstart": Stage("gpu_runs", 220, ("ray",)),
    "overlap": Stage("gpu_runs", 240, ("ray",)),
    "tests": Stage("gpu_runs", 240, ("ray", "vllm", "pytest")),
}
# The libraries read these when they are imported. There is no network, and JAX would allocate the GPU's memory.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cpu",
    "RLLIB_TEST_NO_JAX_IMPORT": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # the kit has no flashinfer
}


class Notes:
    """The results of a stage so far, in a file, which remains if the stage is killed."""

    def __init__(self, path: Path):
        self._path = path
        self.found: dict[str, Any] = {}

    def __call__(self, **values: Any) -> None:
        self.found |= values
        self._path.write_text(json.dumps(self.found, default=float))


def run_here(name: str, tiny: bool, path: Path) -> None:
    """Run a stage in this process; raises its errors."""
    from gpu_models import FULL, TINY

    stage = getattr(importlib.import_module(STAGES[name].module), name)
    stage(TINY if tiny else FULL, Notes(path))


def run_apart(name: str, args: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """Run a stage in a separate process; returns its results and how it ended."""
    missing = [module for module in STAGES[name].needs if find_spec(module) is None]
    if missing:
        return {"ok": False, "error": f"skipped: no {', '.join(missing)}", "seconds": 0.0, "found": {}}
    path = args.out / f"{name}.part"
    command = [sys.executable, __file__, "--out", args.out, "--run", name, *(["--tiny"] if args.tiny else [])]
    start, error = time.perf_counter(), ""
    with (args.out / "gpu.log").open("a") as log:
        log.write(f"\n==== {name}\n")
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit_s)
            error = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            error = f"not done within {limit_s:.0f} s"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and all processes that it has left
        process.wait()
    found = json.loads(path.read_text()) if path.exists() else {}
    path.unlink(missing_ok=True)
    error = found.pop("error", "") or error
    return {"ok": not error, "error": error, "seconds": round(time.perf_counter() - start, 1), "found": found}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a/b": 1}."""
    items: dict[str, Any] = {}
    for name, value in values.items():
        items |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return items


def show(name: str, result: dict[str, Any]) -> None:
    print(
        f"== {name}: {'ok' if result['ok'] else 'FAILED, ' + result['error'][:300]}, {result['seconds']} s", flush=True
    )
    for key, value in flat(result["found"]).items():
        print(f"   {key} {value:.4g}" if isinstance(value, float) else f"   {key} {value}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json and gpu.log")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument(
        "--budget-s", type=float, default=900.0, help="seconds for all stages; stages that do not fit are skipped"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU, ten times the time")
    parser.add_argument("--engine", choices=("vllm", "transformers"), help="default: vllm if it can be imported")
    parser.add_argument("--weights", default="auto", help="weight_transport of the stages that sync")
    parser.add_argument("--run", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        notes = args.out / f"{args.run}.part"
        try:
            run_here(args.run, args.tiny, notes)
        except BaseException as error:
            traceback.print_exc()
            kept = json.loads(notes.read_text()) if notes.exists() else {}
            kept["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
            notes.write_text(json.dumps(kept))
            raise SystemExit(1) from None
        return
    os.environ.update(ENVIRONMENT)
    engine = args.engine or ("vllm" if find_spec("vllm") is not None else "transformers")
    os.environ |= {"GPU_CHECK_ENGINE": engine, "GPU_CHECK_WEIGHTS": args.weights}
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")])
    )
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.perf_counter() + args.budget_s
    results: dict[str, Any] = {}
    for name in args.stages:
        left = end - time.perf_counter()
        limit_s = STAGES[name].limit_s * (10 if args.tiny else 1)
        if left < min(30, limit_s):
            results[name] = {"ok": False, "error": "skipped: no time left", "seconds": 0.0, "found": {}}
        else:
            results[name] = run_apart(name, args, min(limit_s, left))
        (args.out / "gpu.json").write_text(json.dumps(results, indent=1))
        show(name, results[name])
    failed = [name for name, result in results.items() if not result["ok"]]
    print(f"{len(results) - len(failed)} of {len(results)} stages ok{'; not: ' + ', '.join(failed) if failed else ''}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
