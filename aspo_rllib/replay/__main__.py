"""Run a saved batch through the learner again: `python -m aspo_rllib.replay RUN --iteration 12`.

The run must have been trained with `.debugging(saved_batches=...)`. It needs no engine, no Ray cluster and no GPU. The
output has a line per optimizer step, and then the completions and tokens that weigh most in one step's gradient norm.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

_EXAMPLE = """example:
  python tuned_examples/arithmetic_aspo.py --set saved_batches=20
  python -m aspo_rllib.replay results/arithmetic_aspo_seed0 --iteration 12 --set clip_high=0.1"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aspo_rllib.replay",
        description="Run a saved batch of rollouts through the learner again, without an engine.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a trial, or of an experiment in which one trial saved batches")
    add("--iteration", type=int, help="whose batch; default: the last one that is saved")
    add("--checkpoint", type=Path, help="where the weights come from; default: the latest one in RUN from before")
    add("--catch-up", action="store_true", help="first replay the saved batches since that checkpoint")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a setting of the run; repeatable")
    add("--step", type=int, help="the optimizer step to look into; default: the one with the largest gradient norm")
    add("--top", type=int, default=5, help="completions and tokens to show; default: %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Raises SystemExit for what is missing or not legal."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.top < 1:
        parser.error(f"--top {args.top}: expected an int >= 1.")
    # These imports are slow. Here they do not delay --help and messages about wrong options.
    from aspo_rllib.model.companions import load_tokenizer
    from aspo_rllib.replay import table
    from aspo_rllib.replay.replaying import replay
    from aspo_rllib.replay.saved import find_trial

    logging.getLogger("ray").setLevel(logging.ERROR)  # Ray warns about its own use of deprecated names

    try:
        done = replay(
            find_trial(args.run),
            args.iteration,
            checkpoint=args.checkpoint,
            catch_up=args.catch_up,
            assignments=args.set,
        )
    except ValueError as error:
        raise SystemExit(f"replay: {error}") from None
    groups = done.batch.groups
    sizes = f"{len(groups)} prompts, {sum(len(group.rollouts) for group in groups)} completions"
    print(f"batch       iteration {done.batch.iteration}: {sizes}, {len(done.rollouts)} of them trained on")
    print(f"{table.describe_start(done)}\n")
    print(f"{table.describe_steps(done)}\n")
    number = table.largest_step(done) if args.step is None else args.step
    if not 1 <= number <= len(done.steps):
        raise SystemExit(f"replay: --step {number}: expected 1 to {len(done.steps)}.")
    config = done.config
    tokenizer = load_tokenizer(
        config.base_model, trust_remote_code=config.trust_remote_code, chat_template=config.chat_template
    )
    print(table.describe_step(done, number, tokenizer, args.top))


if __name__ == "__main__":
    main()
