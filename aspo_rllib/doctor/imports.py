"""Whether the libraries can be imported. Each is tried in a process of its own, which an import may end or hang."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import metadata

from aspo_rllib.doctor.finding import Finding
from aspo_rllib.doctor.packages import ENGINES, PACKAGE, TORCH_COMPANIONS
from aspo_rllib.provenance import version_of

VLLM = "vllm.entrypoints.llm"
# What is imported -> the package it comes from. What others need comes first: their errors are its.
MODULES = {
    "packaging": "packaging",
    "psutil": "psutil",
    "gymnasium": "gymnasium",
    "torch": "torch",
    "transformers.modeling_utils": "transformers",  # `import transformers` alone imports next to nothing
    "ray": "ray",
    "ray.rllib": "ray",
    VLLM: "vllm",
}
TIMEOUT_S = 300
AT_ONCE = 2  # each may take a gigabyte
# Libraries that import lazily hide the error that counts behind their own.
_TRY = """
import importlib, sys
try:
    importlib.import_module(sys.argv[1])
except BaseException as error:
    while error.__cause__:
        error = error.__cause__
    print(f"\\n{type(error).__name__}: {' '.join(str(error).split())}")
    sys.exit(1)
"""


@cache
def import_error(module: str) -> str | None:
    """Why a module cannot be imported, in a line; None: it can, or has been."""
    if module in sys.modules:
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY, module], capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"not done within {TIMEOUT_S} s"
    if done.returncode < 0:
        return f"killed by {signal.Signals(-done.returncode).name}"
    told = done.stdout.strip().rpartition("\n")[2]
    return (told or f"ended with exit code {done.returncode}") if done.returncode else None


def imports() -> Finding:
    """Everything that is imported while training; one remedy for all that fails for the same reason."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        errors = dict(zip(MODULES, pool.map(import_error, MODULES), strict=True))
    failed = defaultdict(list)
    for module, error in errors.items():
        if error:
            failed[error].append(module)
    detail = "; ".join(f"{', '.join(modules)}: {error}" for error, modules in failed.items())
    remedies = dict.fromkeys(remedy(modules[0], error) for error, modules in failed.items())
    return Finding("imports", not failed, detail or ", ".join(MODULES), "; ".join(remedies))


def remedy(module: str, error: str) -> str:
    """What usually helps where one of MODULES fails with this error."""
    package = MODULES[module]
    if any(name in error for name in TORCH_COMPANIONS):
        return f"pip uninstall -y {' '.join(TORCH_COMPANIONS)}: text models need none of them"
    if package == "torch":
        return "pip install --force-reinstall torch, in the build that README.md names under Install"
    if package == "vllm":
        found = [name for name in ENGINES if version_of(name)]
        return f"pip install --force-reinstall {found[0]}" if found else f"pip install '{PACKAGE}[cpu]' or '[gpu]'"
    return f"pip install --force-reinstall '{_asked(package)}'"


def _asked(package: str) -> str:
    """What this package asks for of another one: "ray[rllib]==2.60.*"."""
    asked = metadata.requires(PACKAGE) or () if version_of(PACKAGE) else ()
    return next((text.partition(";")[0].strip() for text in asked if text.startswith(package)), package)
