"""The quickstart as a job on a real Ray cluster of this machine's: submitted, run, and its checkpoint opened."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("aiohttp_cors", reason="`ray job submit` needs ray[default]")

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Head:
    """A Ray head of our own: the environment of those who talk to it, and its dashboard's address."""

    def __init__(self, url: str, token: str):
        self.url = url
        self.environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # jobs take the first `python` on the head's
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
        }
        self._version = urllib.request.Request(f"{url}/api/version", headers={"Authorization": f"Bearer {token}"})

    def wait(self, timeout_s: float) -> None:
        """Return when the dashboard answers."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return urllib.request.urlopen(self._version, timeout=5).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def job(self, *arguments: str) -> str:
        """`ray job` in the repository; what it printed."""
        command = [str(BIN / "ray"), "job", arguments[0], "--address", self.url, *arguments[1:]]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        return done.stdout


@pytest.fixture
def head(tmp_path_factory):
    # A folder of its own, with a name short enough for sockets: `ray start` notes its cluster there for every later
    # ray.init(), which other tests call meanwhile.
    temp_dir = tempfile.mkdtemp(prefix="ray")
    gcs, dashboard, agent, client, metrics = free_ports(5)
    head = Head(f"http://127.0.0.1:{dashboard}", secrets.token_hex(32))
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=4"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}"),
        *(f"--temp-dir={temp_dir}", f"--object-store-memory={1 << 29}"),
    ]
    with open(tmp_path_factory.mktemp("head") / "head.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=head.environment)
        try:
            head.wait(timeout_s=120)
            yield head
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(timeout=60)
            for child in psutil.wait_procs(children, timeout=30)[1]:
                child.kill()
            shutil.rmtree(temp_dir)


@pytest.mark.slow
def test_the_quickstart_runs_as_a_job_and_leaves_a_model(head, tmp_path):
    submit = ("submit", "--working-dir", ".", "--submission-id")
    quickstart = ("python", "tuned_examples/arithmetic_aspo.py", "--iterations", "2", "--storage-path", str(tmp_path))
    assert "quickstart: accuracy" in head.job(*submit, "quickstart", "--", *quickstart)
    assert "'quickstart' succeeded" in head.job("status", "quickstart")

    (folder,) = tmp_path.rglob("learner_group/hf")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer("123+456=", return_tensors="pt")
    assert model(**inputs).logits.shape == (1, 8, len(tokenizer))

    # What .gitignore and .rayignore name stays here; the environment alone would be over 100 MB.
    uploaded = head.job(*submit, "uploaded", "--", "ls", "-a").splitlines()
    assert {"aspo_rllib", "envs", "tuned_examples"} < set(uploaded)
    assert not {".venv", ".git", "tests", "results"} & set(uploaded)
