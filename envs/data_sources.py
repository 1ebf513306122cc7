"""What `open_tasks` may be given: files, the name of a data set on the Hugging Face hub, a loaded data set."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.data_files import ARROW_BATCH_ROWS, ENDINGS, Row, arrow_rows, file_rows

_HUB_NAME = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)(:(?P<config>[\w.+-]+))?")
_EXPECTED = (
    f"expected a file ({', '.join(ENDINGS)}), a list of files, a data set of the Hugging Face hub as "
    f'"owner/name" or "owner/name:config", or a loaded datasets.Dataset'
)


@dataclass(frozen=True)
class Source:
    """One thing that rows come from.

    Attributes:
        name: for messages: a path, the name of a data set.
        label: the data source of rows that name none.
        identity: JSON that changes whenever the rows do.
        rows: starts reading.
    """

    name: str
    label: str
    identity: list[Any]
    rows: Callable[[], Iterator[Row]]


def find_sources(data: Any, split: str) -> list[Source]:
    """Return the sources that `data` stands for; hub data is loaded already, files are only looked at.

    Args:
        data: what `open_tasks` takes.
        split: which split of a data set of the hub.

    Raises:
        ValueError: for data of another kind, a data set whose split is not chosen, or that the hub does not give.
        FileNotFoundError: for a file that is not there.
        ImportError: for a hub name without the package `datasets`.
    """
    if isinstance(data, list | tuple):
        if not data:
            raise ValueError(f"data={data!r} names no file")
        return [file_source(path, "data") for path in data]
    if isinstance(data, str) and not _names_a_file(data) and (hub := _HUB_NAME.fullmatch(data)):
        return [_hub_source(data, hub["path"], hub["config"], split)]
    if isinstance(data, str | os.PathLike):
        return [file_source(data, "data")]
    return [_dataset_source(data)]


def file_source(path: Any, argument: str) -> Source:
    """Return the source for one file; `argument` names it in messages.

    Raises:
        ValueError: for no path, a folder, or a file of another kind.
        FileNotFoundError: for a file that is not there.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"{argument}={path!r} is not the path of a file")
    file = Path(path).expanduser().resolve()
    if file.is_dir():
        raise ValueError(f"{argument}={str(path)!r} is a folder; {_EXPECTED}")
    if not file.exists():
        raise FileNotFoundError(f"{argument}={str(path)!r} does not exist; {_EXPECTED}")
    if not _names_a_file(file.name):
        raise ValueError(f"{argument}={str(path)!r} has an unknown ending; {_EXPECTED}")
    stat = file.stat()
    label = next(file.name[: -len(ending)] for ending in ENDINGS if file.name.lower().endswith(ending))
    return Source(
        name=str(file),
        label=label,
        identity=["file", str(file), stat.st_size, stat.st_mtime_ns],
        rows=lambda: file_rows(file),
    )


def _names_a_file(name: str) -> bool:
    return name.lower().endswith(ENDINGS) or Path(name).exists()


def _hub_source(name: str, path: str, config: str | None, split: str) -> Source:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"data={name!r} is not a file here, and loading it from the Hugging Face hub needs the package `datasets`: "
            f'pip install "aspo-rllib[hub]"'
        ) from error
    try:
        dataset = datasets.load_dataset(path, config, split=split)
    except (OSError, ValueError) as error:
        raise ValueError(f"data={name!r} is not a file here, and as a data set of the hub: {error}") from error
    return Source(
        name=f"{name}, split {split}",
        label=path,
        identity=["hub", path, config, split, dataset._fingerprint],
        rows=lambda: _dataset_rows(dataset),
    )


def _dataset_source(data: Any) -> Source:
    datasets = sys.modules.get("datasets")  # who has a data set in hand has imported it
    if datasets and isinstance(data, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise ValueError(f"data is a {type(data).__name__}; choose one of its splits: {', '.join(data)}")
    if not datasets or not isinstance(data, datasets.Dataset):
        raise ValueError(f"data is a {type(data).__name__}; {_EXPECTED}")
    name = data.info.dataset_name or "data"
    return Source(
        name=f"{name}, split {data.split}" if data.split else name,
        label=name,
        identity=["dataset", data._fingerprint],
        rows=lambda: _dataset_rows(data),
    )


def _dataset_rows(dataset: Any) -> Iterator[Row]:
    """As Arrow: other formats decode images and sound, or make tensors of numbers."""
    return arrow_rows(dataset.with_format("arrow").iter(batch_size=ARROW_BATCH_ROWS))
