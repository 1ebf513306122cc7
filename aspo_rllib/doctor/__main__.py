"""python -m aspo_rllib.doctor: runs all checks, or the named ones, and prints a remedy for each problem."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import aspo_rllib.doctor
from aspo_rllib.doctor import Finding, machine, packages
from aspo_rllib.doctor.imports import MODULES, VLLM, import_error, imports, remedy
from aspo_rllib.tiny_model import TINY_MODEL


@dataclass(frozen=True)
class Check:
    """A function that looks for one kind of problem, and the modules of imports.MODULES that it needs."""

    run: Callable[[], Finding]
    needs: Sequence[str] = ()


def engine(model: str) -> Finding:
    """The last check. Its imports are inside the function, because the other checks may find that they are missing."""
    from aspo_rllib.doctor import probe

    return probe.engine(model)


def checks(model: str) -> dict[str, Check]:
    """Every check by its name on the command line, fast ones first."""
    disk, tmp, shm = os.getcwd(), tempfile.gettempdir(), "/dev/shm"
    room = {
        "disk": partial(machine.space, "disk", disk, machine.MIN_DISK_BYTES, "free space: checkpoints go there"),
        "tmp": partial(machine.space, "tmp", tmp, machine.MIN_DISK_BYTES, "free space, or set TMPDIR to a larger disk"),
        "shm": partial(machine.space, shm, shm, machine.MIN_SHM_BYTES, "in Docker: --shm-size=8g or more"),
    }
    return {
        "versions": Check(packages.versions),
        "requirements": Check(packages.requirements, needs=["packaging"]),
        "duplicates": Check(packages.duplicates),
        "vllm": Check(packages.engine_package),
        "torch": Check(packages.torch_family),
        "gmpy2": Check(packages.gmpy2),
        "imports": Check(imports),
        "machine": Check(machine.cpus_and_memory, needs=["psutil"]),
        "gpu": Check(machine.gpus, needs=["torch"]),
        **{name: Check(run) for name, run in room.items()},
        "sandbox": Check(machine.sandbox, needs=["gymnasium"]),
        "ray": Check(machine.ray_cluster, needs=["ray"]),
        "engine": Check(partial(engine, model), needs=[name for name in MODULES if name != VLLM]),
    }


def look(name: str, check: Check) -> Finding:
    """Run a check. If a module that it needs cannot be imported, the finding is that error."""
    for module in check.needs:
        if error := import_error(module):
            return Finding(name, False, f"cannot run without {module}: {error}", remedy(module, error))
    return check.run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 if no check found a problem, else 1."""
    description = (aspo_rllib.doctor.__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m aspo_rllib.doctor", description=description)
    names = list(checks(TINY_MODEL))
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"only these of {', '.join(names)}; default: all")
    parser.add_argument("--model", default=TINY_MODEL, help="folder or hub id of the model that the engine loads")
    args = parser.parse_args(argv)
    if unknown := set(args.checks) - set(names):
        parser.error(f"unknown check {sorted(unknown)[0]!r}: choose from {', '.join(names)}")
    problems = defaultdict(list)  # by remedy, because several checks may find the same cause
    for name, check in checks(args.model).items():
        if not args.checks or name in args.checks:
            finding = look(name, check)
            print(f"{'ok' if finding.ok else 'PROBLEM':<8} {finding.name:<12} {finding.detail}", flush=True)
            if not finding.ok:
                problems[finding.remedy].append(finding.name)
    print("\n".join(["", *(f"{', '.join(names)}: {remedy}" for remedy, names in problems.items())]))
    if not problems:
        print("all is well")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
