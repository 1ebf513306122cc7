"""Checks of the machine: memory, GPUs, disks, the sandbox for programs, and Ray's record of running clusters."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from aspo_rllib.doctor.finding import Finding
from aspo_rllib.doctor.packages import PACKAGE
from aspo_rllib.internals import ray_address_file

GB = 1e9
# Ray's object store, which carries the weights, is in /dev/shm.
MIN_SHM_BYTES, MIN_DISK_BYTES, MIN_MEMORY_BYTES = 1 << 30, 5 << 30, 4 << 30
CONNECT_TIMEOUT_S = 2.0


def cpus_and_memory() -> Finding:
    """Check the cores of this process and the memory of the machine."""
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{len(os.sched_getaffinity(0))} cores, {memory.available / GB:.3g} of {memory.total / GB:.3g} GB free"
    return Finding(
        "cpu, memory", memory.available >= MIN_MEMORY_BYTES, detail, "end other programs, or take more memory"
    )


def gpus() -> Finding:
    """Check the GPUs that torch sees. None is a problem only if the machine has a GPU driver."""
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Finding("gpu", True, ", ".join(f"{d.name} {d.total_memory / GB:.3g} GB" for d in devices))
    unseen = os.path.exists("/dev/nvidiactl")
    detail = f"a driver is there, but torch {torch.__version__} sees none" if unseen else "none"
    return Finding(
        "gpu", not unseen, detail, f"install a CUDA build of torch that fits the driver, and '{PACKAGE}[gpu]'"
    )


def space(name: str, folder: str, needed_bytes: int, remedy: str) -> Finding:
    """Check the free space of the disk with a folder."""
    free = shutil.disk_usage(folder).free
    return Finding(name, free >= needed_bytes, f"{free / GB:.3g} GB free in {folder}", remedy)


def sandbox() -> Finding:
    """Find a sandbox for programs that works on this machine. Code tasks cannot be graded without one."""
    from envs.grading.code.grader import working_backend
    from envs.grading.sandbox.backends import BACKENDS

    try:
        return Finding("sandbox", True, working_backend(BACKENDS).name)
    except RuntimeError as error:
        return Finding("sandbox", False, str(error), "apt install bubblewrap, and allow user namespaces or Landlock")


def ray_cluster() -> Finding:
    """Check the cluster that `ray.init()` would connect to. It hangs if that cluster no longer runs."""
    file = Path(ray_address_file())
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
