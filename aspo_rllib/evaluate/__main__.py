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
from collections.abc import Sequence
from pathlib import Path

from aspo_rllib.evaluate.settings import Settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aspo_rllib.evaluate", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="folder or hub id; in a checkpoint: its folder learner_group/hf")
    parser.add_argument("--env", required=True, help="id of an env: aspo/Math-v0, or module:Mine-v0")
    parser.add_argument("--data", help="the env's data: a file, or a data set of the hub")
    parser.add_argument("--env-config", type=json.loads, default={}, metavar="JSON", help="the env's other arguments")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--k", type=int, default=Settings.k, help="completions per prompt")
    parser.add_argument("--limit", type=int, help="evaluate only the first LIMIT tasks; default: all")
    parser.add_argument("--temperature", type=float, default=Settings.temperature)
    parser.add_argument("--top-p", type=float, default=Settings.top_p)
    parser.add_argument("--max-prompt-tokens", type=int, default=Settings.max_prompt_tokens)
    parser.add_argument("--max-completion-tokens", type=int, default=Settings.max_completion_tokens)
    parser.add_argument("--chat-template", metavar="JINJA", help="template, or its file; default: the tokenizer's own")
    parser.add_argument(
        "--chat-template-kwargs", type=json.loads, metavar="JSON", help='e.g. {"enable_thinking": false} for Qwen3'
    )
    parser.add_argument("--dtype", default=Settings.dtype, choices=("float32", "bfloat16"))
    parser.add_argument("--engine", default=Settings.engine, choices=("vllm", "transformers"))
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--num-env-runners", type=int, default=1, help="engines")
    parser.add_argument("--num-gpus-per-env-runner", type=float, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = vars(_parser().parse_args(argv))
    out, data = args.pop("out"), args.pop("data")
    env_runners = {name: args.pop(name) for name in ("num_env_runners", "num_gpus_per_env_runner")}
    if data is not None:
        args["env_config"] = {**args["env_config"], "data": data}
    # These imports are slow. Here they do not delay --help and messages about wrong options.
    import ray

    from aspo_rllib.evaluate.standalone import COMPLETIONS, evaluate
    from aspo_rllib.run.start_ray import start_ray

    if not ray.is_initialized():
        start_ray(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        numbers = evaluate(Settings(**args), out, **env_runners)
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
