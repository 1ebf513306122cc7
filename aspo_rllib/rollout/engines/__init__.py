"""What generates: one interface, with vLLM or transformers behind it."""
