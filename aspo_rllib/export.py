"""Makes the loadable model of a checkpoint that has none: `python -m aspo_rllib.export CHECKPOINT`.

The folder is the one that `.checkpointing(export="every")` would have written. No learner and no engine is started.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path


def export(checkpoint: str | Path, out: str | Path | None = None, *, base_model: str | None = None) -> Path:
    """Write the model of a checkpoint as a folder that transformers and vLLM load; returns the folder.

    checkpoint: folder of `save_to_path` or of Tune, or the URI of one.
    out: the folder, which must not exist; None: `learner_group/hf` in the checkpoint.
    base_model: where the model of `.llm(model=...)` is now; None: where it was in the run.

    Raises ValueError if there is no whole checkpoint, if it is of another model, or if the folder exists.
    """
    # These imports are slow. Here they do not delay --help.
    from ray.rllib.core import COMPONENT_LEARNER_GROUP
    from ray.train import Checkpoint

    from aspo_rllib.learner.base_model import BaseModel
    from aspo_rllib.learner.checkpoints import HF_FOLDER, export_hf, load_weights, whole_folder
    from aspo_rllib.model.policy import load_policy
    from aspo_rllib.model.sharding import full_weights

    is_remote = "://" in str(checkpoint)
    if is_remote and out is None:
        raise ValueError(f"checkpoint={str(checkpoint)!r} is not a local folder: give the folder of the model, out.")
    where = str(checkpoint) if is_remote else str(Path(checkpoint).resolve())
    to = (Path(where) / COMPONENT_LEARNER_GROUP / HF_FOLDER if out is None else Path(out)).resolve()
    if to.exists():
        raise ValueError(f"out={str(to)!r} exists already; give another folder.")
    with Checkpoint(where).as_directory() as folder:
        state = Path(folder) / COMPONENT_LEARNER_GROUP
        saved = BaseModel.read(state, model=base_model)
        policy = load_policy(saved.model, trust_remote_code=saved.trust_remote_code, lora=saved.lora)
        load_weights(state, policy)
    with whole_folder(to) as partial:
        export_hf(partial, policy, full_weights(policy), *saved.companions())
    return to


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Raises SystemExit for a mistake."""
    parser = argparse.ArgumentParser(prog="python -m aspo_rllib.export", description=__doc__, allow_abbrev=False)
    parser.add_argument("checkpoint", help="folder or URI of a checkpoint")
    parser.add_argument("--out", type=Path, help="folder of the model; default: learner_group/hf in the checkpoint")
    parser.add_argument("--base-model", help="folder or hub id of the run's model, if it is elsewhere now")
    args = parser.parse_args(argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when transformers is imported, which draws progress bars
    try:
        print(export(args.checkpoint, args.out, base_model=args.base_model))
    except ValueError as error:
        raise SystemExit(f"export: {error}") from None


if __name__ == "__main__":
    main()
