"""The RLlib face of `model.Policy`."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from transformers.utils.logging import disable_progress_bar

from aspo_rllib.model import Policy, load_policy
from aspo_rllib.sharding import awaits_weights


class CausalLMModule(TorchRLModule):
    """Any Hugging Face causal LM as an RLModule.

    model_config: `model` (folder or hub id), `trust_remote_code` and `lora` (None or keywords of peft.LoraConfig).
    There is no inference forward: engines sample.
    """

    def setup(self) -> None:
        disable_progress_bar()
        assert isinstance(self.model_config, dict)
        # RLlib retries a setup() that raises AttributeError with a deprecated signature and loses the reason.
        try:
            self.policy: Policy = load_policy(
                self.model_config["model"],
                trust_remote_code=self.model_config["trust_remote_code"],
                lora=self.model_config["lora"],
                meta=awaits_weights(),
            )
        except AttributeError as error:
            raise RuntimeError(f"Could not load the model {self.model_config['model']!r}.") from error

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """batch: {"token_batch": model.TokenBatch, "temperature": float} -> logprobs and entropy, `[B, T]`."""
        logprobs, entropy = self.policy(batch["token_batch"], batch["temperature"])
        return {"logprobs": logprobs, "entropy": entropy}

    def train(self, mode: bool = True) -> CausalLMModule:
        # Dropout would move the ratio away from 1 before the first step.
        super().train(False)
        return self
