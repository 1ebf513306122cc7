"""Pretrain the tiny model of the quickstart on sums, most of which forget the carry.

    python tuned_examples/pretrain_tiny_model.py --out aspo_rllib/tiny_model

The demonstrations contain mistakes, as scraped data does: a share of them (`--carry-share`) adds correctly, the
others add column by column and drop every carry. The model learns both. It then samples the right answer
sometimes, and finds it rarely by greedy decoding; RL with a verifiable reward has to make it frequent. The script
takes a few minutes on one CPU core. At the end it evaluates the model on held-out tasks and writes the model card.
"""

import argparse
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch-size", type=int, default=128, help="demonstrations per step")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--digits", type=int, default=3, help="digits of both operands")
    parser.add_argument("--carry-share", type=float, default=0.26, help="share of demonstrations that carry")
    parser.add_argument("--eval-tasks", type=int, default=256, help="held-out tasks of the final evaluation")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from tuned_examples.tiny_model_training import pretrain  # imported late, because it imports transformers

    pretrain(args)


if __name__ == "__main__":
    main()
