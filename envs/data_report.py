"""What became of every row of the data that a table of tasks was made from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

REPORT_FILE = "report.json"
DROPPED_FILE = "dropped.jsonl"


@dataclass(frozen=True)
class LoadReport:
    """What became of every row; the counts after `rows` add up to it.

    Attributes:
        files: what was read: paths, the name of a data set.
        rows: rows read, without blank lines.
        kept: tasks in the table, before any `limit`.
        bad: rows that are no task.
        other_kind: tasks whose answer is of the other type.
        too_long: tasks with a prompt beyond `max_prompt_chars`.
        filtered_by_pass_rate: tasks whose pass rate is out of the range.
        duplicates: rows that repeat the question and the answer of a kept one.
        conflicting: rows with one question and different answers; none of them is kept.
        first_bad: the first few bad rows: file, row and reason.
        dropped_path: JSON Lines of all bad rows and conflicting questions: file, row, reason. None without any.
    """

    files: tuple[str, ...]
    rows: int
    kept: int
    bad: int = 0
    other_kind: int = 0
    too_long: int = 0
    filtered_by_pass_rate: int = 0
    duplicates: int = 0
    conflicting: int = 0
    first_bad: tuple[str, ...] = ()
    dropped_path: str | None = None

    def __str__(self) -> str:
        names = ("bad", "other_kind", "too_long", "filtered_by_pass_rate", "duplicates", "conflicting")
        counts = [f"{getattr(self, name)} {name}" for name in names if getattr(self, name)]
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        left_out = f"; left out: {', '.join(counts)}" if counts else ""
        listed = f"; see {self.dropped_path}" if self.dropped_path else ""
        return f"{self.files[0]}{more}: {self.kept} tasks from {self.rows} rows{left_out}{listed}"

    def write(self, folder: Path) -> None:
        """Put the report into a store's folder; the folder may be renamed afterwards."""
        (folder / REPORT_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> LoadReport:
        """Take the report out of a store's folder."""
        fields = json.loads((folder / REPORT_FILE).read_text())
        report = cls(**fields | {name: tuple(fields[name]) for name in ("files", "first_bad")})
        dropped_path = str(folder / DROPPED_FILE) if report.bad or report.conflicting else None
        return replace(report, dropped_path=dropped_path)
