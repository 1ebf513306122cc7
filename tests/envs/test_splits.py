"""Splits by name, and a share of the questions that training never sees."""

import json
import os
import warnings
from datetime import datetime

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.evaluate.sets import load_report, open_sets, print_load_report
from aspo_rllib.rollout.prompts import prompts_of
from envs.chat import render, set_chat_template
from envs.data import open_tasks
from envs.grading.answers import MathAnswer
from envs.math import MathEnv

ROWS = [{"problem": f"{i}+1", "answer": str(i + 1)} for i in range(300)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASPO_CACHE", str(tmp_path / "cache"))


def lines(rows, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prompts(data, **options):
    return [task.prompt for task in open_tasks(data, answer_type=MathAnswer, **options)]


EXPECTED = {"train": ["0+1", "1+1"], "test": ["2+1"]}


def split_data(form, folder):
    train, test = ROWS[:2], ROWS[2:3]
    if form == "keys":
        return {"train": lines(train, folder / "a.jsonl"), "test": [lines(test, folder / "b.jsonl")]}
    if form == "list":
        return [lines(train, folder / "my_train.jsonl"), lines(test, folder / "my_test.jsonl")]
    if form == "shards":
        for i, row in enumerate(train):
            lines([row], folder / f"set/train-0000{i}-of-00002.jsonl")
        lines(test, folder / "set/test-00000-of-00001.jsonl")
        return folder / "set"
    if form == "folders":
        lines(train, folder / "set/train/0.jsonl"), lines(test, folder / "set/eval/0.jsonl")
        return str(folder / "set")
    if form == "pattern":
        split_data("shards", folder)
        return str(folder / "set/*.jsonl")
    if form == "column":
        return lines(
            [row | {"split": "training"} for row in train] + [row | {"split": "test"} for row in test],
            folder / "c.jsonl",
        )
    if form == "document":
        (folder / "d.json").write_text(json.dumps({"train": train, "test": test}))
        return folder / "d.json"
    loaded = datasets.DatasetDict(train=datasets.Dataset.from_list(train), test=datasets.Dataset.from_list(test))
    if form == "saved":
        loaded.save_to_disk(folder / "saved")
        return folder / "saved"
    return loaded


@pytest.mark.parametrize(
    "form", ["keys", "list", "shards", "folders", "pattern", "column", "document", "saved", "loaded"]
)
def test_splits_are_understood(form, tmp_path):
    data = split_data(form, tmp_path)
    assert prompts(data) == prompts(data, split="train") == prompts(data, held_out_frac=0.5) == EXPECTED["train"]
    assert prompts(data, split="test") == EXPECTED["test"]
    with pytest.raises(ValueError, match=r"split='val': .* has the splits .*test"):
        prompts(data, split="val")


def test_a_set_of_shards_is_one_data_source(tmp_path):
    data = split_data("shards", tmp_path)
    assert {task.data_source for task in open_tasks(data, answer_type=MathAnswer)} == {"set"}


@pytest.mark.parametrize("form", ["file", "list", "loaded", "train only"])
def test_a_share_is_held_out_or_it_is_an_error(form, tmp_path):
    path = lines(ROWS, tmp_path / "rows.jsonl")
    data = {"file": path, "list": [path], "loaded": datasets.Dataset.from_list(ROWS), "train only": {"train": path}}[
        form
    ]
    with pytest.raises(ValueError, match=r"split='test': .*held_out_frac=0\.1"):
        prompts(data, split="test")
    train, test = prompts(data, held_out_frac=0.1), prompts(data, held_out_frac=0.1, split="test")
    assert not set(train) & set(test) and sorted(train + test) == sorted(row["problem"] for row in ROWS)
    assert 10 < len(test) < 60
    assert prompts(data, held_out_frac=0.1, held_out_seed=1, split="test") != test


def test_what_is_held_out_stays_when_rows_are_added_or_spaced(tmp_path):
    held = prompts(lines(ROWS[:200], tmp_path / "a.jsonl"), held_out_frac=0.2, split="test")
    spaced = [{**row, "problem": f" {row['problem']}\n", "system": "Be brief."} for row in reversed(ROWS)]
    more = prompts(lines(spaced, tmp_path / "b.jsonl"), held_out_frac=0.2, split="test")
    assert set(held) == {p.strip() for p in more} & {row["problem"] for row in ROWS[:200]}


def test_shared_questions_have_the_same_hash(tmp_path):
    one = MathEnv(lines(ROWS[:5], tmp_path / "a.jsonl"))
    other = MathEnv(lines(ROWS[3:9], tmp_path / "b.jsonl"), prompt_suffix=" Think.", system_prompt="")
    assert np.isin(other.questions(), one.questions()).tolist() == [True, True, False, False, False, False]


def test_urls_entries_with_columns_and_arrow(tmp_path):
    with fsspec.open("memory://bucket/rows.jsonl", "w") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    assert prompts("memory://bucket/rows.jsonl") == prompts("memory://bucket/*.jsonl") == ["0+1"]
    assert prompts(f"file://{lines(ROWS[1:2], tmp_path / 'a.jsonl')}") == ["1+1"]
    other = lines([{"q": "7+1", "gold": "8"}], tmp_path / "b.jsonl")
    mixed = [tmp_path / "a.jsonl", {"path": other, "columns": {"prompt": "q", "answer": "gold"}, "data_source": "mine"}]
    table = open_tasks(mixed, answer_type=MathAnswer)
    assert [(t.prompt, t.data_source) for t in table] == [("1+1", "a"), ("7+1", "mine")]
    arrow = pa.Table.from_pylist(ROWS[:2])
    for make, name in ((pa.ipc.new_file, "file.arrow"), (pa.ipc.new_stream, "stream.arrow")):
        with make(str(tmp_path / name), arrow.schema) as writer:
            writer.write_table(arrow)
        assert prompts(tmp_path / name) == EXPECTED["train"]


def test_a_file_changed_with_the_same_size_and_time_is_noticed(tmp_path):
    path = lines(ROWS[:3], tmp_path / "a.jsonl")
    stat = path.stat()
    assert prompts(path)[0] == "0+1"
    path.write_text(path.read_text().replace("0+1", "9+1"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prompts(path)[0] == "9+1"


def test_a_cache_that_cannot_be_written_names_its_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASPO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="set ASPO_CACHE to another folder"):
        prompts(lines(ROWS[:3], tmp_path / "a.jsonl"))


def test_parquet_of_any_compression(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), tmp_path / "a.parquet", compression="zstd")
    assert prompts(tmp_path / "a.parquet") == EXPECTED["train"]


def test_a_run_reports_its_data_and_what_evaluation_shares_with_training(tmp_path, capsys):
    path = lines(ROWS[:40], tmp_path / "a.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)

    def report_of(train, evaluation):
        config = ASPOConfig().environment("aspo/Math-v0", env_config={"data": str(path), **train})
        config.llm(model=TINY_MODEL).training(batch_prompts=4, minibatch_prompts=2)
        config.evaluation(evaluation_interval=1, evaluation_config={"env_config": evaluation})
        config.evaluation(evaluation_duration=5)
        sets = open_sets(config, lambda one: prompts_of(one, tokenizer))
        return load_report(prompts_of(config, tokenizer), sets)

    held_out = report_of({"held_out_frac": 0.25}, {"split": "test"})
    assert held_out["shared_questions"] == {"default": {"shared": 0, "of": 5}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        print_load_report(held_out)
    assert "from 40 rows; left out: " in capsys.readouterr().out
    shared = report_of({}, {"limit": 30})
    assert shared["shared_questions"] == {"default": {"shared": 5, "of": 5}}
    with pytest.warns(
        UserWarning, match="5 of the 5 questions of the evaluation set 'default' are in the training set"
    ):
        print_load_report(json.loads(json.dumps(shared)))


@pytest.mark.parametrize("template", ["{{ messages[-1]['content'] }}", "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('no system role') }}{% endif %}{{ messages[0]['content'] }}"])  # fmt: skip
def test_a_template_without_a_system_role_keeps_its_text(template, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    (tmp_path / "t.jinja").write_text(template)
    set_chat_template(tokenizer, tmp_path / "t.jinja")
    messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "q"}]
    with pytest.warns(UserWarning, match="before the first user message"):
        assert render(tokenizer, messages) == "Think.\n\nq"
    for bad in ("/no/such.jinja", "{{ 'the same' }}"):
        with pytest.raises(ValueError, match="chat_template="):
            set_chat_template(tokenizer, bad)
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if not think %} /no_think{% endif %}"
    assert render(tokenizer, messages[1:], {"think": True}) == "q"
    assert render(tokenizer, messages[1:]) == "q /no_think"


DATED = "{{ strftime_now('%d %b %Y') }}: {{ messages[-1]['content'] }}"
LLAMA = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }}: {{ messages[-1]['content'] }}"
)


@pytest.mark.parametrize("template", [DATED, LLAMA])
def test_a_template_with_a_date_gets_the_same_one_on_every_day(template, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    tokenizer.chat_template = template
    messages = [{"role": "user", "content": "q"}]

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 2)

    before = render(tokenizer, messages)
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "02 Jan 2031: q"  # the clock's
    assert render(tokenizer, messages) == before == "26 Jul 2024: q"
    assert render(tokenizer, messages, date="2026-02-03") == "03 Feb 2026: q"


def test_a_templates_own_keyword_for_the_date_still_counts():
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    tokenizer.chat_template = LLAMA
    assert render(tokenizer, [{"role": "user", "content": "q"}], {"date_string": "today"}) == "today: q"


# --- how a question is asked


def test_prompts_get_what_the_env_config_says(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    path = lines([{"messages": chat, "answer": "2"}], tmp_path / "a.jsonl")
    env = MathEnv(
        path,
        system_prompt="Think.",
        prompt_template="Q: {prompt} {x}",
        prompt_suffix="\nBox it.",
        examples=[{"prompt": "0+0?", "answer": "\\boxed{0}"}],
        answer_prefix="So \\boxed{",
    )
    prompt, info = env.reset(options={"index": 0})
    assert (prompt, env.system_prompt, info["answer_prefix"]) == ("Q: 1+1? {x}\nBox it.", "Think.", "So \\boxed{")
    assert [m["role"] for m in info["history"]] == ["user", "assistant"]
    assert env.step("2}")[1] == 1.0
    assert [m["role"] for m in MathEnv(path).task(0).history] == ["system"]
    with pytest.raises(ValueError, match=r"prompt_template='Q' has no \{prompt\}"):
        MathEnv(path, prompt_template="Q")
