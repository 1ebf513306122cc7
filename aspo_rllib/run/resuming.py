"""Continues a run under Tune with the options of a new command, where these do not change what the run learns.

Tune itself ignores all new options when it restores a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyarrow.fs import FileSystem
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.result import TRAINING_ITERATION

from aspo_rllib.internals import experiment_state, set_run_config

MAY_CHANGE = frozenset(
    {
        # workers and their devices
        "num_env_runners",
        "num_cpus_per_env_runner",
        "num_gpus_per_env_runner",
        "custom_resources_per_env_runner",
        "num_learners",
        "num_cpus_per_learner",
        "num_gpus_per_learner",
        "custom_resources_per_learner",
        "num_cpus_for_main_process",
        "custom_resources_for_main_process",
        "placement_strategy",
        "tensor_parallel_size",
        "weight_transport",
        "num_graders",
        # memory and speed
        "kv_cache_memory_bytes",
        "gpu_memory_utilization",
        "max_num_seqs",
        "sleep",
        "gradient_checkpointing",
        "cpu_offload",
        "compile_learner",
        "max_tokens_per_microbatch",
        "layout",
        # failures
        "stage_timeout_s",
        "restart_failed_env_runners",
        "max_num_env_runner_restarts",
        "delay_between_env_runner_restarts_s",
        "env_runner_health_probe_timeout_s",
        "env_runner_restore_timeout_s",
        # what is looked at
        "evaluation_interval",
        "callbacks",
        "saved_batches",
        # what is written
        "checkpoint_export",
    }
)
"""Fields that say where and how fast a run trains. Their values are those of the command that continues the run."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_BUNDLED_MODEL = re.compile(r'[^"]*/(?=aspo_rllib/tiny_model")')  # each submitted job unpacks the package elsewhere


@dataclass(frozen=True)
class StoredRun:
    """The state of a Tune experiment as its folder has it.

    content: of the file; trials: the same trials as objects.
    """

    path: str
    file_system: FileSystem
    file: str
    content: dict[str, Any]
    trials: list[Trial]

    @classmethod
    def read(cls, path: str) -> StoredRun | None:
        """Read the state in an experiment's folder or URI. None if Tune has not stored a trial yet."""
        file_system, file = experiment_state(path)
        if file is None:
            return None
        with file_system.open_input_stream(file) as stream:
            content = json.loads(stream.readall())
        trials = [Trial.from_json_state(state, stub=True) for state, _ in content["trial_data"]]
        return cls(path, file_system, file, content, trials) if trials else None

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise ValueError if a field that changes what is learned differs from that of the stored trials.

        config: the config of the new command, as `AlgorithmConfig.to_dict` returns it.
        """
        changed = {
            name: f"{name}={old!r}, not {new!r}"
            for trial in self.trials
            for name, old, new in _differences(trial.config, config)
            if name.partition("/")[0] not in MAY_CHANGE
        }
        if changed:
            raise ValueError(
                f"The run at {self.path} was begun with {'; '.join(changed.values())}. Use the same settings to "
                "continue it, or another --name."
            )

    def tuner(self, iterations: int, run_config: tune.RunConfig, config: Mapping[str, Any] | None = None) -> tune.Tuner:
        """A Tuner that continues unfinished trials, and finished ones if they are to have more iterations.

        iterations: of each trial, from its start.
        config: the new config of all trials, which `check` has accepted; None: each trial keeps its config.
        """
        before = max(trial.stopping_criterion.get(TRAINING_ITERATION, 0) for trial in self.trials)
        for trial in self.trials:
            trial.stub = False  # otherwise Tune would not ask the algorithm for its resources
            trial.stopping_criterion = {TRAINING_ITERATION: iterations}
            trial.set_config(trial.config if config is None else dict(config))
        self._write()
        resume: Any = tune.ResumeConfig.ResumeType.RESUME  # which Ray annotates as a str
        finished: Any = resume if iterations > before else tune.ResumeConfig.ResumeType.SKIP
        tuner = tune.Tuner.restore(
            self.path,
            self.trials[0].trainable_name,
            _resume_config=tune.ResumeConfig(finished=finished, unfinished=resume, errored=resume),
        )
        set_run_config(tuner, run_config)
        return tuner

    def _write(self) -> None:
        metadata = [metadata for _, metadata in self.content["trial_data"]]
        states = [trial.get_json_state()[0] for trial in self.trials]
        content = self.content | {"trial_data": list(zip(states, metadata, strict=True))}
        with self.file_system.open_output_stream(f"{self.file}.new") as stream:
            stream.write(json.dumps(content).encode())
        self.file_system.move(f"{self.file}.new", self.file)


def _differences(begun: Mapping[str, Any], now: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The name, the old and the new value of each setting that differs; names in nested settings are joined by "/".

    Settings that only one of the two knows come from another version of the package and are left out. In nested
    settings they are a difference.
    """
    for name in begun.keys() | now.keys() if of else begun.keys() & now.keys():
        old, new = begun.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{of}{name}/")
        elif _written(old) != _written(new):
            yield f"{of}{name}", old, new


def _written(value: Any) -> str:
    """A value as text that is the same in every process: Tune stores tuples as lists, and objects have addresses."""
    text = json.dumps(value, sort_keys=True, default=lambda v: _ADDRESS.sub("", repr(v)))
    return _BUNDLED_MODEL.sub("", text)
