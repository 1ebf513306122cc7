"""Evaluation of a model by env runners without a learner; `python -m aspo_rllib.evaluate` runs this."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray

from aspo_rllib.config import validation
from aspo_rllib.config.env_creators import env_creator_of
from aspo_rllib.config.settings import ASPOSettings
from aspo_rllib.doctor import preflight
from aspo_rllib.evaluate.progress import LINE_S, show_progress
from aspo_rllib.evaluate.samples import COLUMNS, completion_rows, write_table
from aspo_rllib.evaluate.scores import scores
from aspo_rllib.evaluate.sets import EvaluationSet
from aspo_rllib.evaluate.settings import Settings
from aspo_rllib.rollout.env_runner import TextEnvRunner
from aspo_rllib.rollout.prompts import load_tokenizer, prompts_of
from aspo_rllib.run.begun import check_begun
from aspo_rllib.types import RolloutGroup

COMPLETIONS = "completions"
# The columns that the scores need. The texts, which may be long, are not read.
_SCORED = [name for name in COLUMNS if name not in ("prompt", "completion")]
ALL_TASKS = 2**31
# The settings that an evaluation config has under the same names.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "reward_weights")
# Number of engine batches per call to a runner. With more, a runner waits less often for the last completion of a call,
# but more completions are lost when the command is interrupted.
_BATCHES_PER_CALL = 2

Task = tuple[int, int]


def config_of(settings: Settings, **env_runners: Any) -> ASPOSettings:
    """A training config whose evaluation has these settings. Raises ValueError for a setting that is not valid.

    env_runners: keywords of `ASPOConfig.env_runners`.
    """
    config = (
        ASPOSettings()
        .environment(settings.env, env_config=settings.env_config)
        .llm(
            model=settings.model,
            dtype=settings.dtype,
            engine=settings.engine,
            max_prompt_tokens=settings.max_prompt_tokens,
            chat_template=settings.chat_template,
            chat_template_kwargs=settings.chat_template_kwargs,
            template_date=settings.template_date,
            trust_remote_code=settings.trust_remote_code,
        )
        .sampling(max_completion_tokens=settings.max_completion_tokens)
        .evaluation(
            evaluation_duration=ALL_TASKS if settings.limit is None else settings.limit,
            evaluation_config={"group_size": settings.k} | {name: getattr(settings, name) for name in _SAMPLING},
        )
        .env_runners(**env_runners)
        .debugging(seed=settings.seed)
    )
    validation.check(config)
    return config


def evaluate(settings: Settings, out: Path, **env_runners: Any) -> dict[str, float | None]:
    """Evaluate a model and write the results into a folder; returns the results.

    If an earlier call with the same settings was interrupted, this call continues it.

    Args:
        out: folder of the results; it is created if it does not exist.
        env_runners: keywords of `ASPOConfig.env_runners`, for example the number of runners and their GPUs.

    Raises:
        ValueError: for a bad setting, model or folder, and if the folder has completions with other settings.
        RuntimeError: if grading failed on all prompts.
    """
    config = config_of(settings, **env_runners)
    evaluation_config = config.get_evaluation_config_object()
    preflight.check_model(config)
    preflight.check_output(out, 0)
    tokenizer, _ = load_tokenizer(config)
    evaluation_set = EvaluationSet(evaluation_config, prompts_of(evaluation_config, tokenizer))
    try:
        tasks, num_overlong = evaluation_set.tasks()
        check_begun(out, asdict(settings) | _fingerprints(settings.model, evaluation_set, tasks))
    finally:
        evaluation_set.prompts.close()
    kept = {row["index"] for row in _read(out, ["index", "sample"])}
    missing = [task for task in tasks if task[1] not in kept]
    with closing(show_progress(len(tasks), len(tasks) - len(missing))) as progress:
        for groups in _sample(config, evaluation_config, missing):
            progress.update(len(groups))
            # Prompts on which the grader failed are not written, so that the next call samples them again.
            if rows := completion_rows(group for group in groups if not group.num_ungraded):
                write_table(out / COMPLETIONS / f"{rows[0]['index']:08d}.parquet", rows, COLUMNS)
    numbers = _numbers(_read(out, _SCORED), len(tasks), num_overlong)
    results = {"settings": asdict(settings), "results": numbers}
    (out / "results.json").write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return numbers


def _fingerprints(model: str, evaluation_set: EvaluationSet, tasks: Sequence[Task]) -> dict[str, Any]:
    """Fingerprints of prompts and weights, which can change although the names of files and folders stay the same."""
    prompts = blake2b(digest_size=8)
    for _, index in tasks:
        prompts.update(evaluation_set.prompts.encode(index).ids.tobytes() + b"|")
    weights = sorted(Path(model).glob("*.safetensors"))
    return {
        "prompts": prompts.hexdigest(),
        "weights": {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in weights},
    }


def _sample(
    config: ASPOSettings, evaluation_config: ASPOSettings, tasks: Sequence[Task]
) -> Iterator[list[RolloutGroup]]:
    """Sample all tasks; yields the groups of each call to a runner when it is finished, and [] every LINE_S seconds."""
    if not tasks:
        return
    per_call = max(1, _BATCHES_PER_CALL * config.max_num_seqs // evaluation_config.group_size)
    per_call = min(per_call, -(-len(tasks) // config.num_env_runners))
    waiting = [tasks[start : start + per_call] for start in range(0, len(tasks), per_call)]
    runner_class = ray.remote(
        num_cpus=config.num_cpus_per_env_runner,
        num_gpus=config.num_gpus_per_env_runner,
        resources=config.custom_resources_per_env_runner,
    )(TextEnvRunner)
    runners: list[Any] = [  # typed as Any, because actors get their `remote` methods at run time
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
            done, _ = ray.wait(list(running), timeout=LINE_S)
            if not done:
                yield []
                continue
            idle.append(running.pop(done[0]))
            yield ray.get(done[0])
        ray.get([runner.stop.remote() for runner in runners])
    finally:
        for runner in runners:
            ray.kill(runner)


def _read(out: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of all written completions, in the order of the tasks."""
    files = sorted((out / COMPLETIONS).glob("*.parquet"))
    rows = [row for path in files for row in pq.read_table(path, columns=list(columns)).to_pylist()]
    return sorted(rows, key=lambda row: (row["index"], row["sample"]))


def _numbers(rows: Sequence[dict[str, Any]], num_asked: int, num_overlong: int) -> dict[str, float | None]:
    if not rows:
        raise RuntimeError(f"Grading failed on all {num_asked} prompts of the evaluation; each was tried twice.")
    numbers = scores(rows)
    ungraded = num_asked - numbers["num_prompts"]
    numbers |= {"ungraded_prompts": float(ungraded), "overlong_prompts": float(num_overlong)}
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}
