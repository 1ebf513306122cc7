"""Small runs of the benchmarks: their ratios beside those that docs/benchmarks.md records for the same sizes.

    python benchmarks/quick.py                  # all, under 4 minutes on two idle cores; `make bench-quick`
    python benchmarks/quick.py learner grading  # some of them
    python benchmarks/quick.py --record         # writes the ratios of this run into docs/benchmarks.md

Each script runs in a process of its own, interleaves its repeats and takes medians, as always. Ratios depend on the
sizes, so that those of small runs are not those of the page's other tables. A ratio that is worse than the recorded
one by more than 10 % is marked, and the exit status is then 1. On a busy machine run a marked one again.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- quick: written by benchmarks/quick.py --record -->\n", "<!-- end of quick -->\n"
NOT_RECORDED = "not yet"
TOLERANCE = 0.1
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Script:
    """One of the benchmarks.

    options, tiny: its options here, and for a test of this program.
    ratios: which of the ratios that its `main` returns are compared, and whether a higher one is better.
    """

    options: str
    tiny: str
    ratios: Mapping[str, bool]


SCRIPTS = {
    "iteration": Script(
        "--prompts 16 --tokens 64 --repeats 4",
        "--prompts 2 --tokens 4 --repeats 1",
        {
            "iteration, over generate + update": False,
            "iteration overlapped, over the longer": False,
            "runner, graded, over generate": False,
            "runner, each completion seeded, over generate": False,
            "driver, over receiving and sending alone": False,
        },
    ),
    "learner": Script(
        "--rollouts 8 --longest 320 --hidden 128 --layers 4 --vocab 4096 --repeats 4",
        "--rollouts 2 --longest 80 --hidden 64 --layers 1 --vocab 261 --repeats 1",
        {"learner, packed": False, "learner, padded": False},
    ),
    "packing": Script(
        "--rollouts 8 --longest 128 --group-size 8 --prompt-tokens 64 --hidden 128 --layers 2 --repeats 4",
        "--rollouts 2 --longest 20 --hidden 128 --layers 1 --repeats 1",
        {"packed": False, "shared": False},
    ),
    "grading": Script(
        "--pairs 500 --programs 20 --repeats 3",
        "--pairs 20 --programs 4 --repeats 1",
        {"MathGrader": True, "CodeGrader": True},
    ),
    "sync": Script("--repeats 5 --layers 6", "--repeats 1 --layers 1", {"transport": True}),
}


def ratios_of(name: str, options: str) -> dict[str, float]:
    """The ratios that the `main` of a script returns. Runs in a process of its own."""
    return importlib.import_module(name).main(options.split())


def run_apart(name: str, options: str) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(ratios_of, name, options).result()


def read_table(page: str) -> dict[tuple[str, str], float]:
    """The recorded ratios of a page, by script and name."""
    rows = re.findall(r"^\| `(\w+)\.py` \| (.+?) \| .+? \| ([\d.]+) \|$", _table(page), re.MULTILINE)
    return {(script, name): float(value) for script, name, value in rows}


def with_table(page: str, found: Mapping[tuple[str, str], float]) -> str:
    """The page with these ratios in place of the recorded ones; others stay."""
    kept = read_table(page) | dict(found)
    lines = ["| script | ratio | better | recorded |", "|---|---|---|---|"]
    for script, what in SCRIPTS.items():
        for name, higher in what.ratios.items():
            value = f"{kept[script, name]:.3g}" if (script, name) in kept else NOT_RECORDED
            lines.append(f"| `{script}.py` | {name} | {'higher' if higher else 'lower'} | {value} |")
    return page.replace(_table(page), "\n".join(lines) + "\n")


def _table(page: str) -> str:
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return page[start:end]


def has_fallen(found: float, recorded: float, higher_is_better: bool) -> bool:
    """Whether a ratio is worse than the recorded one by more than TOLERANCE."""
    better, worse = (found, recorded) if higher_is_better else (recorded, found)
    return better < (1 - TOLERANCE) * worse


def compare(found: Mapping[tuple[str, str], float], recorded: Mapping[tuple[str, str], float]) -> int:
    """Print all ratios; returns how many have fallen."""
    fallen = 0
    print(f"\n{'script':<10} {'ratio':<46} {'better':<7} {'recorded':>8} {'now':>8}")
    for (script, name), value in found.items():
        higher, then = SCRIPTS[script].ratios[name], recorded.get((script, name))
        fell = then is not None and has_fallen(value, then, higher)
        fallen += fell
        cells = f"{script:<10} {name:<46} {'higher' if higher else 'lower':<7}"
        print(f"{cells} {NOT_RECORDED if then is None else f'{then:.3g}':>8} {value:>8.3g}{'  FELL' if fell else ''}")
    return fallen


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"default: all of {', '.join(SCRIPTS)}")
    parser.add_argument("--record", action="store_true", help="write the ratios into docs/benchmarks.md")
    parser.add_argument("--tiny", action="store_true", help="only test this program: the ratios mean nothing")
    args = parser.parse_args(argv)
    if unknown := set(args.scripts) - SCRIPTS.keys():
        parser.error(f"SCRIPT {min(unknown)!r}: expected some of {', '.join(SCRIPTS)}")
    if args.record and args.tiny:
        parser.error("--record: expected a run without --tiny, whose ratios mean nothing")
    os.environ |= THREADS
    found: dict[tuple[str, str], float] = {}
    start = time.perf_counter()
    for script in args.scripts or SCRIPTS:
        what = SCRIPTS[script]
        print(f"\n== {script}.py {what.tiny if args.tiny else what.options}", flush=True)
        ratios = run_apart(script, what.tiny if args.tiny else what.options)
        found |= {(script, name): ratios[name] for name in what.ratios}
    page = PAGE.read_text(encoding="utf-8")
    fallen = compare(found, read_table(page))
    seconds, cores, load = time.perf_counter() - start, len(os.sched_getaffinity(0)), os.getloadavg()[1]
    print(f"{seconds:.0f} s on {cores} cores; mean load of the last five minutes, with this: {load:.1f}")
    if args.record:
        PAGE.write_text(with_table(page, found), encoding="utf-8")
        return 0
    if fallen:
        print(f"{fallen} of {len(found)} ratios fell by more than {TOLERANCE:.0%}")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())
