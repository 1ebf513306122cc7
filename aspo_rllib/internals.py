"""All private names of other libraries that this package uses, each with the reason.

They were checked with ray 2.60, transformers 5.19 and torch 2.13. Each function imports the library that it needs,
because some callers must work without that library. Private methods of RLlib that our subclasses override are in those
classes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from ray import tune
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.env.env_runner_group import EnvRunnerGroup
    from ray.rllib.utils.actor_manager import FaultTolerantActorManager
    from ray.train import Checkpoint
    from torch import Tensor
    from torch.distributed import ProcessGroup
    from transformers import PreTrainedModel

# ---- transformers ----------------------------------------------------------------------------------------------------


def supports_attention_backend(hf_model: PreTrainedModel) -> bool:
    """Whether all layers of a model use transformers' attention interface. There is no public attribute for this."""
    return bool(hf_model._supports_attention_backend)


def attention_implementation(hf_model: PreTrainedModel) -> str:
    """The name of the attention that a model uses. Only the setter, `set_attn_implementation`, is public."""
    return str(hf_model.config._attn_implementation)


def tied_weights(hf_model: PreTrainedModel) -> Mapping[str, str]:
    """Tied weights: the name of each alias -> the name of its weight. The public `tie_weights` does not return them."""
    return dict((hf_model._tied_weights_keys if hf_model.config.tie_word_embeddings else None) or {})


# ---- torch -----------------------------------------------------------------------------------------------------------


def storage_key(tensor: Tensor) -> int:
    """A key that is equal for tensors that share their memory. It works for meta tensors, which have no address."""
    return int(tensor.untyped_storage()._cdata)


def set_default_group(group: ProcessGroup | None) -> None:
    """Make a process group the default one. torch can only create a default group, not replace it."""
    from torch.distributed.distributed_c10d import _update_default_pg

    _update_default_pg(group)


# ---- Ray -------------------------------------------------------------------------------------------------------------


def register_pickled(registry: Any, name: str, value: object) -> None:
    """Put an object into Tune's registry unchanged. The public `register_trainable` accepts only classes and functions.

    registry: the module ray.tune.registry.
    """
    registry._global_registry.register(registry.TRAINABLE_CLASS, name, value)


def keep_csv_columns(logger: Any) -> None:
    """Let Tune's CSV logger continue a progress.csv with the columns of the file.

    Unrepaired it writes, after a restart, the values of a new result in the order of that result below the header of
    the old ones. A plain Tuner creates its logger itself, and a repaired one among its callbacks, as RAY_TUNE_CALLBACKS
    could add, would write every row a second time if the user's callbacks have a CSV logger, too.

    logger: the module ray.tune.logger.csv.
    """
    callback = logger.CSVLoggerCallback
    setup = callback._setup_trial

    def setup_with_columns(self: Any, trial: Any) -> None:
        setup(self, trial)
        if self._trial_continue[trial]:
            file = self._trial_files[trial]
            with open(file.name, newline="") as written:
                columns = next(csv.reader(written))
            self._trial_csv[trial] = csv.DictWriter(file, columns)

    callback._setup_trial = setup_with_columns


def ray_address_file() -> str:
    """The file in which Ray stores the address of the cluster that `ray.init()` connects to."""
    from ray._common.utils import get_ray_address_file

    return str(get_ray_address_file(None))


def experiment_state(path: str) -> tuple[FileSystem, str | None]:
    """The file system of a Tune experiment, and its newest file with the trials' state; None if there is no file yet.

    path: folder or URI of the experiment.
    """
    from ray.train._internal.storage import get_fs_and_path
    from ray.tune.execution.experiment_state import _find_newest_experiment_checkpoint

    file_system, folder = get_fs_and_path(path)
    return file_system, _find_newest_experiment_checkpoint(folder, file_system)


def set_run_config(tuner: tune.Tuner, run_config: tune.RunConfig) -> None:
    """Replace the RunConfig of a restored Tuner. `Tuner.restore` takes the one of the first start, with its callbacks.

    run_config: its name and storage path must be those of the restored experiment.
    """
    tuner._local_tuner._run_config = run_config  # type: ignore[union-attr]


# ---- RLlib -----------------------------------------------------------------------------------------------------------


def actor_manager(env_runner_group: EnvRunnerGroup) -> FaultTolerantActorManager:
    """The manager of the env runners' actors. The group's public methods do not return which runner gave an answer."""
    return env_runner_group._worker_manager


def rllib_env_creator(env: Any, config: AlgorithmConfig) -> Any:
    """RLlib's creator of an env, from the env's id, its class, or a name that was registered with Tune."""
    from ray.rllib.algorithms.algorithm import Algorithm

    return Algorithm._get_env_id_and_creator(env, config)[1]


def env_made_by_gymnasium(creator: Callable[..., Any]) -> Any:
    """The id or class of an env that RLlib creates with `gymnasium.make`; None for creators that users registered."""
    from functools import partial

    from ray.rllib.env.utils import _gym_env_creator

    if isinstance(creator, partial) and creator.func is _gym_env_creator:
        return creator.keywords["env_descriptor"]
    return None


def trial_storage(algorithm: Algorithm) -> Any:
    """Tune's StorageContext of a trial, or None outside of Tune. No public attribute has the folder of the results."""
    return algorithm._storage


def checkpoint_of(saved: Any) -> Checkpoint | str | None:
    """The checkpoint in the argument of `Trainable.restore`, which Tune may wrap in a private `_TrainingResult`."""
    from ray.train._internal.checkpoint_manager import _TrainingResult

    return saved.checkpoint if isinstance(saved, _TrainingResult) else saved
