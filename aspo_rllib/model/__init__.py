"""Any causal language model of Hugging Face as a policy: log-probabilities, layouts, sharding, LoRA."""
