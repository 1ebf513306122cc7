"""The sources that `open_tasks` accepts: files in many forms, data sets of the Hugging Face hub, loaded data sets."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from envs.data.files import ARROW_BATCH_ROWS, ENDINGS, KNOWN_NAMES, Row, arrow_rows, file_rows
from envs.data.places import Place, filesystem_of, is_url, local_path
from envs.data.splits import canonical, split_in_name, split_of_row, without_shard

_HUB_NAME = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)(:(?P<config>[\w.+-]+))?")
_EXPECTED = (
    f"expected a file ({KNOWN_NAMES}), a folder, a pattern such as data/*.parquet, a URL such as s3://..., a list of "
    'these, {"train": ..., "test": ...}, a data set of the Hugging Face hub as "owner/name" or "owner/name:config", '
    "or a loaded datasets.Dataset or DatasetDict"
)
# Files in the folders of data sets that contain no data.
_NO_DATA = {
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "metadata.json",
    "config.json",
}


@dataclass(frozen=True)
class Source:
    """One source of rows.

    Attributes:
        name: a path or the name of a data set, for messages.
        label: the data source of rows that have no data source of their own.
        identity: a JSON value that changes when the rows change.
        rows: a function that starts reading the rows.
        split: the split of all its rows; None if only the rows may have one.
        columns: replaces the `columns` of `open_tasks`, unless it is None.
    """

    name: str
    label: str
    identity: list[Any]
    rows: Callable[[], Iterator[Row]]
    split: str | None = None
    columns: Mapping[str, str | None] | None = None


def find_sources(data: Any, split: str | None = None) -> list[Source]:
    """Return the sources of `data`, of all splits. Data of the hub is loaded here; files are not read yet.

    Args:
        data: what `open_tasks` takes.
        split: the part of a data set of the hub to load, if it is a slice such as "train[:100]".

    Raises:
        ValueError: for data of another kind, and for a data set that the hub does not have.
        FileNotFoundError: for a file that does not exist.
        ImportError: for a hub name or a URL without the package that it needs.
    """
    if isinstance(data, Mapping) and "path" in data:
        return _specified(data)
    if isinstance(data, Mapping) and not _is_loaded(data):
        if not data:
            raise ValueError(f"data={data!r} names no file")
        named = {canonical(str(name)): find_sources(part) for name, part in data.items()}
        return [replace(source, split=name) for name, sources in named.items() for source in sources]
    if isinstance(data, list | tuple):
        if not data:
            raise ValueError(f"data={data!r} names no file")
        return _by_name([source for part in data for source in _listed(part)])
    if isinstance(data, str) and not _names_a_file(data) and (hub := _HUB_NAME.fullmatch(data)):
        return _hub_sources(data, hub["path"], hub["config"], split)
    if isinstance(data, str | os.PathLike):
        return _path_sources(data)
    return _loaded_sources(data)


def file_source(path: Any, argument: str) -> Source:
    """Return the source for one file; `argument` names it in messages.

    Raises:
        ValueError: for a value that is not a path, for a folder, and for a file of another kind.
        FileNotFoundError: for a file that does not exist.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"{argument}={path!r} is not the path of a file")
    name = os.fspath(path)
    place = Place(name if is_url(name) and not name.startswith("file://") else str(local_path(name)))
    if not is_url(place.name):
        if Path(place.name).is_dir():
            raise ValueError(f"{argument}={name!r} is a folder; {_EXPECTED}")
        if not Path(place.name).exists():
            raise FileNotFoundError(f"{argument}={name!r} does not exist; {_EXPECTED}")
    ending = next((ending for ending in ENDINGS if place.plain_name.endswith(ending)), None)
    if ending is None:
        raise ValueError(f"{argument}={name!r} has an unknown ending; {_EXPECTED}")
    stem = place.filename[: len(place.plain_name) - len(ending)]
    return Source(place.name, without_shard(stem), place.identity(), lambda: file_rows(place))


def _listed(part: Any) -> list[Source]:
    if isinstance(part, str | os.PathLike | Mapping):
        return find_sources(part)
    raise ValueError(f"data={part!r} is not the path of a file")


def _specified(spec: Mapping[str, Any]) -> list[Source]:
    """One entry with its own settings: {"path": ..., "columns": ..., "data_source": ..., "split": ...}."""
    unknown = spec.keys() - {"path", "columns", "data_source", "split"}
    if unknown:
        raise ValueError(
            f"data: unknown key(s) {', '.join(sorted(unknown))}; an entry has path, columns, data_source, split"
        )
    changes = {name: spec[name] for name in ("columns", "split") if name in spec}
    if "data_source" in spec:
        changes["label"] = str(spec["data_source"])
    extra = [sorted((spec.get("columns") or {}).items(), key=str), spec.get("data_source")]
    return [replace(source, identity=[*source.identity, extra], **changes) for source in find_sources(spec["path"])]


def _path_sources(data: str | os.PathLike) -> list[Source]:
    name = os.fspath(data)
    if is_url(name) and not name.startswith("file://"):
        return _url_sources(name)
    path = local_path(name)
    if path.is_dir():
        return _folder_sources(path)
    if has_magic(name) and not path.exists():
        files = sorted(glob(str(path), recursive=True))
        if not files:
            raise FileNotFoundError(f"data={name!r} matches no file")
        return _one_set(files, _root_name(Path(os.path.commonpath([os.path.dirname(file) for file in files]))))
    source = file_source(name, "data")
    return [source]


def _url_sources(url: str) -> list[Source]:
    filesystem, path = filesystem_of(url)
    if has_magic(path) or filesystem.isdir(path):
        pattern = path if has_magic(path) else f"{path.rstrip('/')}/**"
        found = sorted(file for file in filesystem.glob(pattern) if _is_data(file))
        if not found:
            raise FileNotFoundError(f"data={url!r} has no file of a known kind; {_EXPECTED}")
        scheme = url.partition("://")[0]
        return _one_set([f"{scheme}://{file.lstrip('/')}" for file in found], _root_name(Path(path.partition("*")[0])))
    return [file_source(url, "data")]


def _folder_sources(folder: Path) -> list[Source]:
    """A folder that `save_to_disk` wrote, or a folder of data files, also in subfolders."""
    if (folder / "dataset_dict.json").exists():
        names = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        parts = {name: _folder_sources(folder / name) for name in names}
        return [replace(s, split=canonical(name), label=folder.name) for name, part in parts.items() for s in part]
    if (folder / "state.json").exists():
        files = [entry["filename"] for entry in json.loads((folder / "state.json").read_text())["_data_files"]]
        return [replace(file_source(folder / file, "data"), label=folder.name) for file in files]
    files = sorted(
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and _is_data(path.name) and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
    if not files:
        raise ValueError(f"data={str(folder)!r} is a folder without a file of a known kind; {_EXPECTED}")
    kinds = {next(ending for ending in ENDINGS if Place(file).plain_name.endswith(ending)) for file in files}
    if len(kinds) > 1:
        raise ValueError(
            f"data={str(folder)!r} has files of several kinds, {', '.join(sorted(kinds))}; choose some with a "
            f"pattern such as {folder}/**/*{min(kinds)}"
        )
    inside = {file: str(Path(file).relative_to(folder)) for file in files}
    return _one_set(files, _root_name(folder), inside)


def _one_set(files: Sequence[str], label: str, names: Mapping[str, str] | None = None) -> list[Source]:
    """The sources of files that are one data set: one label, and splits if the file names contain some."""
    return _by_name([replace(file_source(file, "data"), label=label) for file in files], names)


def _by_name(sources: list[Source], names: Mapping[str, str] | None = None) -> list[Source]:
    """Give sources the splits that are in the names of their files."""
    splits = [s.split or split_in_name((names or {}).get(s.name, Place(s.name).plain_name)) for s in sources]
    return [replace(s, split=split) for s, split in zip(sources, splits, strict=True)]


def _root_name(folder: Path) -> str:
    """The name of the data set in a folder. If the folder is named "data" or like a split, a parent gives the name."""
    while folder.name and (folder.name.lower() == "data" or split_in_name(folder.name)) and folder.parent.name:
        folder = folder.parent
    return folder.name or "data"


def _is_data(name: str) -> bool:
    base = os.path.basename(name)
    return base not in _NO_DATA and Place(base).plain_name.endswith(ENDINGS)


def _names_a_file(name: str) -> bool:
    return is_url(name) or has_magic(name) or Place(name).plain_name.endswith(ENDINGS) or Path(name).exists()


def _hub_sources(name: str, path: str, config: str | None, split: str | None) -> list[Source]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"data={name!r} is not a file here, and loading it from the Hugging Face hub needs the package `datasets`: "
            f'pip install "aspo-rllib[hub]"'
        ) from error
    part = split if split is not None and re.search(r"[\[+]", split) else None
    try:
        loaded = datasets.load_dataset(path, config, split=part)
    except (OSError, ValueError) as error:
        raise ValueError(f"data={name!r} is not a file here, and as a data set of the hub: {error}") from error
    parts = {part: loaded} if part else dict(loaded)
    return [
        Source(
            name=f"{name}, split {key}",
            label=path,
            identity=["hub", path, config, key, dataset._fingerprint],
            rows=lambda dataset=dataset: _dataset_rows(dataset),
            split=canonical(key),
        )
        for key, dataset in parts.items()
    ]


def _is_loaded(data: Any) -> bool:
    datasets = sys.modules.get("datasets")  # a loaded data set exists only if `datasets` was imported
    return bool(datasets) and isinstance(data, datasets.DatasetDict | datasets.IterableDatasetDict)


def _loaded_sources(data: Any) -> list[Source]:
    datasets = sys.modules.get("datasets")
    if datasets and isinstance(data, datasets.DatasetDict):
        return [replace(_dataset_source(part), split=canonical(name)) for name, part in data.items()]
    if not datasets or not isinstance(data, datasets.Dataset):
        raise ValueError(f"data is a {type(data).__name__}; {_EXPECTED}")
    return [_dataset_source(data)]


def _dataset_source(data: Any) -> Source:
    name = data.info.dataset_name or "data"
    return Source(
        name=f"{name}, split {data.split}" if data.split else name,
        label=name,
        identity=["dataset", data._fingerprint],
        rows=lambda: _dataset_rows(data),
    )


def _dataset_rows(dataset: Any) -> Iterator[Row]:
    """Read as Arrow: other formats decode images and sound, or make tensors of numbers."""
    for row in arrow_rows(dataset.with_format("arrow").iter(batch_size=ARROW_BATCH_ROWS)):
        yield row if row.content is None else row._replace(split=split_of_row(row.content))
