"""The env runner, one real actor with a real engine: whole groups, exact tokens, exact log-probabilities."""

import os
import shutil
import signal
import time
from datetime import datetime

import grading_envs
import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import chat_template_utils

from aspo_rllib import TINY_MODEL
from aspo_rllib.rollout.engines.make import engine_seed
from aspo_rllib.rollout.env_runner import TextEnvRunner
from aspo_rllib.rollout.prompts import load_tokenizer, prompts_of, task_hashes
from aspo_rllib.rollout.task_order import TaskOrder
from envs.arithmetic import ArithmeticEnv

TASKS = [(7, 40), (8, 3), (9, 40), (10, 11)]  # (position, index); the same task twice


def start(config):
    runner = ray.remote(TextEnvRunner).options(num_cpus=1)
    return runner.remote(config=config, env_creator=lambda context: ArithmeticEnv(**context), worker_index=1)


@pytest.fixture(scope="module")
def config(make_config):
    return make_config().sampling(group_size=6)


@pytest.fixture(scope="module")
def runner(ray_session, config):
    actor = start(config)
    yield actor
    ray.get(actor.stop.remote())
    ray.kill(actor)


@pytest.fixture(scope="module")
def groups(runner):
    return ray.get(runner.sample.remote(tasks=TASKS))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_MODEL)


def tokens(groups):
    return [r.completion_ids.tolist() for g in groups for r in g.rollouts]


def test_groups_are_whole_and_in_the_order_of_the_tasks(groups):
    assert [(g.position, g.index) for g in groups] == TASKS
    assert [len(g.rollouts) for g in groups] == [6] * 4


def test_all_rollouts_of_a_group_answer_the_task_that_was_asked(groups, tokenizer):
    env = ArithmeticEnv(digits=3)
    for group in groups:
        assert group.prompt == env.task(group.index).prompt
        message = [{"role": "user", "content": group.prompt}]
        expected = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        assert all(r.prompt_ids.tolist() == expected for r in group.rollouts)


def test_completions_are_the_decoded_tokens_with_their_end_token(groups, tokenizer):
    reasons = set()
    for rollout in (r for g in groups for r in g.rollouts):
        reasons.add(rollout.finish_reason)
        ends = rollout.finish_reason == "stop"
        assert tokenizer.decode(rollout.completion_ids[: -1 if ends else None]) == rollout.completion
        assert (rollout.completion_ids[-1] == tokenizer.eos_token_id) == (rollout.finish_reason == "stop")
        assert len(rollout.sampler_logprobs) == len(rollout.completion_ids)
        assert rollout.completion_ids.dtype == np.int32 and rollout.sampler_logprobs.dtype == np.float32
    assert "stop" in reasons


def test_a_completion_that_does_not_end_is_cut_and_says_so(runner, config):
    short = config.copy(copy_frozen=False).sampling(max_completion_tokens=2)
    rollouts = [r for g in ray.get(runner.sample.remote(tasks=TASKS, config=short)) for r in g.rollouts]
    assert {len(r.completion_ids) for r in rollouts} == {2}  # a three-digit sum needs three digits
    assert {r.finish_reason for r in rollouts} == {"length"}


def test_rewards_are_those_of_the_env(groups):
    env = ArithmeticEnv(digits=3)
    verdicts = []
    for group in groups:
        for rollout in group.rollouts:
            grade = env.grade(env.task(group.index), rollout.completion)
            assert (rollout.reward, rollout.correct) == (grade.reward, grade.correct)
            assert rollout.info["extracted"] == grade.extracted and rollout.info["index"] == group.index
            verdicts.append(rollout.correct)
    assert any(verdicts) and not all(verdicts)


def test_sampling_again_gives_the_same_tokens(runner, groups):
    again = ray.get(runner.sample.remote(tasks=TASKS))
    assert tokens(again) == tokens(groups)
    for a, b in zip(again, groups, strict=True):
        for x, y in zip(a.rollouts, b.rollouts, strict=True):
            np.testing.assert_allclose(x.sampler_logprobs, y.sampler_logprobs, atol=1e-5)


def test_tokens_do_not_depend_on_what_is_sampled_beside_them(runner, groups):
    # A second runner, or a restarted one, may be leased any part of the batch.
    alone = ray.get(runner.sample.remote(tasks=[TASKS[2]]))
    assert tokens(alone) == tokens([groups[2]])


def test_siblings_and_repetitions_of_a_task_differ(runner, config):
    hot = config.copy(copy_frozen=False).sampling(temperature=2.0)  # at 1.0 the model is sure of some sums
    groups = ray.get(runner.sample.remote(tasks=TASKS, config=hot))
    assert all(len({tuple(t) for t in tokens([g])}) > 1 for g in groups)
    assert tokens([groups[0]]) != tokens([groups[2]])  # the same task at another position


def test_without_seeds_of_their_own_completions_are_drawn_from_the_engines_stream(runner, config):
    unseeded = config.copy(copy_frozen=False).sampling(temperature=2.0, seed_completions=False)
    first, second = (ray.get(runner.sample.remote(tasks=TASKS, config=unseeded)) for _ in range(2))
    assert tokens(first) != tokens(second)
    assert [(g.position, len(g.rollouts)) for g in first] == [(position, 6) for position, _ in TASKS]


def test_evaluation_draws_from_another_stream(runner, groups, config):
    evaluation = config.copy(copy_frozen=False)
    evaluation.in_evaluation = True
    assert tokens(ray.get(runner.sample.remote(tasks=TASKS, config=evaluation))) != tokens(groups)


def test_another_env_config_is_used_when_given(runner, config):
    other = config.copy(copy_frozen=False).environment(env_config={"digits": 2, "split": "test"})
    (group,) = ray.get(runner.sample.remote(tasks=[(0, 5)], config=other))
    assert group.prompt == ArithmeticEnv(digits=2, split="test").task(5).prompt


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_logprobs_are_the_models_at_the_sampling_temperature(runner, config, temperature):
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()
    sampling = config.copy(copy_frozen=False).sampling(temperature=temperature)
    tasks = TaskOrder(1000, seed=0).lease(8)
    worst = 0.0
    for group in ray.get(runner.sample.remote(tasks=tasks, config=sampling)):
        for r in group.rollouts:
            ids = torch.from_numpy(np.concatenate([r.prompt_ids, r.completion_ids]).astype(np.int64))
            with torch.no_grad():
                logits = model(input_ids=ids[None]).logits[0, len(r.prompt_ids) - 1 : -1]
            expected = (logits / temperature).log_softmax(-1).gather(-1, ids[len(r.prompt_ids) :, None])[:, 0]
            worst = max(worst, float(np.abs(r.sampler_logprobs - expected.numpy()).max()))
    assert worst < 1e-4


def test_temperature_zero_takes_the_likeliest_token(runner, config):
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()
    greedy = config.copy(copy_frozen=False).sampling(temperature=0.0, group_size=1)
    for group in ray.get(runner.sample.remote(tasks=TASKS, config=greedy)):
        (r,) = group.rollouts
        ids = torch.from_numpy(np.concatenate([r.prompt_ids, r.completion_ids]).astype(np.int64))
        with torch.no_grad():
            best = model(input_ids=ids[None]).logits[0, len(r.prompt_ids) - 1 : -1].argmax(-1)
        assert best.tolist() == r.completion_ids.tolist()


def test_rollouts_carry_the_version_of_the_weights_that_made_them(groups):
    assert {r.weights_version for g in groups for r in g.rollouts} == {0}  # the model's folder


def test_a_prompt_that_is_too_long_names_the_task_and_the_limit(runner, config):
    tight = config.copy(copy_frozen=False).llm(max_prompt_tokens=9)
    # "<|user|>" + 8 characters of "123+456=" + "<|assistant|>" = 10 tokens.
    with pytest.raises(ValueError, match=r"max_prompt_tokens=9: the prompt of task 40 .* 10 tokens"):
        ray.get(runner.sample.remote(tasks=TASKS, config=tight))


def test_sampling_goes_on_after_a_refused_prompt(runner, config, groups):
    tight = config.copy(copy_frozen=False).llm(max_prompt_tokens=9)
    with pytest.raises(ValueError, match="max_prompt_tokens"):
        ray.get(runner.sample.remote(tasks=TASKS, config=tight))
    assert tokens(ray.get(runner.sample.remote(tasks=TASKS))) == tokens(groups)


@pytest.fixture(scope="module")
def troubled(ray_session, make_config):
    """`troubled(trouble, tasks, ...)`: samples with two grading workers on an env whose grading goes wrong."""
    config = make_config().environment(env_config={"trouble": "none"}).sampling(group_size=6, num_graders=2)
    creator = lambda context: grading_envs.Troublesome(**context)  # noqa: E731  one that workers cannot import
    runner = ray.remote(TextEnvRunner).options(num_cpus=1).remote(config=config, env_creator=creator, worker_index=1)

    def sample(trouble, tasks=TASKS, **sampling):
        other = config.copy(copy_frozen=False).environment(env_config={"trouble": trouble}).sampling(**sampling)
        return runner.sample.remote(tasks=tasks, config=other)

    yield sample, runner
    ray.get(runner.stop.remote())
    ray.kill(runner)


def test_what_goes_wrong_while_grading(troubled, groups):
    sample, _ = troubled
    with pytest.raises(RuntimeError, match="grader down"):
        ray.get(sample("raises"))
    # Completions of the failed call that were still being generated would turn up in the next one.
    assert tokens(ray.get(sample("none", TASKS[::-1]))) == tokens(groups[::-1])

    # Task 40 ends its worker, task 3 does not return; the others are as ever.
    first, second, third, fourth = ray.get(sample("dies", group_size=2))
    assert (len(first.rollouts), first.num_ungraded) == (len(third.rollouts), third.num_ungraded) == (0, 2)
    expected = [groups[1].rollouts[:2], groups[3].rollouts[:2]]
    assert tokens([second, fourth]) == [r.completion_ids.tolist() for rollouts in expected for r in rollouts]
    assert [r.reward for r in fourth.rollouts] == [r.reward for r in expected[1]]

    hung = ray.get(sample("hangs", [TASKS[1], TASKS[3]], group_size=2, grader_timeout_s=3.0))
    assert {r.info["grade_status"] for r in hung[0].rollouts} == {"timeout"}
    assert {r.info["data_source"] for r in hung[0].rollouts} == {"arithmetic/add_3"}
    assert [r.reward for r in hung[0].rollouts] == [0.0] * 2
    assert [r.reward for r in hung[1].rollouts] == [r.reward for r in expected[1]]


def test_grading_workers_killed_in_the_middle_change_nothing(troubled, groups):
    sample, runner = troubled
    ray.get(sample("slow", TASKS[:1]))
    workers = ray.get(runner.apply.remote(grading_envs.worker_pids))
    sampled = sample("slow")
    time.sleep(0.4)  # 24 completions of 0.1 s each on two workers: both are at it
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    again = ray.get(sampled)
    assert tokens(again) == tokens(groups)
    verdicts = [[(r.reward, r.info["grade_status"]) for g in gs for r in g.rollouts] for gs in (again, groups)]
    assert verdicts[0] == verdicts[1]
    assert len(set(ray.get(runner.apply.remote(grading_envs.worker_pids))) - set(workers)) == 2


def test_a_probe_is_one_completion_per_prompt(runner, groups):
    prompts = [g.rollouts[0].prompt_ids for g in groups[:2]]
    first, second = ray.get(runner.probe.remote(prompts, 3)), ray.get(runner.probe.remote(prompts, 3))
    assert len(first) == 2 and all(1 <= len(c.completion_ids) <= 3 for c in first)
    assert [c.completion_ids.tolist() for c in first] == [c.completion_ids.tolist() for c in second]


# ---- the tokenizer, which needs no engine -------------------------------------------------------------------------


@pytest.fixture
def base_model(tmp_path):
    """The tiny model's folder without its chat template, as base models come."""
    folder = tmp_path / "base"
    shutil.copytree(TINY_MODEL, folder)
    (folder / "chat_template.jinja").unlink()
    return str(folder)


def test_a_tokenizer_without_chat_template_is_refused_with_the_remedy(make_config, base_model):
    with pytest.raises(ValueError, match=r"chat_template=None.*\.llm\(chat_template="):
        load_tokenizer(make_config().llm(model=base_model))


def test_a_given_chat_template_makes_a_base_model_usable(make_config, base_model):
    bare = make_config().llm(model=base_model, chat_template="{{ messages[-1]['content'] }}")
    tokenizer, stop = load_tokenizer(bare)
    message = [{"role": "user", "content": "1+2="}]
    ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    assert ids == tokenizer.encode("1+2=")
    assert stop == [tokenizer.eos_token_id]


@pytest.mark.parametrize(("settings", "shown"), [({}, "26 Jul 2024"), ({"template_date": "2026-02-03"}, "03 Feb 2026")])
def test_prompts_and_their_hash_have_the_runs_date_and_not_todays(make_config, monkeypatch, settings, shown):
    template = "{{ strftime_now('%d %b %Y') }}: {{ messages[-1]['content'] }}"
    config = make_config().llm(chat_template=template, **settings)
    tokenizer, _ = load_tokenizer(config)

    class Clock(datetime):
        year_now = 2031

        @classmethod
        def now(cls, tz=None):
            return cls(cls.year_now, 1, 2)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    hashes = []
    for Clock.year_now in (2031, 2032):
        prompts = prompts_of(config, tokenizer)
        hashes.append(task_hashes(prompts))
        assert prompts.render(0).startswith(f"{shown}: ")
        message = [{"role": "user", "content": "q"}]
        assert tokenizer.apply_chat_template(message, tokenize=False) == f"02 Jan {Clock.year_now}: q"
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("value", ["today", "2026-2-3", "20260203", "2026-02-30", None])
def test_what_is_no_date_is_refused(make_config, value):
    with pytest.raises(ValueError, match=r"template_date=.*: expected a date, YYYY-MM-DD"):
        make_config().llm(template_date=value).validate()


def test_a_given_chat_template_replaces_the_tokenizers_own(make_config):
    tokenizer, _ = load_tokenizer(make_config().llm(chat_template="{{ messages[-1]['content'] }}"))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "1+2="}], tokenize=False) == "1+2="


def test_a_model_without_generation_config_is_usable(make_config, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY_MODEL, folder)
    (folder / "generation_config.json").unlink()
    tokenizer, stop = load_tokenizer(make_config().llm(model=str(folder)))
    assert stop == [tokenizer.eos_token_id]


def test_engine_seeds_differ_between_all_runs_and_runners():
    seeds = {engine_seed(seed, worker) for seed in range(50) for worker in range(1, 51)}
    assert len(seeds) == 2500 and all(0 <= seed < 2**31 for seed in seeds)
    assert engine_seed(0, 2) != engine_seed(1, 1) and engine_seed(3, 4) == engine_seed(3, 4)
    assert 0 <= engine_seed(2**32 - 1, 1) < 2**31  # the seed of a run that was given none
