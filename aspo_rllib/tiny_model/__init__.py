"""The bundled model: Qwen3's architecture with 0.6 million parameters, trained to add numbers. See its README.md."""

from pathlib import Path

TINY_MODEL = str(Path(__file__).parent)
"""Folder of the bundled arithmetic model."""
