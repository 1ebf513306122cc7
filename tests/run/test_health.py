"""Numbers gone bad: what is said of them, what is done about them, and that what is harmless goes on."""

import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faults import poison
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback
from transformers import AutoTokenizer

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.learner.advantages import grpo
from aspo_rllib.learner.batching import build_train_batches
from aspo_rllib.learner.tally import merge_updates
from aspo_rllib.rollout.engines.hf_engine import TransformersEngine
from aspo_rllib.rollout.env_runner import TextEnvRunner
from aspo_rllib.rollout.group_sampler import GroupRequest, GroupSampler
from aspo_rllib.rollout.prompts import PromptEncoder
from aspo_rllib.rollout.stats import check_completions
from aspo_rllib.run.health import (
    AT_START,
    NONFINITE_WEIGHTS,
    OF_UPDATE,
    find_nonfinite_weights,
    find_problems,
    num_nonfinite_weights,
)
from aspo_rllib.types import BadNumbersError
from aspo_rllib.weights.sync import drift
from envs.arithmetic import ArithmeticEnv
from envs.grading.pool import GradingPool

WATCHES = (*AT_START, *OF_UPDATE)
LIMITS = ASPOConfig().fault_tolerance(max_entropy=2.0, max_kl=0.1)

# ---- what is said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({}, []),
        ({"entropy/mean": 2.0, "kl/old": 0.1, "kl/ref": 50.0, "kl/sampler": 9.0, "optim/grad_norm": 1e9}, []),
        ({"entropy/mean": 2.01}, ["entropy/mean=2.01: expected at most max_entropy=2"]),
        ({"entropy/mean": math.nan}, ["entropy/mean=nan: expected a finite number"]),
        ({"kl/old": 0.25}, ["kl/old=0.25: expected at most max_kl=0.1"]),
        ({"kl/old": math.inf, "kl/ref": math.nan}, ["kl/old=inf: expected a finite", "kl/ref=nan: expected a finite"]),
        ({"kl/sampler": math.inf}, ["kl/sampler=inf"]),
        ({"optim/grad_norm": math.nan, "optim/skipped": 7}, ["optim/grad_norm=nan"]),
        ({"optim/grad_norm": 1.0, "optim/skipped": 7}, []),  # others were fine
        ({"ratio/max": math.inf}, []),  # watched by its kl
    ],
)
def test_a_problem_is_told_with_its_metric_its_value_and_the_limit(metrics, said):
    problems = find_problems(metrics, WATCHES, LIMITS)
    assert len(problems) == len(said)
    assert all(problem.startswith(start) for problem, start in zip(problems, said, strict=True))


def test_without_limits_any_finite_number_will_do():
    assert find_problems({"entropy/mean": 1e9, "kl/old": 1e9}, WATCHES, ASPOConfig()) == []


def test_a_run_without_completions_says_whose_fault_it_is(make_groups):
    (group,) = make_groups([[(3, 5)] * 2])
    check_completions([replace(group, num_ungraded=4, num_nonfinite=2)])  # half of it the graders': they are told
    with pytest.raises(BadNumbersError, match=r"sampler/nonfinite=3: .* of 6 completions"):
        check_completions([replace(group, num_ungraded=4, num_nonfinite=3)])


# ---- in the learner ----------------------------------------------------------------------------------------------

LENGTHS = [[(4, 3), (4, 17), (4, 8), (4, 1)], [(6, 30), (6, 2), (6, 12), (6, 5)], [(2, 5), (2, 6), (2, 29), (2, 9)]]
REWARDS = np.array([[1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 1]], float)


class NanFrom:
    """A token weight of one's own, which breaks at the n-th call: that of REINFORCE until then."""

    def __init__(self, n):
        self.calls_left = n - 1

    def __call__(self, x):
        self.calls_left -= 1
        return x.ratio * 0 + (1 if self.calls_left >= 0 else torch.nan)


@pytest.fixture
def update(make_groups):
    """`update(learners)`: the metrics of three optimizer steps, as the guard gets to see them."""

    def update(learners, lengths=LENGTHS, max_tokens=1000):
        (batch,) = build_train_batches(
            make_groups(lengths),
            [grpo(r) for r in REWARDS],
            num_learners=0,
            minibatch_prompts=1,
            max_tokens_per_microbatch=max_tokens,
        )
        metrics = merge_updates(learners.update(batch=batch))
        return metrics | {NONFINITE_WEIGHTS: sum(learners.on_all(num_nonfinite_weights))}

    return update


def told(metrics, watches=WATCHES, config=LIMITS):
    return [p.partition("=")[0] for p in find_problems(metrics, watches, config) + find_nonfinite_weights(metrics)]


def test_ordinary_numbers_are_no_problem(build_learners, update):
    assert told(update(build_learners()), config=LIMITS.copy().fault_tolerance(max_entropy=10.0)) == []


def test_a_loss_that_breaks_is_found_once_no_step_is_left(build_learners, update):
    learners = build_learners(loss=NanFrom(7))  # a call per step, after the one by which the config tries the loss
    first, second, third = (update(learners) for _ in range(3))
    unlimited = ASPOConfig()
    assert (told(first, config=unlimited), first["optim/skipped"]) == ([], 0)
    assert (told(second, config=unlimited), second["optim/skipped"]) == ([], 1)  # of three: counted, no more
    assert (told(third, config=unlimited), third["optim/skipped"]) == (["optim/grad_norm"], 4)


def test_a_learning_rate_that_is_much_too_high_is_found_in_the_same_update(build_learners, update):
    metrics = update(build_learners(lr=1e6))
    assert told(metrics, AT_START, ASPOConfig()) == []  # it began well
    assert "kl/old" in told(metrics, OF_UPDATE)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_broken_weights_are_found_before_and_after_the_update_and_crash_nothing(build_learners, update, kl_coef):
    learners = build_learners(kl_coef=kl_coef)
    learners.on_all(poison)
    metrics = update(learners)
    assert metrics[NONFINITE_WEIGHTS] == 3 and metrics["optim/skipped"] == 3
    assert told(metrics, AT_START)[:2] == ["entropy/mean", "kl/sampler"]
    assert {"optim/grad_norm", "kl/old", NONFINITE_WEIGHTS} <= set(told(metrics, OF_UPDATE))


@pytest.mark.slow
def test_broken_weights_are_counted_in_every_learners_shard(build_learners):
    learners = build_learners(num_learners=2)
    assert learners.on_all(num_nonfinite_weights) == [0, 0]
    learners.on_all(poison)
    assert learners.on_all(num_nonfinite_weights) == [3, 3]


# ---- completions without a token ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
@pytest.mark.parametrize(
    "lengths",
    [
        [[(4, 0), (4, 17), (4, 8), (4, 1)], *LENGTHS[1:]],
        [[(4, 0)] * 4, *LENGTHS[1:]],  # a whole step
        [[(4, 0)] * 4, [(6, 0)] * 4, [(2, 0)] * 4],
    ],
    ids=["one", "a step", "all"],
)
def test_completions_without_a_token_are_trained_on_without_harm(build_learners, update, layout, aggregation, lengths):
    settings = {"layout": layout, "aggregation": aggregation, "sampler_correction": "truncated", "kl_coef": 0.1}
    metrics = update(build_learners(entropy_coef=0.01, **settings), lengths, max_tokens=20)
    assert told(metrics, config=ASPOConfig()) == [] and metrics["optim/skipped"] == 0
    assert [name for name, value in metrics.items() if not np.isfinite(value)] == []


def test_a_probe_without_a_token_shows_no_drift():
    nothing, some = np.zeros(0, np.float32), np.array([-1.0, -2.0], np.float32)
    assert drift([nothing], [nothing]) == 0.0
    assert drift([nothing, some], [nothing, some + 0.5]) == 0.5


# ---- in the engine -----------------------------------------------------------------------------------------------


class FaultyEngine(TransformersEngine):
    """Of the requests of a group, the first stops before any token, and the second has a NaN among its logprobs."""

    def step(self):
        return [self._spoilt(completion) for completion in super().step()]

    def _spoilt(self, completion):
        match completion.request_id.split("/"):
            case [_, "0"]:
                nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
                return replace(completion, completion_ids=nothing[0], sampler_logprobs=nothing[1])
            case [serial, "1"] if serial != "probe":
                logprobs = completion.sampler_logprobs.copy()
                logprobs[-1] = np.nan
                return replace(completion, sampler_logprobs=logprobs)
        return completion


class FaultyRunner(TextEnvRunner):
    def make_engine(self):
        config = self.config
        return FaultyEngine(
            config.llm_model,
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            seed=0,
        )


@pytest.fixture
def broken_model(tmp_path):
    """The bundled model's folder, with a NaN in the last layer norm."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(TINY_MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture
def sample(make_config):
    """`sample(engine class, model)`: one group of eight, by a GroupSampler around that engine."""
    pool = GradingPool(partial(ArithmeticEnv, digits=3), 1, 60.0)

    def sample(engine_class, model):
        config = make_config().llm(model=model)
        engine = engine_class(model, dtype="float32", max_model_len=config.max_model_len, max_num_seqs=8, seed=0)
        tokenizer = AutoTokenizer.from_pretrained(model)
        sampler = GroupSampler(engine, tokenizer, [tokenizer.eos_token_id], base_seed=0)
        prompt = PromptEncoder(ArithmeticEnv(digits=3), tokenizer).encode(40)
        (future,) = sampler.start([GroupRequest(0, 40, prompt, config, pool, weights_version=0)])
        while sampler.busy:
            sampler.step()
        return future.result()

    yield sample
    pool.close()


def test_a_completion_with_broken_logprobs_is_dropped_and_counted(sample, broken_model):
    sound = sample(TransformersEngine, TINY_MODEL)
    assert (len(sound.rollouts), sound.num_ungraded, sound.num_nonfinite) == (8, 0, 0)
    faulty = sample(FaultyEngine, TINY_MODEL)
    assert (len(faulty.rollouts), faulty.num_ungraded, faulty.num_nonfinite) == (7, 1, 1)
    assert [len(r.completion_ids) > 0 for r in faulty.rollouts] == [False] + [True] * 6
    assert faulty.rollouts[1].completion_ids.tolist() == sound.rollouts[2].completion_ids.tolist()
    broken = sample(TransformersEngine, broken_model)
    assert (len(broken.rollouts), broken.num_ungraded, broken.num_nonfinite) == (0, 8, 8)


# ---- a run ---------------------------------------------------------------------------------------------------------


def break_learner(algo):
    algo.learner_group.on_all(poison)


def break_engine(runner):
    def func(sampler):
        weights = sampler.engine._model.state_dict()
        sampler.engine.load_weights([(name, tensor * torch.nan) for name, tensor in weights.items()])

    runner.on_engine_thread(func)


def react(algo, **fault_tolerance):
    algo.config = algo.config.copy(copy_frozen=False).fault_tolerance(**fault_tolerance)


@pytest.fixture(scope="module")
def story(ray_session, make_config, weights_of, tmp_path_factory):
    """One run that goes wrong again and again, sampling a batch ahead, by an engine that is faulty as well."""
    folder = tmp_path_factory.mktemp("health")
    config = make_config(max_staleness=1, warmup_steps=50).llm(engine="transformers")
    config.env_runners(env_runner_cls=FaultyRunner).fault_tolerance(on_bad_numbers="rollback")
    algo = config.build_algo()
    events = SimpleNamespace(results=[], versions=[], positions=[], errors={})

    def train(n=1):
        for _ in range(n):
            events.results.append(algo.train())
            events.versions.append({r.weights_version for g in algo.latest_groups for r in g.rollouts})
            events.positions += [g.position for g in algo.latest_groups]

    def fails(name):
        with pytest.raises(BadNumbersError) as error:
            algo.train()
        events.errors[name] = str(error.value)

    train()
    events.checkpoint = algo.save_to_path(folder / "first")
    events.saved = weights_of(algo.learner_group)
    train()
    events.trained = weights_of(algo.learner_group)
    break_learner(algo)
    train()  # 3
    events.restored = weights_of(algo.learner_group)
    events.in_engine = algo.env_runner_group.foreach_env_runner(lambda r: r.weights_version, local_env_runner=False)
    train()  # 4
    break_learner(algo)
    train()  # 5
    copy = algo.save_to_path(folder / "copy")  # the first checkpoint's weights again
    train()
    events.state = algo.get_state()["guard"]
    break_learner(algo)
    train()  # 7
    break_learner(algo)
    fails("thrice")
    shutil.rmtree(copy)
    fails("deleted")
    react(algo, on_bad_numbers="stop")
    fails("stop")
    algo.restore_from_path(events.checkpoint)
    events.state_restored = algo.get_state()["guard"]
    train()  # 8
    react(algo, on_bad_numbers="warn", max_kl=1e-12)
    with pytest.warns(UserWarning, match=r"(?s)kl/old=.*max_kl=1e-12.*the run continues"):
        train()
    events.warned = weights_of(algo.learner_group)
    algo.env_runner_group.foreach_env_runner(break_engine, local_env_runner=False)
    algo.rollouts.set_state(algo.rollouts.get_state())  # else the next batch would be one from before
    fails("engine")
    yield events
    algo.stop()


def test_a_rollback_brings_back_the_checkpoints_weights_to_learner_and_engine(story, largest_difference):
    assert largest_difference(story.saved, story.trained) > 0
    assert largest_difference(story.saved, story.restored) == 0
    assert story.in_engine == [1]
    rolled_back, after = story.results[2:4]
    assert np.isnan(rolled_back["entropy"]["mean"]) and np.isfinite(after["entropy"]["mean"])
    assert rolled_back["sync"]["max_abs_dlogp"] < 1e-4
    # 2 mini-batches x 2 epochs unless groups are dropped; warm-up and counters go on from the checkpoint.
    assert after["optim"]["lr"] == pytest.approx(1e-4 * after["optim"]["steps"] / 50)
    assert after["optim"]["steps"] - story.results[0]["optim"]["steps"] <= 4
    assert after["sync"]["weights_version"] == 2


def test_after_a_rollback_the_next_tasks_are_sampled_by_the_restored_weights(story):
    assert story.positions[:28] == list(range(28))  # until the run was restored by hand
    # Batch 3 had been begun by version 2, which is no more: it is sampled anew.
    assert story.versions[:4] == [{0}, {0}, {1}, {1}]


def test_bad_iterations_and_rollbacks_are_counted_and_survive_a_checkpoint(story):
    health = [(r["health"]["bad_iterations"], r["health"]["rollbacks"]) for r in story.results]
    assert health == [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2), (2, 2), (3, 3), (0, 0), (1, 0)]
    assert story.state == {"num_bad_iterations": 2, "num_rollbacks": 2}
    assert story.state_restored == {"num_bad_iterations": 0, "num_rollbacks": 0}  # as the first checkpoint has it


def test_a_warning_changes_nothing(story, largest_difference):
    assert story.results[-1]["sync"]["weights_version"] == 3
    assert largest_difference(story.warned, story.saved) > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("thrice", ["entropy/mean=nan", "health/nonfinite_weights=3", "3 times already"]),
        ("deleted", ["entropy/mean=nan", "no good checkpoint", "num_to_keep"]),
        ("stop", ["entropy/mean=nan", "on_bad_numbers='stop'"]),
        ("engine", ["sampler/nonfinite=", "of 128 completions", "llm_model"]),
    ],
)
def test_a_run_that_cannot_go_on_says_why(story, name, said):
    assert all(part in story.errors[name] for part in said), story.errors[name]


def test_a_run_goes_on_with_completions_that_are_empty_or_broken(story):
    for result in (story.results[n] for n in (0, 1, 3, 5)):
        assert (result["sampler"]["nonfinite"], result["grader"]["errors"]) == (4, 0)
        assert result["length"]["empty_frac"] == pytest.approx(4 / 28, abs=0.04)  # the model may write nothing, too
        assert result["env_runners"]["num_episodes"] == 28
        assert np.isfinite([v for group in ("entropy", "kl", "ratio") for v in result[group].values()]).all()


# ---- under Tune ----------------------------------------------------------------------------------------------------


class Breaks(RLlibCallback):
    """The weights overflow after the second iteration, right before they are saved."""

    def on_train_result(self, *, algorithm, **kwargs):
        if algorithm.iterations_trained == 2:
            break_learner(algorithm)


@pytest.mark.slow
def test_under_tune_a_run_goes_back_past_the_checkpoint_that_was_bad_already(ray_session, make_config, tmp_path):
    config = make_config().llm(engine="transformers").callbacks(Breaks)
    config.fault_tolerance(on_bad_numbers="rollback")
    keep = tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=2)
    (result,) = tune.Tuner(
        "ASPO",
        param_space=config,
        run_config=tune.RunConfig(stop={"training_iteration": 4}, storage_path=str(tmp_path), checkpoint_config=keep),
    ).fit()
    assert result.error is None
    assert result.metrics["health"] == {"bad_iterations": 1, "rollbacks": 1, "nonfinite_weights": 0}
    versions = result.metrics_dataframe["sync/weights_version"].tolist()
    assert versions == [1, 2, 1, 2]
    assert len(list(Path(result.path).glob("checkpoint_*"))) == 2
