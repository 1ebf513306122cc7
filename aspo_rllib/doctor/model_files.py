"""Checks of a model's files before a run starts: its weights, its tokenizer, and whether checkpoints can be written.

Each message has the field, its value and what to do.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.rllib.core import COMPONENT_LEARNER_GROUP
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from aspo_rllib.learner.checkpoints import HF_FOLDER
from aspo_rllib.model import companions, loading
from envs.chat import set_chat_template

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack")


def check_not_a_checkpoint(config: ASPOSettings) -> None:
    """Raise ValueError for a checkpoint in the place of the model in it, and for one without a model."""
    path = Path(config.base_model)
    checkpoint = path.parents[1] if path.name == HF_FOLDER and len(path.parents) > 1 else path
    if not (checkpoint / "rllib_checkpoint.json").is_file() or (path / "config.json").is_file():
        return
    model = checkpoint / COMPONENT_LEARNER_GROUP / HF_FOLDER
    if (model / "config.json").is_file():
        raise ValueError(f"llm_model={config.llm_model!r} is a checkpoint: give the folder of its model, {model}.")
    raise ValueError(
        f"llm_model={config.llm_model!r}: the checkpoint has no loadable model; `python -m aspo_rllib.export "
        f"{checkpoint}` makes {model}."
    )


def check_weights(config: ASPOSettings, structure: nn.Module) -> None:
    """Raise ValueError unless all shards exist and are complete, and have all weights in the shapes of config.json."""
    expected = {name: tuple(tensor.shape) for name, tensor in structure.state_dict().items()}
    for path in _weight_files(config):
        for name, shape in _shapes(config, path).items():
            if shape != expected.get(name, shape):
                raise ValueError(
                    f"llm_model={config.llm_model!r}: {name} in {path.name} is {list(shape)}, but config.json defines "
                    f"{list(expected[name])}. Take both files from one model."
                )
    loading.check_weights(config.base_model, trust_remote_code=config.trust_remote_code)


def _weight_files(config: ASPOSettings) -> Iterator[Path]:
    folder = Path(config.base_model)
    if (folder / _INDEX).exists():
        names = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
    elif (folder / _WEIGHTS).exists():
        names = [_WEIGHTS]
    else:
        others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
        found = f"only {', '.join(others)}" if others else "no weights"
        raise ValueError(
            f"llm_model={config.llm_model!r}: {found} in it; weights are read from safetensors only. Convert with "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...), or download model.safetensors."
        )
    for name in names:
        if not (folder / name).exists():
            raise ValueError(
                f"llm_model={config.llm_model!r}: {name} is missing, one of {len(names)}. Download it again."
            )
        yield folder / name


def _shapes(config: ASPOSettings, path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by name, from the file's header."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no dict
    except SafetensorError as error:
        raise ValueError(
            f"llm_model={config.llm_model!r}: {path.name} is not a whole safetensors file ({error}). Download it "
            "again; in a git clone with `git lfs pull`."
        ) from error


def check_tokenizer(config: ASPOSettings, model_config: PretrainedConfig) -> None:
    """Raise ValueError if the tokenizer has no vocabulary, or tokens for prompts that the model's embedding lacks."""
    try:
        tokenizer = companions.load_tokenizer(
            config.base_model, trust_remote_code=config.trust_remote_code, chat_template=None
        )
    except (OSError, ValueError) as error:
        raise _no_tokenizer(config, first_line(error)) from error
    ordinary = set(tokenizer.get_vocab().values()) - tokenizer.added_tokens_decoder.keys()
    if not ordinary:
        # If there are no files, transformers creates an empty tokenizer of the model's type.
        raise _no_tokenizer(config, "its vocabulary is empty")
    if config.chat_template is not None:
        set_chat_template(tokenizer, config.chat_template)
    # Added tokens that the template does not use may exceed the embedding: Gemma has one for images.
    templated: set[int] = set()
    if tokenizer.chat_template is not None:
        message = {"role": "user", "content": "1"}
        ids: Any = tokenizer.apply_chat_template([message], add_generation_prompt=True, return_dict=False)
        templated.update(ids)
    size = model_config.get_text_config().vocab_size
    largest = max(ordinary | templated)
    if largest >= size:
        raise ValueError(
            f"llm_model={config.llm_model!r}: its tokenizer has token {largest}, "
            f"{tokenizer.convert_ids_to_tokens(largest)!r}, but the model's embedding ends at vocab_size={size}. Take "
            "both from one model, or resize the embedding with resize_token_embeddings."
        )


def check_export(config: ASPOSettings, model_config: PretrainedConfig) -> None:
    """Raise ValueError unless config and tokenizer can be saved in a checkpoint and loaded again without a change."""
    model, trust = config.base_model, config.trust_remote_code
    try:
        generation = companions.load_generation_config(model, trust_remote_code=trust)
        tokenizer = companions.load_tokenizer(model, trust_remote_code=trust, chat_template=config.chat_template)
        with tempfile.TemporaryDirectory(prefix="aspo-export-") as folder:
            model_config.save_pretrained(folder)
            companions.save_companions(Path(folder), generation, tokenizer)
            AutoConfig.from_pretrained(folder, trust_remote_code=trust)
            companions.load_generation_config(folder, trust_remote_code=trust)
            again = companions.load_tokenizer(folder, trust_remote_code=trust, chat_template=None)
    except Exception as error:  # the code of tokenizers and configs may raise anything
        raise ValueError(
            f"llm_model={config.llm_model!r}: its config, generation_config.json or tokenizer cannot be saved and "
            f"loaded again, so that no checkpoint could be written: {type(error).__name__}: {first_line(error)}"
        ) from error
    text = "1 + 2 = <x>"
    if again.chat_template != tokenizer.chat_template or again.encode(text) != tokenizer.encode(text):
        raise ValueError(
            f"llm_model={config.llm_model!r}: its tokenizer encodes differently, or has another chat template, "
            "after it was saved and loaded again. Exported checkpoints could not be used."
        )


def _no_tokenizer(config: ASPOSettings, reason: str) -> ValueError:
    return ValueError(
        f"llm_model={config.llm_model!r}: no tokenizer can be loaded from it ({reason}). Copy tokenizer.json and "
        "tokenizer_config.json of the base model there."
    )


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(":").strip()
