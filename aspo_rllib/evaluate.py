"""Evaluate a model on its own: `python -m aspo_rllib.evaluate --model DIR --env aspo/Math-v0 --data FILE --out DIR`.

Only env runners, no learner. A run that was interrupted goes on where it stopped when the same command is given again.
The folder of `--out` then holds:

- `results.json`: the settings, and the numbers of `scores.scores`;
- `completions/*.parquet`: every completion, with the columns of `samples.COLUMNS`; pandas opens the folder as a table;
- `settings.json`: what the completions were made with.

With the same settings and seed this gives the completions and numbers of an evaluation inside training.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
from tqdm import tqdm

from aspo_rllib import preflight
from aspo_rllib.config import ASPOConfig
from aspo_rllib.env_creators import env_creator_of
from aspo_rllib.env_runner import VLLMEnvRunner
from aspo_rllib.evaluation_sets import EvaluationSet, prompts_of
from aspo_rllib.prompts import load_tokenizer
from aspo_rllib.samples import COLUMNS, completion_rows, write_table
from aspo_rllib.scores import scores
from aspo_rllib.types import RolloutGroup

COMPLETIONS = "completions"
# Without the texts, which may be long.
_SCORED = [name for name in COLUMNS if name not in ("prompt", "completion")]
ALL_TASKS = 2**31
# A runner is asked for so many engine batches at once: the more, the less it waits for the last completion of one, and
# the more is lost when the command is interrupted.
_BATCHES_PER_CALL = 2

Task = tuple[int, int]


@dataclass(frozen=True)
class Settings:
    """What decides an evaluation's completions.

    Fields are those of ASPOConfig by the same names; k is its `group_size`, limit its `evaluation_duration` (None: all
    tasks of the env).
    """

    model: str
    env: str
    env_config: dict[str, Any] = field(default_factory=dict)
    k: int = 16
    limit: int | None = None
    temperature: float = 0.8
    top_p: float = 1.0
    max_prompt_tokens: int = 1024
    max_completion_tokens: int = 1024
    chat_template: str | None = None
    dtype: str = "float32"
    engine: str = "vllm"
    seed: int = 0
    trust_remote_code: bool = False

    def config(self, **env_runners: Any) -> ASPOConfig:
        """The training config that these settings are the evaluation of; raises ValueError for a bad one.

        env_runners: keywords of `ASPOConfig.env_runners`.
        """
        config = (
            ASPOConfig()
            .environment(self.env, env_config=self.env_config)
            .llm(
                model=self.model,
                dtype=self.dtype,
                engine=self.engine,
                max_prompt_tokens=self.max_prompt_tokens,
                chat_template=self.chat_template,
                trust_remote_code=self.trust_remote_code,
            )
            .sampling(max_completion_tokens=self.max_completion_tokens)
            .evaluation(
                evaluation_duration=ALL_TASKS if self.limit is None else self.limit,
                evaluation_config={"group_size": self.k, "temperature": self.temperature, "top_p": self.top_p},
            )
            .env_runners(**env_runners)
            .debugging(seed=self.seed)
        )
        config.validate()
        return config


def evaluate(settings: Settings, out: Path, **env_runners: Any) -> dict[str, float | None]:
    """Evaluate a model into a folder, or finish what an earlier call began there; returns the numbers.

    Args:
        out: is made if it is not there.
        env_runners: keywords of `ASPOConfig.env_runners`: how many, on what.

    Raises:
        ValueError: for a bad setting, model or folder, and if the folder was begun with others.
        RuntimeError: if grading failed on all prompts.
    """
    config = settings.config(**env_runners)
    evaluation_config = config.get_evaluation_config_object()
    preflight.check_model(config)
    preflight.check_output(out, 0)
    tokenizer, _ = load_tokenizer(config)
    evaluation_set = EvaluationSet(evaluation_config, prompts_of(evaluation_config, tokenizer))
    try:
        tasks, num_overlong = evaluation_set.tasks()
        _check_begun(out, asdict(settings) | _fingerprints(settings.model, evaluation_set, tasks))
    finally:
        evaluation_set.prompts.close()
    kept = {row["index"] for row in _read(out, ["index", "sample"])}
    missing = [task for task in tasks if task[1] not in kept]
    with tqdm(total=len(tasks), initial=len(tasks) - len(missing), unit="prompt", disable=None) as bar:
        for groups in _sample(config, evaluation_config, missing):
            bar.update(len(groups))
            # A prompt that the grader failed on is tried again by the next call.
            if rows := completion_rows(group for group in groups if not group.num_ungraded):
                write_table(out / COMPLETIONS / f"{rows[0]['index']:08d}.parquet", rows, COLUMNS)
    numbers = _numbers(_read(out, _SCORED), len(tasks), num_overlong)
    results = {"settings": asdict(settings), "results": numbers}
    (out / "results.json").write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return numbers


def _fingerprints(model: str, evaluation_set: EvaluationSet, tasks: Sequence[Task]) -> dict[str, Any]:
    """What a folder's or a file's name does not tell: whether the weights and the prompts are still the same."""
    prompts = blake2b(digest_size=8)
    for _, index in tasks:
        prompts.update(evaluation_set.prompts.encode(index).ids.tobytes() + b"|")
    weights = sorted(Path(model).glob("*.safetensors"))
    return {
        "prompts": prompts.hexdigest(),
        "weights": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in weights},
    }


def _check_begun(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder; raise ValueError if the folder has others."""
    path = out / "settings.json"
    settings = json.loads(json.dumps(settings))  # as they will be read: no tuples
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    begun = json.loads(path.read_text(encoding="utf-8"))
    different = [
        f"{name}={begun.get(name)!r}, not {settings[name]!r}" for name in settings if begun.get(name) != settings[name]
    ]
    if different:
        raise ValueError(
            f"out={str(out)!r} was begun with {'; '.join(different)}. To go on, give the same settings; "
            "otherwise, another folder."
        )


def _sample(config: ASPOConfig, evaluation_config: ASPOConfig, tasks: Sequence[Task]) -> Iterator[list[RolloutGroup]]:
    """The groups of all tasks, call by call as runners finish them."""
    if not tasks:
        return
    per_call = max(1, _BATCHES_PER_CALL * config.max_num_seqs // evaluation_config.group_size)
    per_call = min(per_call, -(-len(tasks) // config.num_env_runners))
    waiting = [tasks[start : start + per_call] for start in range(0, len(tasks), per_call)]
    runner_class = ray.remote(
        num_cpus=config.num_cpus_per_env_runner,
        num_gpus=config.num_gpus_per_env_runner,
        resources=config.custom_resources_per_env_runner,
    )(VLLMEnvRunner)
    runners: list[Any] = [  # actors, whose methods get their `remote` at run time
        runner_class.remote(config=config, env_creator=env_creator_of(config), worker_index=n + 1)
        for n in range(min(config.num_env_runners, len(waiting)))
    ]
    evaluation_ref = ray.put(evaluation_config)
    running: dict[ray.ObjectRef[Any], Any] = {}
    try:
        idle = list(runners)
        while waiting or running:
            while idle and waiting:
                runner = idle.pop()
                running[runner.sample.remote(tasks=waiting.pop(0), config=evaluation_ref)] = runner
            done, _ = ray.wait(list(running))
            idle.append(running.pop(done[0]))
            yield ray.get(done[0])
        ray.get([runner.stop.remote() for runner in runners])
    finally:
        for runner in runners:
            ray.kill(runner)


def _read(out: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of all completions that are kept, in the order of the tasks."""
    files = sorted((out / COMPLETIONS).glob("*.parquet"))
    rows = [row for path in files for row in pq.read_table(path, columns=list(columns)).to_pylist()]
    return sorted(rows, key=lambda row: (row["index"], row["sample"]))


def _numbers(rows: Sequence[dict[str, Any]], num_asked: int, num_overlong: int) -> dict[str, float | None]:
    if not rows:
        raise RuntimeError(f"Grading failed on all {num_asked} prompts of the evaluation, after a second try each.")
    numbers = scores(rows)
    ungraded = num_asked - numbers["num_prompts"]
    numbers |= {"ungraded_prompts": float(ungraded), "overlong_prompts": float(num_overlong)}
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def _table(numbers: dict[str, float | None]) -> str:
    """A line per number, its error beside it."""
    width = max(map(len, numbers))
    lines = []
    for name, value in numbers.items():
        if not name.endswith("_se"):
            error = numbers.get(f"{name}_se")
            shown = "-" if value is None else f"{value:.4g}"
            lines.append(f"{name:<{width}}  {shown}" + (f" ± {error:.2g}" if error is not None else ""))
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aspo_rllib.evaluate", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--model", required=True, help="folder or hub id; of a checkpoint: learner_group/hf in it")
    parser.add_argument("--env", required=True, help="id of an env: aspo/Math-v0, or module:Mine-v0")
    parser.add_argument("--data", help="the env's data: a file, or a data set of the hub")
    parser.add_argument("--env-config", type=json.loads, default={}, metavar="JSON", help="the env's other arguments")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--k", type=int, default=Settings.k, help="completions per prompt")
    parser.add_argument("--limit", type=int, help="the first so many tasks; default: all")
    parser.add_argument("--temperature", type=float, default=Settings.temperature)
    parser.add_argument("--top-p", type=float, default=Settings.top_p)
    parser.add_argument("--max-prompt-tokens", type=int, default=Settings.max_prompt_tokens)
    parser.add_argument("--max-completion-tokens", type=int, default=Settings.max_completion_tokens)
    parser.add_argument("--chat-template", metavar="JINJA", help="default: the tokenizer's own")
    parser.add_argument("--dtype", default=Settings.dtype, choices=("float32", "bfloat16"))
    parser.add_argument("--engine", default=Settings.engine, choices=("vllm", "transformers"))
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--num-env-runners", type=int, default=1, help="engines")
    parser.add_argument("--num-gpus-per-env-runner", type=float, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = vars(_parser().parse_args(argv))
    out, data = args.pop("out"), args.pop("data")
    env_runners = {name: args.pop(name) for name in ("num_env_runners", "num_gpus_per_env_runner")}
    if data is not None:
        args["env_config"] = {**args["env_config"], "data": data}
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        numbers = evaluate(Settings(**args), out, **env_runners)
    except ValueError as error:
        raise SystemExit(f"evaluate: {error}") from None
    print(_table(numbers))
    print(f"results     {out / 'results.json'}\ncompletions {out / COMPLETIONS}")


if __name__ == "__main__":
    main()
