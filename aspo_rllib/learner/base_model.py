"""What a checkpoint says of the model that was trained, so that its loadable folder can be made without the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from aspo_rllib.model.companions import load_generation_config, load_tokenizer
from envs.chat import read_chat_template

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings

FILE = "base_model.json"


@dataclass(frozen=True)
class BaseModel:
    """The settings of `.llm()` that determine an exported folder besides the trained weights.

    model: hub id, or absolute path of a folder.
    chat_template: its text, or None for the tokenizer's own.
    """

    model: str
    trust_remote_code: bool
    lora: dict[str, Any] | None
    chat_template: str | None

    @classmethod
    def of(cls, config: ASPOSettings) -> BaseModel:
        """That of a run, in a process that sees the run's files."""
        folder, template = Path(config.base_model), config.chat_template
        return cls(
            model=str(folder.resolve()) if folder.is_dir() else config.base_model,
            trust_remote_code=config.trust_remote_code,
            lora=config.lora,
            chat_template=None if template is None else read_chat_template(template),
        )

    @classmethod
    def read(cls, folder: Path, model: str | None = None) -> BaseModel:
        """What `write` wrote. Raises ValueError if it did not write into this folder.

        model: where the model is now; None: where it was.
        """
        path = folder / FILE
        if not path.is_file():
            raise ValueError(
                f"checkpoint {folder}: there is no {FILE}; expected a folder that save_to_path or Tune wrote "
                "completely. Choose another checkpoint."
            )
        saved = cls(**json.loads(path.read_text(encoding="utf-8")))
        return saved if model is None else replace(saved, model=model)

    def write(self, folder: Path) -> None:
        # Sets of names are legal in `lora`; peft takes lists as well.
        text = json.dumps(asdict(self), indent=2, default=list)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    def companions(self) -> tuple[GenerationConfig, PreTrainedTokenizerBase]:
        """The generation config and the tokenizer, with the run's chat template."""
        return (
            load_generation_config(self.model, trust_remote_code=self.trust_remote_code),
            load_tokenizer(self.model, trust_remote_code=self.trust_remote_code, chat_template=self.chat_template),
        )
