"""`python -m envs.data` shows what a run would see."""

from pathlib import Path

import pytest

from aspo_rllib import TINY_MODEL
from envs.data.__main__ import main

FOLDER = Path(__file__).parents[1] / "data" / "as_found"


def test_it_shows_layout_reports_prompts_and_shared_questions(capsys):
    assert main([str(FOLDER / "splits.json"), "--prompts", "1"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "layout   question and answer\n",
        "splits   train, test\n",
        "3 tasks from 4 rows",
        "shared   1 of the 1 questions of test are in train, too",
        "[user] What is 0+1?\n--- gold: 1\n",
    ):
        assert part in shown


def test_it_shows_prompts_as_the_model_gets_them(capsys):
    assert main([str(FOLDER / "mc_index.jsonl"), "--model", str(TINY_MODEL)]) == 0
    assert "<|user|>What is 3*4?\n\nA) 7\nB) 12\nC) 34\nD) 1<|assistant|>\n--- gold: B or 12" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [[], ["--columns", "prompt=question", "answer=golden"]])
def test_it_proposes_columns_and_takes_them(columns, capsys):
    assert main([str(FOLDER / "question_golden.jsonl"), *columns]) == (0 if columns else 1)
    captured = capsys.readouterr()
    assert ("gold: 2" in captured.out) if columns else ('"answer": "golden"' in captured.err)
