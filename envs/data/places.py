"""Read the bytes of a file, on this machine or at an fsspec URL, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pyarrow as pa

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
LFS_HEAD = b"version https://git-lfs.github.com/spec/"
_HASHED_BYTES = 1 << 16
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 12
_READERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": lambda file: io.BufferedReader(pa.CompressedInputStream(file, "zstd")),
}


def is_url(name: str) -> bool:
    """Tell whether a name is a URL such as s3://bucket/key, and not a path."""
    return "://" in name


@dataclass(frozen=True)
class Place:
    """A file: an absolute path, or a URL of fsspec."""

    name: str

    @property
    def filename(self) -> str:
        """The last part of the name."""
        return (urlsplit(self.name).path if is_url(self.name) else self.name).rstrip("/").rpartition("/")[2]

    @property
    def plain_name(self) -> str:
        """The file name in small letters, without the ending of a compression."""
        name = self.filename.lower()
        return next((name[: -len(ending)] for ending in COMPRESSIONS if name.endswith(ending)), name)

    def open_raw(self) -> IO[bytes]:
        """Open the bytes as they are stored."""
        if not is_url(self.name):
            return open(self.name, "rb")
        filesystem, path = filesystem_of(self.name)
        return filesystem.open(path, "rb")

    def open(self) -> IO[bytes]:
        """Open the bytes, decompressed. The first bytes decide about the compression, not the name.

        Raises:
            ValueError: for a Git LFS pointer instead of the file.
        """
        file = self.open_raw()
        head = file.read(len(LFS_HEAD))
        file.seek(0)
        if head == LFS_HEAD:
            file.close()
            raise ValueError(f"{self.name} is a pointer of Git LFS, not the data: run `git lfs pull` in its repository")
        reader = next((reader for magic, reader in _READERS.items() if head.startswith(magic)), None)
        return file if reader is None else reader(file)

    def identity(self) -> list[Any]:
        """A value that changes when the file changes, even if its size and time stay the same."""
        if is_url(self.name):
            filesystem, path = filesystem_of(self.name)
            return ["url", self.name, filesystem.ukey(path)]
        stat = os.stat(self.name)
        digest = blake2b(digest_size=16)
        with open(self.name, "rb") as file:
            digest.update(file.read(_HASHED_BYTES))
            for part in range(1, _SAMPLES):
                file.seek(stat.st_size * part // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(stat.st_size - _HASHED_BYTES, 0))
            digest.update(file.read())
        return ["file", self.name, stat.st_size, stat.st_mtime_ns, digest.hexdigest()]


def filesystem_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; raises ImportError with the name of a missing package."""
    import fsspec

    return fsspec.core.url_to_fs(url)


def local_path(name: str | os.PathLike) -> Path:
    """The absolute path of a file, from its name or a file:// URL."""
    text = os.fspath(name)
    return Path(text.removeprefix("file://")).expanduser().resolve()
