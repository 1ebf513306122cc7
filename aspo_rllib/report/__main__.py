"""python -m aspo_rllib.report RESULTS_DIR: write the report of a Ray Tune experiment and print its page's path."""

import argparse
from pathlib import Path

from aspo_rllib.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aspo_rllib.report", description=__doc__)
    parser.add_argument("results_dir", type=Path, help="folder of a Tune experiment, or of several")
    parser.add_argument("--out", type=Path, help="folder for report.html and the PNGs (default: RESULTS_DIR/report)")
    parser.add_argument("--metric", default="evaluation/accuracy", help="metric to compare the methods by")
    parser.add_argument("--baseline", help="label of the method to compare with (default: grpo, or the first)")
    parser.add_argument("--last", type=int, default=3, help="number of last values in a final value (default: 3)")
    parser.add_argument("--plan", type=Path, help="the planned comparisons (default: RESULTS_DIR/plan.toml, if there)")
    args = parser.parse_args()
    try:
        path = write_report(
            args.results_dir, args.out, metric=args.metric, baseline=args.baseline, last=args.last, plan=args.plan
        )
    except ValueError as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    print(path)


if __name__ == "__main__":
    main()
