"""The load report: how the rows of the data became a table of tasks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

REPORT_FILE = "report.json"
DROPPED_FILE = "dropped.jsonl"
_MAX_EXAMPLES = 9


@dataclass(frozen=True)
class LoadReport:
    """What was done with every row; the counts from `kept` to `held_out` add up to `rows`.

    Attributes:
        files: the paths or the name of the data set that was read.
        rows: rows that were read, without blank lines.
        kept: tasks in the table, before any `limit`.
        bad: rows that cannot be read as a task.
        other_kind: tasks whose answer is of the other type.
        too_long: tasks with a prompt beyond `max_prompt_chars`.
        filtered_by_pass_rate: tasks whose pass rate is out of the range.
        duplicates: rows that repeat the question and the answer of a kept row.
        conflicting: rows with the same question and different answers; none of them is kept.
        other_split: rows of another split than the chosen one.
        held_out: tasks that `held_out_frac` puts into the other split.
        templated: kept or repeated tasks whose prompt already contains the tokens of a chat template.
        reasons: how often each reason occurs among the bad rows, the most frequent first.
        first_bad: examples of bad rows, up to three per reason: file, row and reason.
        dropped_path: a JSON Lines file of all bad rows and conflicting questions, with file, row and reason. None if
            there are none.
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
    other_split: int = 0
    held_out: int = 0
    templated: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first_bad: tuple[str, ...] = ()
    dropped_path: str | None = None

    def __str__(self) -> str:
        names = ("bad", "other_kind", "too_long", "filtered_by_pass_rate", "duplicates", "conflicting")
        names += ("other_split", "held_out")
        counts = [f"{getattr(self, name)} {name}" for name in names if getattr(self, name)]
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        left_out = f"; left out: {', '.join(counts)}" if counts else ""
        listed = f"; see {self.dropped_path}" if self.dropped_path else ""
        return f"{self.files[0]}{more}: {self.kept} tasks from {self.rows} rows{left_out}{listed}"

    def details(self) -> str:
        """The report with its examples, for the start of a run."""
        templated = f"\n  {self.templated} prompts already have a chat template's tokens: they get no second template"
        examples = "".join(f"\n  {example}" for example in self.first_bad[:_MAX_EXAMPLES])
        return f"{self}{templated if self.templated else ''}{examples}"

    def write(self, folder: Path) -> None:
        """Write the report into the folder of a store; the folder may be renamed afterwards."""
        (folder / REPORT_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> LoadReport:
        """Read the report from the folder of a store."""
        fields = json.loads((folder / REPORT_FILE).read_text())
        report = cls(**fields | {name: tuple(fields[name]) for name in ("files", "first_bad")})
        dropped_path = str(folder / DROPPED_FILE) if report.bad or report.conflicting else None
        return replace(report, dropped_path=dropped_path)
