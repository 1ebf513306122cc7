"""python -m aspo_rllib.doctor: all checks, or the ones named, and what to do about what they found."""

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
from aspo_rllib import TINY_MODEL
from aspo_rllib.doctor import Finding, machine, packages
from aspo_rllib.doctor.imports import MODULES, VLLM, import_error, imports, remedy


@dataclass(frozen=True)
class Check:
    """What looks for one kind of problem, and which of imports.MODULES it needs for that."""

    run: Callable[[], Finding]
    needs: Sequence[str] = ()


def engine(model: str) -> Finding:
    """The last check, which imports what the others may have found missing."""
    from aspo_rllib.doctor import probe

    return probe.engine(model)


def checks(model: str) -> dict[str, Check]:
    """Every check by the name it is asked for, quick ones first."""
    disk, tmp, shm = os.getcwd(), tempfile.gettempdir(), "/dev/shm"
    room = {
        "disk": partial(machine.space, "disk", disk, machine.MIN_DISK_BYTES, "make room: checkpoints go there"),
        "tmp": partial(machine.space, "tmp", tmp, machine.MIN_DISK_BYTES, "make room, or set TMPDIR to a larger disk"),
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
    """What the check finds; or, where it cannot look, why not."""
    for module in check.needs:
        if error := import_error(module):
            return Finding(name, False, f"cannot look without {module}: {error}", remedy(module, error))
    return check.run()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 if all is well, else 1."""
    description = (aspo_rllib.doctor.__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m aspo_rllib.doctor", description=description)
    names = list(checks(TINY_MODEL))
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"only these of {', '.join(names)}; default: all")
    parser.add_argument("--model", default=TINY_MODEL, help="folder or hub id of the model that the engine boots")
    args = parser.parse_args(argv)
    if unknown := set(args.checks) - set(names):
        parser.error(f"unknown check {sorted(unknown)[0]!r}: choose from {', '.join(names)}")
    problems = defaultdict(list)  # by remedy: one cause may be found by several
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
