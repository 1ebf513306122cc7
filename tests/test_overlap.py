"""Sampling ahead of the learner: how old rollouts get, in which order they are trained, what is asked again."""

from collections import deque

import pytest
from task_envs import HopelessEnv

from aspo_rllib import ASPO
from aspo_rllib.rollout.queue import PendingBatch, RolloutQueue
from aspo_rllib.rollout.task_order import TaskOrder

MAX_STALENESS = 2


def staleness(algo, version):
    return {version - r.weights_version for g in algo.latest_groups for r in g.rollouts}


def positions(algo):
    return [g.position for g in algo.latest_groups]


@pytest.fixture(scope="module")
def run(ray_session, make_config, tmp_path_factory):
    """Four iterations, a checkpoint, one more; after each: what was trained on, and how old it was."""
    algo = make_config(max_staleness=MAX_STALENESS).llm(engine="transformers").build_algo()
    algo.history = []

    def train(n):
        for _ in range(n):
            version = algo.weights_version
            result = algo.train()
            algo.history.append((positions(algo), staleness(algo, version), result))

    train(4)
    algo.checkpoint = algo.save_to_path(tmp_path_factory.mktemp("overlap") / "checkpoint")
    train(1)
    yield algo
    algo.stop()


def test_no_rollout_is_older_than_allowed_and_the_bound_is_reached(run):
    assert [ages for _, ages, _ in run.history] == [{0}, {1}, {2}, {2}, {2}]
    for _, ages, result in run.history:
        assert result["staleness"] == {"mean": max(ages), "max": max(ages)}


def test_tasks_are_trained_on_in_their_order_and_none_is_left_out(run):
    assert [p for trained, _, _ in run.history for p in trained] == list(range(20))


def test_engine_and_learner_agree_though_weights_came_in_between(run):
    for _, _, result in run.history:
        assert result["sync"]["max_abs_dlogp"] < 1e-4


def test_stale_rollouts_show_in_the_sampler_ratio_and_not_in_the_ratio(run):
    fresh, stale = run.history[0][2], run.history[-1][2]
    assert fresh["kl"]["sampler"] < 1e-6 < 1e-5 < stale["kl"]["sampler"]


def test_a_restored_run_samples_again_what_was_under_way_and_leaves_nothing_out(run):
    restored = ASPO.from_checkpoint(run.checkpoint)
    try:
        trained, ages = [], []
        for _ in range(3):
            version = restored.weights_version
            restored.train()
            trained += positions(restored)
            ages.append(staleness(restored, version))
        assert trained == list(range(16, 28))
        assert ages == [{0}, {1}, {2}]
    finally:
        restored.stop()


def test_evaluation_in_between_is_by_the_current_weights_and_loses_nothing(run):
    run.evaluate()
    groups = run.latest_evaluation_groups["default"]
    assert {r.weights_version for g in groups for r in g.rollouts} == {run.weights_version}
    run.train()
    assert positions(run) == list(range(20, 24))


@pytest.fixture
def make_queue(run):
    """A queue of its own over the run's runner, with other settings."""

    def make(batch_prompts, **sampling):
        config = run.config.copy(copy_frozen=False).sampling(**sampling)
        config.training(batch_prompts=batch_prompts, max_staleness=0)
        return RolloutQueue(run.runners, TaskOrder(1000, seed=5), config, lambda index: True)

    return make


def is_mixed(group):
    return 0 < sum(r.correct for r in group.rollouts) < len(group.rollouts)


def test_refills_ask_on_until_enough_groups_teach_something(make_queue):
    plain = make_queue(16).next_batch()
    assert len(plain) == 16 and sum(map(is_mixed, plain)) < 16  # else there is nothing to show
    filled = make_queue(16, max_refills=20).next_batch()
    assert sum(map(is_mixed, filled)) == 16
    assert [g.position for g in filled] == list(range(len(filled)))  # each asked once, none skipped


def test_oversampling_gives_up_the_slowest(make_queue):
    queue = make_queue(8, oversampling=2.0)
    groups = queue.next_batch()
    assert len(groups) == 8 and {g.position for g in groups} < set(range(16))
    assert all(len(g.rollouts) == 8 for g in groups)
    assert [g.position for g in make_queue(16).next_batch()] == list(range(16))  # nothing of it is left behind


def test_a_runner_that_knows_nothing_of_its_tasks_is_asked_again(run):
    pending = PendingBatch(run.runners, [(3, 3), (1, 1)])
    run.env_runner_group.foreach_env_runner(lambda runner: runner.forget(), local_env_runner=False)
    assert [g.position for g in pending.collect()] == [3, 1]


def test_state_holds_what_nobody_trained_on(make_queue, run):
    queue = make_queue(4)
    queue._config.max_staleness = 1
    queue.next_batch()
    state = queue.get_state()
    assert state["task_position"] == 8 and [[p for p, _ in tasks] for tasks in state["tasks_under_way"]] == [
        [4, 5, 6, 7]
    ]
    other = make_queue(4)
    other.set_state(state)
    assert other.get_state() == state
    assert [g.position for g in other.next_batch()] == [4, 5, 6, 7] and queue._ahead != deque()


def test_restored_batches_are_trained_whole_and_refills_ask_new_tasks(make_queue):
    # Of a run that was further ahead, and had larger batches.
    under_way = [[(n, n) for n in range(6)], [(n, n) for n in range(6, 12)]]
    queue = make_queue(4, max_refills=1)
    queue.set_state({"task_position": 12, "tasks_under_way": under_way})
    for batch in under_way:
        trained = [g.position for g in queue.next_batch()]
        assert trained[:6] == [position for position, _ in batch] and all(p >= 12 for p in trained[6:])
    assert queue.get_state()["tasks_under_way"] == []


@pytest.mark.slow
def test_at_the_cap_of_refills_the_run_goes_on(ray_session, make_config):
    config = make_config().environment(HopelessEnv, env_config={}).sampling(max_refills=2).llm(engine="transformers")
    config.evaluation(evaluation_config={})
    algo = config.build_algo()
    try:
        result = algo.train()
        assert result["groups"]["used_frac"] == 0 and result["num_env_steps_sampled_lifetime"] == 3 * 4 * 8
    finally:
        algo.stop()
