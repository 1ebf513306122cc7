"""Settings written into a folder of results, so that other settings cannot continue what is in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "settings.json"


def check_begun(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings into a new folder; raise ValueError if the folder has other settings.

    settings: what JSON can represent.
    """
    path = folder / FILE
    settings = json.loads(json.dumps(settings))  # as they will be read back, with lists instead of tuples
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    begun = json.loads(path.read_text(encoding="utf-8"))
    different = [
        f"{name}={begun.get(name)!r}, not {settings[name]!r}" for name in settings if begun.get(name) != settings[name]
    ]
    if different:
        raise ValueError(
            f"{str(folder)!r} was begun with {'; '.join(different)}. Use the same settings to continue it, or another "
            "folder."
        )
