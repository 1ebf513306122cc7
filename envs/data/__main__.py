"""Show what a run would read from some data: `python -m envs.data FILE`, with the options of the env.

It prints the recognised layout, whole prompts with their golds, the load report, and the number of questions that the
splits share. With `--model`, prompts are shown in the chat template of that model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from envs.chat import render, set_chat_template
from envs.code import CodeEnv
from envs.data.convert import splits_of
from envs.data.sources import find_sources
from envs.data.splits import TRAIN
from envs.grading.answers import MathAnswer, NoAnswer
from envs.layouts import layout_name
from envs.math import MathEnv
from envs.prompts import PromptsEnv
from envs.table_env import TableEnv

_ENVS = {"math": MathEnv, "code": CodeEnv, "prompts": PromptsEnv}
_MAX_GOLD_CHARS = 400


def show(data: Any, env_name: str, options: dict[str, Any], num_prompts: int, tokenizer: Any, template: Any) -> None:
    """Print everything; opening the data may raise."""
    sources = find_sources(data, options.get("split"))
    splits = sorted((split for split in splits_of(sources) if split is not None), key=lambda split: split != TRAIN)
    if options.get("held_out_frac") is not None and splits in ([], [TRAIN]):
        splits = [TRAIN, "test"]
    shown = [options["split"]] if options.get("split") else splits or [None]
    envs = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report has the same text
        for split in dict.fromkeys([*shown, *splits]):
            envs[split] = _ENVS[env_name](data, **options | ({"split": split} if split else {}))
    first = next((row.content for source in sources for row in source.rows() if row.content is not None), {})
    layout = "the prompt alone" if env_name == "prompts" else layout_name(first, options.get("columns"))
    print(f"layout   {layout}")
    if splits:
        print(f"splits   {', '.join(splits)}")
    for split, env in envs.items():
        print(f"{'report' if split is None else split:<8} {env.tasks.report.details()}")
    for (one, a), (other, b) in combinations(envs.items(), 2):
        shared = int(np.isin(b.questions(), a.questions()).sum())
        print(f"shared   {shared} of the {len(b)} questions of {other} are in {one}, too")
    env = envs[shown[0]]
    for index in range(min(num_prompts, len(env))):
        print(
            f"\n--- task {index}, data_source {env.task(index).data_source}\n{_prompt(env, index, tokenizer, template)}"
        )
        print(f"--- gold: {_gold(env, index)}")


def _prompt(env: TableEnv, index: int, tokenizer: Any, template_kwargs: Any) -> str:
    """The whole prompt, in the model's template or, without a model, message by message."""
    task = env.task(index)
    messages = [*task.history, {"role": "user", "content": task.prompt}]
    if env.system_prompt and not any(message["role"] == "system" for message in messages):
        messages.insert(0, {"role": "system", "content": env.system_prompt})
    if task.templated:
        return task.prompt + env.answer_prefix
    if tokenizer is not None:
        return render(tokenizer, messages, template_kwargs) + env.answer_prefix
    return "\n".join(f"[{message['role']}] {message['content']}" for message in messages) + (
        f"\n[assistant] {env.answer_prefix}" if env.answer_prefix else ""
    )


def _gold(env: TableEnv, index: int) -> str:
    answer = env.task(index).answer
    if isinstance(answer, NoAnswer):
        return f"none; the rewards are {', '.join(env.reward_names or ())}"
    if isinstance(answer, MathAnswer):
        gold = (" and " if answer.require_all else " or ").join(answer.golds)
    else:
        gold = f"{answer.kind} tests of {answer.fn_name or 'the program'}: {answer.check or answer.inputs[:1]}"
    return gold if len(gold) <= _MAX_GOLD_CHARS else f"{gold[:_MAX_GOLD_CHARS]}..."


def _columns(text: str) -> tuple[str, str | None]:
    field, separator, path = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=COLUMN")
    return field, path or None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m envs.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="+", help="file, folder, pattern, URL or name on the hub; several are one data set"
    )
    parser.add_argument(
        "--env",
        choices=_ENVS,
        default="math",
        help="math for answers, code for tests of programs, prompts for reward functions alone",
    )
    parser.add_argument("--split")
    parser.add_argument("--held-out-frac", type=float)
    parser.add_argument(
        "--columns", nargs="+", type=_columns, metavar="FIELD=COLUMN", help="prompt=query answer=golden"
    )
    parser.add_argument("--env-config", type=json.loads, default={}, metavar="JSON", help="other arguments of the env")
    parser.add_argument("--prompts", type=int, default=3, help="how many to show")
    parser.add_argument("--model", help="folder or hub id of a model, whose chat template is used")
    parser.add_argument("--chat-template", help="a Jinja template or a file with one, instead of the model's")
    parser.add_argument("--chat-template-kwargs", type=json.loads, default={}, metavar="JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 for data that a run would refuse."""
    args = _parser().parse_args(arguments)
    tokenizer = None
    if args.model:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(args.model)
        if args.chat_template:
            set_chat_template(tokenizer, args.chat_template)
    given = {"split": args.split, "held_out_frac": args.held_out_frac, "columns": dict(args.columns or ()) or None}
    options = {"max_bad_frac": 1.0} | args.env_config | {name: v for name, v in given.items() if v is not None}
    data = args.data[0] if len(args.data) == 1 else args.data
    with tempfile.TemporaryDirectory() as cache:  # the user will probably change this data, so the store is not kept
        try:
            show(data, args.env, {"cache_dir": cache} | options, args.prompts, tokenizer, args.chat_template_kwargs)
        except (ValueError, FileNotFoundError, ImportError) as error:
            print(f"envs.data: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
