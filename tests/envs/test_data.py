"""Task data as people have it, and what of it reaches a table of tasks."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import re
import subprocess
import sys
import textwrap
from itertools import count
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.data import open_tasks
from envs.data.convert import Selection, convert
from envs.data.sources import find_sources
from envs.data.splits import SplitChoice
from envs.data.store import TaskTable
from envs.grading.answers import CodeTests, MathAnswer
from envs.text_env import Task

ROOT = Path(__file__).resolve().parents[2]
BAD_ROWS = ROOT / "tests" / "data" / "bad_rows"
ROWS = [{"problem": f"{i}+1", "answer": str(i + 1)} for i in range(3)]
GOLDS = [("0+1", "1"), ("1+1", "2"), ("2+1", "3")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write(tmp_path):
    """`write(rows, "name.jsonl")` or `write(bytes or text, name)`: the path of a new file."""

    def write(content, name="data.jsonl"):
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def math_tasks(data, **options) -> TaskTable:
    return open_tasks(data, answer_type=MathAnswer, **options)


def golds(table) -> list[tuple[str, str]]:
    return [(task.prompt, " | ".join(task.answer.golds)) for task in table]


def run_python(code: str, *args: object, **environ: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- files as they are found: the right rows or a clear error, never silence

BAD_FILES = {
    "array.json": [("q0", "1"), ("q1", "2")],
    "bigint.jsonl": [("q0", "1180591620717411303424")],
    "blank_lines.jsonl": [("q0", "1"), ("q1", "2")],
    "bom.jsonl": [("q0", "1")],
    "column.json": [("a", "1"), ("b", "2")],
    "crlf.jsonl": [("q0", "1"), ("q1", "2")],
    "dict_wrapped.json": [("q0", "1")],
    "dup_keys.jsonl": r"dup_keys.jsonl, line 1: the key 'prompt' comes twice in one object",
    "empty.jsonl": r"empty.jsonl: there are no rows",
    "extra_info_mixed.jsonl": [("q0", "1"), ("q1", "2")],
    "late_null.jsonl": [("q0", "1"), ("q1", "1"), ("q2", "1"), ("q3", "2")],
    "latin1.jsonl": r"latin1.jsonl, line 1: not UTF-8: byte 0xe9 at offset 64",
    "missing_cols.jsonl": [("q0", "1"), ("z", "3")],
    "nan.jsonl": r"nan.jsonl, line 1: .*ground_truth=nan",
    "prompt_mixed.jsonl": [("q0", "1"), ("plain", "1")],
    "str_dict.jsonl": [("q0", "1")],
    "str_int.jsonl": [("q0", "1"), ("q1", "2")],
    "str_list.jsonl": [("q0", "1"), ("q1", "1 | 2")],
    "surrogate.jsonl": r"surrogate.jsonl, line 1: .*surrogate",
    "truncated.jsonl": r"truncated.jsonl, line 2: not JSON: Expecting value at column 41",
}


@pytest.mark.parametrize("name", sorted(path.name for path in BAD_ROWS.iterdir()))
def test_every_odd_file_gives_its_rows_or_an_error(name, write):
    """The prompts, all "q" in these files, are numbered: they would be one question with different answers."""
    numbers = count()
    path = write(re.sub(rb'"q"', lambda _: b'"q%d"' % next(numbers), (BAD_ROWS / name).read_bytes()), name)
    expected = BAD_FILES[name]
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            math_tasks(path)
    else:
        table = math_tasks(path)
        assert golds(table) == expected
        assert table.report.rows - table.report.other_kind == len(expected)


COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
DOCUMENTS = {
    "array": ROWS,
    "under data": {"version": 1, "data": ROWS},
    "under the only key": {"train": ROWS},
    "columns of pandas": {name: dict(enumerate(values)) for name, values in COLUMNS.items()},
    "columns as lists": COLUMNS,
}
LINES = "\n".join(json.dumps(row) for row in ROWS)
FILES = {
    "lines.jsonl": LINES,
    "lines.ndjson": LINES + "\n",
    "LINES.JSONL": LINES,
    "lines.json": LINES,
    "lines with a mark.json": "\ufeff" + LINES,
    "array with a mark.json": "\ufeff" + json.dumps(ROWS),
    "lines.jsonl.gz": gzip.compress(LINES.encode()),
    "lines.jsonl.xz": lzma.compress(LINES.encode()),
    "lines.ndjson.bz2": bz2.compress(LINES.encode()),
    "array.json.zst": pa.compress(json.dumps(ROWS).encode(), "zstd", asbytes=True),
    "gzip under another name.jsonl": gzip.compress(LINES.encode()),
    "plain under gzip's name.jsonl.gz": LINES,
    "table.csv": "problem,answer\n" + "".join(f"{r['problem']},{r['answer']}\n" for r in ROWS),
    "table with a mark.CSV": "\ufeffproblem,answer\r\n" + "".join(f'"{r["problem"]}",{r["answer"]}\r\n' for r in ROWS),
    "table.tsv.gz": gzip.compress(b"problem\tanswer\n0+1\t1\n1+1\t2\n2+1\t3\n"),
    "by id.json": json.dumps({f"id{i}": row for i, row in enumerate(ROWS)}),
    "by number.json": json.dumps({str(i): row for i, row in enumerate(ROWS)}),
    "by id, of odd rows.json": json.dumps({f"id{i}": {**row, f"note{i}": 1} for i, row in enumerate(ROWS)}),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    **{f"{name}.json": json.dumps(document) for name, document in DOCUMENTS.items()},
    **{f"{name}, indented.json": json.dumps(document, indent=2) for name, document in DOCUMENTS.items()},
}


@pytest.mark.parametrize("name", FILES)
def test_one_content_in_many_files(name, write):
    assert golds(math_tasks(write(FILES[name], name))) == GOLDS


def test_parquet_and_loaded_data_sets(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=2)
    loaded = datasets.Dataset.from_list(ROWS)
    assert golds(math_tasks(tmp_path / "rows.parquet")) == golds(math_tasks(loaded)) == GOLDS
    assert golds(math_tasks(loaded.select([2, 0]))) == [GOLDS[2], GOLDS[0]]
    assert golds(math_tasks(loaded.with_format("numpy"))) == GOLDS


def test_one_row_is_a_document_too(write):
    assert golds(math_tasks(write(json.dumps(ROWS[1]), "row.json"))) == GOLDS[1:2]


def test_files_follow_each_other(write):
    first, second = write(ROWS[:1], "first.jsonl"), write(json.dumps(ROWS[1:]), "second.json")
    table = math_tasks([str(first), second])
    assert golds(table) == GOLDS
    assert [table.origin(i) for i in range(3)] == [(str(first), 1), (str(second), 0), (str(second), 1)]
    assert [task.data_source for task in table] == ["first", "second", "second"]


def test_columns_and_history_reach_the_table(write):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ö😀 \\frac"}]
    path = write([{"q": chat, "gold": 2**70, "from": "here"}])
    columns = {"prompt": "q", "answer": "gold", "data_source": "from"}
    expected = Task("ö😀 \\frac", MathAnswer(("1180591620717411303424",)), "here", (chat[0],))
    assert list(math_tasks(path, columns=columns)) == [expected]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.json", "3", r"text\.json: the document is a JSON int, not an array of rows"),
        ("cut.json", "[{}", r"cut\.json: not JSON: Expecting ',' delimiter at column 4"),
        ("cut.json", '[\n{"a": 1},\n{"b"]', r"cut\.json: not JSON: .* at line 3, column 5"),
        ("deep.jsonl", "[" * 100_000, r"deep\.jsonl, line 1: not JSON: nested too deeply"),
        ("digits.jsonl", '{"problem": "a", "answer": %s}' % ("7" * 5000), r"digits\.jsonl, line 1: .*4300"),
        ("list.jsonl", "[1]\nnull", r"list\.jsonl, line 1: the row is a JSON list, not an object\n.*line 2.* null"),
        ("numbers.json", "[1, 2]", r"numbers\.json, row 0: the row is a JSON int"),
        ("empty.json", " \n", r"empty\.json: there are no rows"),
        ("empty.json", "[]", r"empty\.json: there are no rows"),
        ("other.json", '{"rows": 3, "names": ["a"]}', r"other\.json, row 0: .*rows.*names|names.*rows"),
        ("utf16.jsonl", LINES.encode("utf-16"), r"utf16\.jsonl, line 1: not UTF-8: byte 0xff at offset 0"),
        ("blank.jsonl", [{"problem": " \n", "answer": "1"}], r"blank\.jsonl, line 1: "),
        ("cut.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], r"cut\.jsonl\.gz cannot be read: "),
        ("plain.csv", "a,b\n1\n", r"plain\.csv, row 0: the row has more or fewer fields than the 2 columns"),
        ("latin.csv", b"a,b\n\xe9,1\n", r"latin\.csv is not UTF-8: byte 0xe9"),
        (
            "pointer.parquet",
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            r"a pointer of Git LFS.*git lfs pull",
        ),
        ("text.parquet", LINES, r"text\.parquet cannot be read: .*magic bytes"),
        ("data.xlsx", "a,b", r"data='.*data\.xlsx' has an unknown ending; expected a file \(\.jsonl, "),
    ],
)
def test_unreadable_data_is_named(name, content, message, write, cache):
    path = write(content, name)
    with pytest.raises(ValueError, match=message):
        math_tasks(path)
    assert not list(cache.rglob("*.partial"))


def test_bad_cells_of_parquet_are_rows(tmp_path):
    texts = pa.Array.from_buffers(pa.string(), 3, [*pa.array(["a", "b", "c"]).buffers()[:2], pa.py_buffer(b"a\xe9c")])
    pq.write_table(pa.table({"problem": texts, "answer": ["1", "2", "3"]}), tmp_path / "cells.parquet")
    with pytest.raises(ValueError, match=r"1 of 3 rows are bad.*\n.*cells\.parquet, row 1: .*can't decode byte 0xe9"):
        math_tasks(tmp_path / "cells.parquet")
    with pytest.warns(UserWarning, match="1 bad"):
        assert golds(math_tasks(tmp_path / "cells.parquet", max_bad_frac=0.5)) == [("a", "1"), ("c", "3")]


# --- what the argument `data` may be


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("missing.jsonl", FileNotFoundError, r"data='missing\.jsonl' does not exist; expected a file \(\.jsonl"),
        (["missing.parquet"], FileNotFoundError, r"data='missing\.parquet' does not exist"),
        ("missing", FileNotFoundError, r"data='missing' does not exist"),
        ([], ValueError, r"data=\[\] names no file"),
        ([3], ValueError, r"data=3 is not the path of a file"),
        (3, ValueError, r"data is a int; expected a file"),
        ("*.nothing", FileNotFoundError, r"data='\*\.nothing' matches no file"),
        ({}, ValueError, r"data=\{\} names no file"),
        ([{"path": "a.jsonl", "colums": {}}], ValueError, r"data: unknown key\(s\) colums; an entry has path, columns"),
        (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), ValueError, r"data is a IterableDataset; expected"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_data_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        math_tasks(data)


def test_hub_names_need_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"data='owner/name'.*pip install \"aspo-rllib\[hub\]\""):
        math_tasks("owner/name")


def test_hub_names_load_a_split_and_a_config(tmp_path):
    """Offline, out of a cache folder as `datasets` leaves it behind."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    code = """
        import shutil, sys
        from datasets.packaged_modules.parquet.parquet import Parquet
        from envs.data import open_tasks
        from envs.grading.answers import MathAnswer

        rows, cache = sys.argv[1:]
        options = {"config_name": "algebra", "data_files": {"validation": [rows]}}
        builder = Parquet(cache_dir=cache, dataset_name="name", hash="0" * 40, **options)
        builder.download_and_prepare()
        shutil.copytree(builder.cache_dir, f"{cache}/owner___name/algebra/0.0.0/{'0' * 40}")
        table = open_tasks("owner/name:algebra", split="validation", answer_type=MathAnswer)
        print(*(task.prompt for task in table), table[0].data_source, table.report)
        for name, split in (("owner/name:algebra", "test"), ("owner/other", None)):
            try:
                open_tasks(name, split=split, answer_type=MathAnswer)
            except ValueError as error:
                print(error)
    """
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "hub"), "HF_HOME": str(tmp_path / "home")}
    opened, no_split, no_data = run_python(code, tmp_path / "rows.parquet", tmp_path / "hub", **offline).splitlines()
    report = "owner/name:algebra, split validation: 3 tasks from 3 rows"
    assert opened == f"0+1 1+1 2+1 owner/name {report}"
    assert (
        no_split == "split='test': owner/name:algebra, split validation has the splits validation; choose one of them"
    )
    assert "data='owner/other' is not a file here, and as a data set of the hub: Couldn't reach" in no_data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_type": str}, "answer_type=<class 'str'> is not one of MathAnswer, CodeTests"),
        ({"max_bad_frac": 1.5}, r"max_bad_frac=1\.5 is not in 0\.\.1"),
        ({"max_bad_frac": float("nan")}, r"max_bad_frac=nan is not in"),
        ({"limit": 0}, r"limit=0 is not an integer in 1\.\."),
        ({"limit": True}, r"limit=True is not"),
        ({"max_prompt_chars": 2.5}, r"max_prompt_chars=2\.5 is not an integer in 1\.\."),
        ({"pass_rate_range": (0.8, 0.2)}, r"pass_rate_range=\(0\.8, 0\.2\) is not \(lowest, highest\)"),
        ({"pass_rate_range": (0.2, 0.8)}, r"pass_rate_range=\(0\.2, 0\.8\) needs pass_rates"),
        ({"columns": {"prompt": "nope"}}, r"line 1: columns: the row has no nope"),
    ],
)
def test_bad_arguments_are_named(options, message, write):
    with pytest.raises(ValueError, match=message):
        open_tasks(write(ROWS), **{"answer_type": MathAnswer} | options)


def test_pass_rates_must_exist(write):
    with pytest.raises(FileNotFoundError, match=r"pass_rates='rates\.jsonl' does not exist"):
        math_tasks(write(ROWS), pass_rates="rates.jsonl")


# --- which rows become tasks


def many_rows(num_rows: int, bad: tuple[int, ...] = ()) -> str:
    lines = [json.dumps({"problem": f"{i}+1", "answer": str(i + 1)}) for i in range(num_rows)]
    return "\n".join("{" if i in bad else line for i, line in enumerate(lines))


@pytest.mark.parametrize(
    ("num_rows", "bad", "max_bad_frac", "allowed"),
    [
        (99, (50,), 0.01, False),
        (100, (50,), 0.01, True),
        (200, (5, 6), 0.01, True),
        (200, (5, 6, 7), 0.01, False),
        (200, (5, 6, 7), 0.015, True),
        (200, (5,), 0.0, False),
        (2, (0,), 0.5, True),
    ],
)
def test_share_of_bad_rows(num_rows, bad, max_bad_frac, allowed, write):
    path = write(many_rows(num_rows, bad))
    if allowed:
        with pytest.warns(
            UserWarning, match=rf"{num_rows - len(bad)} tasks from {num_rows} rows; left out: {len(bad)}"
        ):
            table = math_tasks(path, max_bad_frac=max_bad_frac)
        assert [table.origin(i)[1] for i in range(len(table))] == [i + 1 for i in range(num_rows) if i not in bad]
    else:
        expected = rf"{len(bad)} of {num_rows} rows are bad, with max_bad_frac={max_bad_frac}.*\n.*line {bad[0] + 1}:"
        with pytest.raises(ValueError, match=expected):
            math_tasks(path, max_bad_frac=max_bad_frac)


def test_bad_rows_are_written_down(write):
    path = write(many_rows(300, bad=tuple(range(0, 300, 10))))
    with pytest.raises(ValueError) as error:
        math_tasks(path)
    assert re.findall(r"line (\d+): not JSON", str(error.value)) == ["1"]  # a reason once
    with pytest.warns(UserWarning) as caught:
        report = math_tasks(path, max_bad_frac=1.0).report
    assert report.dropped_path in str(caught[0].message) and report.dropped_path in str(error.value)
    dropped = [json.loads(line) for line in Path(report.dropped_path).read_text().splitlines()]
    assert [row["row"] for row in dropped] == list(range(1, 301, 10))
    assert dropped[0] == {
        "file": str(path),
        "row": 1,
        "reason": "not JSON: Expecting property name enclosed in double quotes at column 2",
    }


def test_repeated_and_contradictory_questions(write):
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    rows = [("a", "1"), ("b", "2"), ("a", "1"), ("c", "3"), ("b", "2"), ("b", "5"), ("b", "2"), ("d", "2"), (chat, "7")]
    path = write([{"prompt": prompt, "answer": gold} for prompt, gold in rows])
    with pytest.warns(UserWarning, match="4 conflicting"):
        table = math_tasks(path)
    assert golds(table) == [("a", "1"), ("c", "3"), ("d", "2"), ("a", "7")]
    report = table.report
    assert (report.rows, report.kept, report.duplicates, report.conflicting) == (9, 4, 1, 4)
    assert str(report) == (
        f"{path}: 4 tasks from 9 rows; left out: 1 duplicates, 4 conflicting; see {report.dropped_path}"
    )
    (dropped,) = map(json.loads, Path(report.dropped_path).read_text().splitlines())
    assert dropped == {
        "file": str(path),
        "row": 2,
        "reason": "conflicting: later rows have this prompt and another answer",
    }


def test_questions_that_all_contradict_leave_nothing():
    with pytest.raises(
        ValueError, match=r"all 2 rows of .*array.json have the same prompt, 'q', .* Columns that differ: "
    ):
        math_tasks(BAD_ROWS / "array.json")


CODE = {"problem": "Double it.", "tests": json.dumps({"inputs": ["1\n"], "outputs": ["2\n"]})}


def test_answers_of_the_other_type_are_left_out(write):
    path = write([ROWS[0], CODE, ROWS[1]])
    math, code = math_tasks(path), open_tasks(path, answer_type=CodeTests)
    assert golds(math) == GOLDS[:2]
    assert code[0].answer == CodeTests("stdin", ("1\n",), ("2\n",))
    assert [(t.report.kept, t.report.other_kind, t.report.bad) for t in (math, code)] == [(2, 1, 0), (1, 2, 0)]
    with pytest.raises(
        ValueError, match=r"no task with answer_type=CodeTests is left of .*: 0 tasks from 3 rows; .* 3 o"
    ):
        open_tasks(write(ROWS, "math.jsonl"), answer_type=CodeTests)


def test_long_prompts_are_left_out(write):
    chat = [{"role": "system", "content": "123"}, {"role": "user", "content": "456"}]
    path = write([{"prompt": prompt, "answer": "1"} for prompt in ("12345", "123456", chat)])
    table = math_tasks(path, max_prompt_chars=5)
    assert (golds(table), table.report.too_long) == ([("12345", "1")], 2)


def test_pass_rates_filter(write, tmp_path):
    path = write([{"problem": name, "answer": "1"} for name in "abcdef"])
    rates = [("a", 0.0, 8), ("b", 0.25, 8), ("c", 0.5, 1), ("d", 1.0, 8), ("e", 0.0, 1), ("e", 1.0, 3), ("x", 0.5, 8)]
    columns = ("prompt", "pass_rate", "num_samples")
    measured = [dict(zip(columns, rate, strict=True)) for rate in rates]
    pq.write_table(pa.Table.from_pylist(measured), tmp_path / "rates.parquet")
    for file in (write(measured, "rates.jsonl"), tmp_path / "rates.parquet"):
        table = math_tasks(path, pass_rates=file, pass_rate_range=(0.25, 0.75))
        assert [task.prompt for task in table] == ["b", "c", "e", "f"]
        assert table.report.filtered_by_pass_rate == 2
    unweighted = write([{k: row[k] for k in columns[:2]} for row in measured], "unweighted.jsonl")
    assert len(math_tasks(path, pass_rates=unweighted, pass_rate_range=(0.0, 0.5))) == 5


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([{"prompt": "x", "pass_rate": 0.5}], r"pass_rates: .*rates\.jsonl has none of the prompts of .*data\.jsonl"),
        ([], r"pass_rates: .*rates\.jsonl has none"),
        ([{"prompt": "0+1"}], r"pass_rates: .*rates\.jsonl, line 1: pass_rate=None is not in 0\.\.1"),
        ([{"prompt": "0+1", "pass_rate": 1.5}], r"line 1: pass_rate=1\.5 is not in 0\.\.1"),
        ([{"prompt": "0+1", "pass_rate": float("nan")}], r"line 1: pass_rate=nan is not in 0\.\.1"),
        ([{"prompt": "0+1", "pass_rate": 1, "num_samples": 0}], r"line 1: num_samples=0 is not a number above 0"),
        ([{"problem": "0+1", "pass_rate": 1}], r"line 1: prompt=None is not a text"),
        ("{", r"rates\.jsonl, line 1: not JSON"),
    ],
)
def test_bad_pass_rates_are_named(rates, message, write):
    with pytest.raises(ValueError, match=message):
        math_tasks(write(ROWS), pass_rates=write(rates, "rates.jsonl"))


# --- the table


def test_table_is_a_sequence_of_tasks(write):
    table = math_tasks(write(many_rows(10)))
    assert len(table) == 10
    assert table[-1] == table[np.int64(9)] == Task("9+1", MathAnswer(("10",)), "data")
    assert [task.prompt for task in table] == [f"{i}+1" for i in range(10)]
    for index in (10, -11):
        with pytest.raises(IndexError, match=rf"index={index} is not in a table of 10 tasks"):
            table[index]
    with pytest.raises(TypeError):
        table[1:2]


def test_limit_shows_the_first_tasks_of_the_same_store(write):
    path = write(many_rows(10))
    assert golds(math_tasks(path, limit=3)) == golds(math_tasks(path))[:3]
    assert len(math_tasks(path, limit=30)) == 10
    assert pickle.loads(pickle.dumps(math_tasks(path, limit=3)))[-1].prompt == "2+1"
    assert repr(math_tasks(path, limit=3)) == repr(math_tasks(path))[:-5] + "3)"


def test_order_and_content_survive_batches(write):
    rows = [{"problem": f"{i} " + "x" * (i % 7), "answer": i} for i in range(10_000) for _ in range(1 + i % 2)]
    rows += [{"problem": "5000 xx", "answer": 1}]
    table = math_tasks(write(rows))
    assert [int(task.answer.golds[0]) for task in table] == [i for i in range(10_000) if i != 5000]
    assert (table.report.duplicates, table.report.conflicting) == (5000, 2)


def test_large_tests_go_through(write):
    cases = [{**CODE, "problem": f"{i}", "tests": {"inputs": ["1" * 10**7], "outputs": [f"{i}"]}} for i in range(4)]
    table = open_tasks(write(cases), answer_type=CodeTests)
    assert [(len(task.answer.inputs[0]), task.answer.outputs) for task in table] == [
        (10**7, (f"{i}",)) for i in range(4)
    ]


def test_pickled_table_is_small_and_opens_the_same_store(write):
    table = math_tasks(write(many_rows(1000)))
    sent = pickle.dumps(table)
    assert len(sent) < 500
    assert list(pickle.loads(sent)) == list(table)
    assert pickle.loads(sent).report == table.report


# --- the cache


def store(table) -> tuple[str, int]:
    """Name and inode of the file behind a table: a second conversion gives another inode."""
    folder = table.__reduce__()[1][0]
    return folder, os.stat(f"{folder}/tasks.arrow").st_ino


def test_data_is_converted_again_only_when_it_or_the_options_change(write):
    path = write(ROWS)
    first = store(math_tasks(path))
    assert store(math_tasks(str(path))) == store(math_tasks([path], limit=1, max_bad_frac=0.5)) == first
    rates = write([{"prompt": "0+1", "pass_rate": 0.5}], "rates.jsonl")
    stores = [first[0]]
    for options in (
        {"max_prompt_chars": 100},
        {"columns": {"prompt": "problem", "answer": "answer"}},
        {"pass_rates": rates},
        {"pass_rates": rates, "pass_rate_range": (0.0, 0.5)},
    ):
        stores.append(store(math_tasks(path, **options))[0])
    rates.write_text(rates.read_text().replace("0.5", "0.6"))
    stores.append(store(math_tasks(path, pass_rates=rates))[0])
    path.write_text(path.read_text().replace("0+1", "8+1"))
    changed = math_tasks(path)
    stores.append(store(changed)[0])
    assert changed[0].prompt == "8+1"
    assert len(set(stores)) == len(stores)


def test_a_cached_table_has_the_report_and_the_warning(write):
    path = write(many_rows(200, bad=(7,)))
    messages = []
    for _ in range(2):
        with pytest.warns(UserWarning) as caught:
            report = math_tasks(path).report
        messages.append((str(caught[0].message), report))
    assert messages[0] == messages[1]
    assert (report.rows, report.kept, report.bad) == (200, 199, 1)


def test_loaded_data_sets_are_cached_by_their_fingerprint():
    loaded = datasets.Dataset.from_list(ROWS)
    assert store(math_tasks(loaded)) == store(math_tasks(loaded))
    assert store(math_tasks(loaded.select([0])))[0] != store(math_tasks(loaded))[0]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"ASPO_CACHE": "aspo", "XDG_CACHE_HOME": "xdg", "HOME": "home"}, "aspo/tasks"),
        ({"XDG_CACHE_HOME": "xdg", "HOME": "home"}, "xdg/aspo_rllib/tasks"),
        ({"HOME": "home"}, "home/.cache/aspo_rllib/tasks"),
    ],
)
def test_cache_folder(environ, expected, write, monkeypatch, tmp_path):
    for name in ("ASPO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in environ.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    path = write(ROWS)
    assert Path(store(math_tasks(path))[0]).parent == tmp_path / expected
    assert Path(store(math_tasks(path, cache_dir=tmp_path / "chosen"))[0]).parent == tmp_path / "chosen" / "tasks"


def test_processes_that_open_the_same_data_at_once_convert_it_once(write):
    """A second conversion would fail, as its folder is there, or leave another inode than the first process saw."""
    code = """
        import multiprocessing, os, sys
        from envs.data import open_tasks
        from envs.grading.answers import MathAnswer

        def open_together(path):
            together.wait()
            table = open_tasks(path, answer_type=MathAnswer)
            return len(table), table[-1].prompt, os.stat(f"{table.__reduce__()[1][0]}/tasks.arrow").st_ino

        fork = multiprocessing.get_context("fork")
        together = fork.Barrier(10)
        with fork.Pool(10) as pool:
            print(*set(pool.map(open_together, sys.argv[1:] * 10, chunksize=1)))
    """
    assert re.fullmatch(r"\(5000, '4999\+1', \d+\)\n", run_python(code, write(many_rows(5000))))


def test_a_leftover_of_a_killed_conversion_is_replaced(write, cache):
    path = write(ROWS)
    folder = Path(store(math_tasks(path))[0])
    folder.rename(f"{folder}.partial")
    (Path(f"{folder}.partial") / "tasks.arrow").write_bytes(b"half")
    assert golds(math_tasks(path)) == GOLDS
    assert not list(cache.rglob("*.partial"))


# --- time and memory

MEASURE = """
    import sys
    from pathlib import Path
    from envs.data import open_tasks
    from envs.grading.answers import MathAnswer

    def status(name):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024

    before = status("VmRSS")
    table = open_tasks(sys.argv[1], answer_type=MathAnswer)
    opened_mb = status("VmRSS") - before
    rows = [table[i] for i in range(0, len(table), 1000)]
    print(len(table), rows[-1].prompt, opened_mb, status("VmHWM") - before)
"""


def measure(path) -> tuple[str, float, float]:
    """The number of tasks and a late one, MB until the table was open, MB at the peak."""
    *seen, opened_mb, peak_mb = run_python(MEASURE, path).split()
    return " ".join(seen), float(opened_mb), float(peak_mb)


def write_many(path, num_rows):
    with open(path, "w") as file:
        for i in range(num_rows):
            file.write(f'{{"problem": "What is {i} plus one?", "answer": "{i + 1}"}}\n')
    return path


def test_opening_reads_no_rows(tmp_path):
    path = write_many(tmp_path / "many.jsonl", 50_000)
    seen, _, converting_mb = measure(path)
    assert seen == "50000 What is 49000 plus one?"
    assert converting_mb < 100
    assert measure(path)[1] < 20


@pytest.mark.slow
def test_a_file_of_many_rows_is_converted_in_pieces_and_never_held(tmp_path):
    path = write_many(tmp_path / "many.jsonl", 250_000)
    seen, _, converting_mb = measure(path)
    assert seen == "250000 What is 249000 plus one?"
    assert converting_mb < 200
    assert measure(path)[1] < 50


def convert_all(data, folder, alone_s):
    """The bytes of the store, made with or without other processes."""
    selection = Selection(MathAnswer, 200, None)
    convert(find_sources(data), folder, None, selection, SplitChoice("train", 0.2, 0), alone_s)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_several_processes_make_the_same_store(write, tmp_path):
    rows = [{"problem": f"{i % 2500}+1", "answer": str(i % 2500 + 1 + (i % 499 == 0)), "id": i} for i in range(3000)]
    rows[300] |= {"answer": None}
    rows[900] |= {"problem": "long " * 50}
    lines = [json.dumps(row) for row in rows]
    lines[1500] = '{"problem": "1+1", "answer": "2", "deep": ' + "[" * 600 + "]" * 600 + "}"
    lines[2000] = "{"
    path = write("\n".join(lines))
    alone = convert_all(path, tmp_path / "alone", alone_s=1e9)
    assert convert_all(path, tmp_path / "together", alone_s=0.0) == alone
    report = json.loads(alone["report.json"])
    assert [report[name] for name in ("rows", "bad", "too_long", "duplicates", "conflicting")] == [3000, 2, 1, 400, 4]
    assert report["held_out"] > 300
