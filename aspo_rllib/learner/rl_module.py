"""The RLModule around `model.policy.Policy`, for RLlib."""

from __future__ import annotations

from typing import Any

from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from transformers.utils.logging import disable_progress_bar

from aspo_rllib.model.policy import Policy, load_policy
from aspo_rllib.model.sharding import awaits_weights


class CausalLMModule(TorchRLModule):
    """Any Hugging Face causal LM as an RLModule.

    model_config: `model` (folder or hub id), `trust_remote_code` and `lora` (None or keywords of peft.LoraConfig).
    It has no forward pass for inference, because engines sample.
    """

    def setup(self) -> None:
        disable_progress_bar()
        assert isinstance(self.model_config, dict)
        # If setup() raises AttributeError, RLlib retries with a deprecated signature and hides the original error.
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
        # With dropout the ratio would differ from 1 before the first step.
        super().train(False)
        return self
