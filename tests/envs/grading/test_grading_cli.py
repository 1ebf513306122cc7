"""`python -m envs.grading`: the cases of this folder, and what it says about broken ones."""

import json
import shutil
from pathlib import Path

import pytest

from envs.grading.__main__ import main
from envs.grading.code.grader import CodeGrader
from envs.grading.sandbox import SandboxError

DATA = Path(__file__).parents[2] / "data"


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_math_cases(capsys):
    code = main(["math", str(DATA / "math.jsonl")])
    *rows, score = lines(capsys)
    right, total = map(int, score.split("/"))
    disagreements = [row for row in rows if "(policy)" not in row]
    assert total == 407 and right >= 0.97 * total
    assert len(disagreements) == total - right and code == (right < total)
    assert sum("expected False, got True" in row for row in disagreements) <= 3


def test_slow_math_cases(capsys):
    assert main(["math", str(DATA / "math_slow.jsonl")]) == 0
    assert lines(capsys) == ["33/33"]


def lost(*args):
    raise SandboxError("lost")


def test_programs(capsys, tmp_path, monkeypatch):
    # All of them are graded by test_code_grader.py; here a right, a wrong and a hanging one.
    spec = json.loads((DATA / "code" / "expected.json").read_text())
    names = [
        "ok01_input.py",
        "a34_sys_exit_0.py",
        "okc03_plain_function.py",
        "okd01_assert.py",
        "b11_swallow_timeout.py",
    ]
    spec["files"] = {name: spec["files"][name] for name in names}
    spec["limits"] |= {"wall_s": 2, "cpu_s": 2}
    for name in names:
        shutil.copy(DATA / "code" / name, tmp_path)
    (tmp_path / "expected.json").write_text(json.dumps(spec))
    assert main(["code", str(tmp_path)]) == 0
    assert lines(capsys) == ["5/5"]

    monkeypatch.setattr(CodeGrader, "_first_failure", lost)
    assert main(["code", str(tmp_path)]) == 1
    assert lines(capsys)[1:3] == [
        "a34_sys_exit_0.py: expected False, and the sandbox failed: stdin",
        "okc03_plain_function.py: expected True, and the sandbox failed: call",
    ]
    monkeypatch.undo()

    spec["files"]["ok01_input.py"]["expect"] = "fail"
    (tmp_path / "expected.json").write_text(json.dumps(spec))
    assert main(["code", str(tmp_path)]) == 1
    assert lines(capsys) == ["ok01_input.py: expected False, got True (ok): stdin", "4/5"]


def test_a_disagreement_is_a_row_and_the_exit_code(capsys, tmp_path):
    rows = [
        {"gold": "1/2", "answer": r"\boxed{0.5}", "expected": True},
        {"id": "m7", "gold": ["3", "4"], "answer": r"\boxed{4}", "expected": False},
        {"gold": "3", "answer": r"\boxed{4}", "expected": True, "policy": True},
    ]
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["math", str(tmp_path / "cases.jsonl")]) == 1
    assert lines(capsys) == [
        r"m7: expected False, got True (ok): gold ['3', '4'], answer '\\boxed{4}'",
        r"line 3 (policy): expected True, got False (wrong): gold '3', answer '\\boxed{4}'",
        "1/2",
    ]


@pytest.mark.parametrize("line", ['{"gold": "1"}', "[1]", "{", '{"gold": [], "answer": "1", "expected": true}'])
def test_a_line_that_is_no_case_is_named(tmp_path, line):
    (tmp_path / "cases.jsonl").write_text('{"gold": "1", "answer": "1", "expected": true}\n' + line)
    with pytest.raises(ValueError, match=r"cases.jsonl, line 2: .* a case has gold, answer and expected"):
        main(["math", str(tmp_path / "cases.jsonl")])


def test_a_path_that_is_not_there_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["math", "no/such.jsonl"])
    assert exit_.value.code == 2 and "no/such.jsonl does not exist" in capsys.readouterr().err


def test_check_of_a_data_file(capsys, tmp_path):
    rows = [
        {"question": "1+1?", "answer": "#### 2"},
        {"question": "Half of 3?", "answer": "#### 3/2"},
        {"question": "Show it.", "answer": "proof"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["check", str(tmp_path / "rows.jsonl")]) == 1
    found = lines(capsys)
    assert found[0] == "rows that are tasks: 2/3" and "line 3" in found[1] and "expected an answer" in found[1]
    assert found[2:] == [
        "golds that equal their own text: 2/2",
        "golds of other rows that are wrong: 2/2",
        "golds with another digit that are wrong: 2/2",
        "golds with words after them that are wrong: 2/2",
    ]


def test_without_its_file_it_says_what_to_give(capsys):
    for arguments, missing in (([], "math FILE.jsonl | code FOLDER | check FILE"), (["check"], "FILE")):
        with pytest.raises(SystemExit):
            main(arguments)
        assert f"the following arguments are required: {missing}" in capsys.readouterr().err
