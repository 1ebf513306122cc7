"""Pretrained models that come from a package registry, for machines that cannot reach the Hugging Face hub."""
