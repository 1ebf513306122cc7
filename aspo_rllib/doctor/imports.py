"""Checks whether the libraries can be imported, each in a separate process, because an import may crash or hang."""

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
from aspo_rllib.run.provenance import version_of

VLLM = "vllm.entrypoints.llm"
# Module -> the package that it belongs to. Modules that others need come first, because their errors also appear there.
MODULES = {
    "packaging": "packaging",
    "psutil": "psutil",
    "gymnasium": "gymnasium",
    "torch": "torch",
    "transformers.modeling_utils": "transformers",  # `import transformers` is lazy and would find no error
    "ray": "ray",
    "ray.rllib": "ray",
    VLLM: "vllm",
}
TIMEOUT_S = 300
AT_ONCE = 2  # processes in parallel, each of which may take a gigabyte
# Libraries with lazy imports raise their own error; the cause is the first error of its chain.
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
    """The error of importing a module, in one line; None if it can be imported or is already imported."""
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
    """Check all modules that training imports. Modules that fail with the same error share one remedy."""
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
    """What usually helps if one of MODULES fails with this error."""
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
    """This package's requirement for another package, for example "ray[rllib]==2.60.*"."""
    asked = metadata.requires(PACKAGE) or () if version_of(PACKAGE) else ()
    return next((text.partition(";")[0].strip() for text in asked if text.startswith(package)), package)
