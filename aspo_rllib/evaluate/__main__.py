"""Evaluate a model: `python -m aspo_rllib.evaluate --model DIR --env aspo/Math-v0 --data FILE --out DIR`.

This uses env runners and no learner. Run the same command again to continue an interrupted evaluation. The folder of
`--out` then contains:

- `results.json`: the settings, and the results of `scores.scores`;
- `completions/*.parquet`: every completion, with the columns of `samples.COLUMNS`; pandas reads the folder as a table;
- `settings.json`: the settings that the completions were sampled with.

With the same settings and seed, completions and results are equal to those of an evaluation during training.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aspo_rllib.evaluate.settings import Settings

_EXAMPLE = """example:
  python -m aspo_rllib.evaluate --model checkpoint/learner_group/hf --env aspo/Math-v0 \\
      --data tuned_examples/data/math_problems.jsonl --max-prompt-tokens 192 --max-completion-tokens 64 \\
      --out results/math_problems"""
INTERRUPTED = 128 + signal.SIGINT  # the exit code, as shells count them


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aspo_rllib.evaluate",
        description=__doc__.splitlines()[0],
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="folder or hub id; in a checkpoint: its folder learner_group/hf")
    parser.add_argument("--env", required=True, help="id of an env: aspo/Math-v0, or module:Mine-v0")
    parser.add_argument("--data", help="the env's data: a file, or a data set of the hub")
    parser.add_argument("--env-config", type=json.loads, default={}, metavar="JSON", help="the env's other arguments")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")

    def setting(option: str, meaning: str, **kwargs: Any) -> None:
        default = getattr(Settings, option.removeprefix("--").replace("-", "_"))
        parser.add_argument(option, default=default, help=f"{meaning}; default: %(default)s", **kwargs)

    setting("--k", "completions per prompt", type=int)
    parser.add_argument("--limit", type=int, help="evaluate only the first LIMIT tasks; default: all")
    setting("--temperature", "0 for the likeliest tokens, with --k 1", type=float)
    setting("--top-p", "sample from the likeliest tokens that have this probability together", type=float)
    setting("--top-k", "sample from this many likeliest tokens; 0 for all", type=int)
    setting("--min-p", "sample from tokens with at least this share of the likeliest one's probability", type=float)
    setting("--repetition-penalty", "divides the logits of tokens that are in the text; 1 for none", type=float)
    parser.add_argument("--stop", nargs="+", metavar="TEXT", help="texts that end a completion; default: none")
    parser.add_argument(
        "--reward-weights",
        type=json.loads,
        metavar="JSON",
        help='weight of each named reward, e.g. {"correct": 1, "format": 0.1}; default: the reward that the env gives',
    )
    setting("--max-prompt-tokens", "longer prompts are left out and counted", type=int)
    setting("--max-completion-tokens", "longer completions are cut off", type=int)
    parser.add_argument("--chat-template", metavar="JINJA", help="template, or its file; default: the tokenizer's own")
    parser.add_argument(
        "--chat-template-kwargs", type=json.loads, metavar="JSON", help='e.g. {"enable_thinking": false} for Qwen3'
    )
    setting("--template-date", "today's date for templates that write it into the prompt", metavar="YYYY-MM-DD")
    setting("--dtype", "of the engine", choices=("float32", "bfloat16"))
    setting("--engine", "what generates", choices=("vllm", "transformers"))
    setting("--seed", "of the completions", type=int)
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code in the model's folder")
    workers = parser.add_argument_group("workers")
    workers.add_argument("--num-env-runners", type=int, default=1, help="engines; default: %(default)s")
    workers.add_argument(
        "--num-gpus-per-env-runner", type=float, default=0, help="GPUs of each engine; default: %(default)s"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Raises SystemExit for a bad setting, and after Ctrl-C."""
    args = vars(_parser().parse_args(argv))
    try:
        _run(args)
    except KeyboardInterrupt:
        print(f"evaluate: stopped; the same command continues from what is in {args['out']}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _run(args: dict[str, Any]) -> None:
    settings = {name: args[name] for name in Settings.__dataclass_fields__}
    env_runners = {name: args[name] for name in ("num_env_runners", "num_gpus_per_env_runner")}
    if args["data"] is not None:
        settings["env_config"] = {**settings["env_config"], "data": args["data"]}
    # These imports are slow. Here they do not delay --help and messages about wrong options.
    import ray

    from aspo_rllib.evaluate.standalone import COMPLETIONS, evaluate
    from aspo_rllib.run.start_ray import start_ray

    out = args["out"]
    if not ray.is_initialized():
        start_ray(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        numbers = evaluate(Settings(**settings), out, **env_runners)
    except ValueError as error:
        raise SystemExit(f"evaluate: {error}") from None
    print(_table(numbers))
    print(f"results     {out / 'results.json'}\ncompletions {out / COMPLETIONS}")


def _table(numbers: dict[str, float | None]) -> str:
    """One line per result, with its standard error if it has one."""
    width = max(map(len, numbers))
    lines = []
    for name, value in numbers.items():
        if not name.endswith("_se"):
            error = numbers.get(f"{name}_se")
            shown = "-" if value is None else f"{value:.4g}"
            lines.append(f"{name:<{width}}  {shown}" + (f" ± {error:.2g}" if error is not None else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
