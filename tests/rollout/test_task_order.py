"""The order of the prompts: a permutation per epoch, decided by the seed and the position alone."""

import pytest

from aspo_rllib.rollout.task_order import TaskOrder


def indices(tasks):
    return [index for _, index in tasks]


def test_an_epoch_asks_every_task_once():
    order = TaskOrder(num_tasks=50, seed=3)
    for _ in range(3):
        assert sorted(indices(order.lease(50))) == list(range(50))


def test_epochs_are_shuffled_anew():
    order = TaskOrder(num_tasks=50, seed=3)
    first, second = indices(order.lease(50)), indices(order.lease(50))
    assert first != second and first != list(range(50))


def test_seeds_give_different_orders():
    assert TaskOrder(50, seed=0).lease(50) != TaskOrder(50, seed=1).lease(50)


def test_positions_count_every_prompt_drawn():
    order = TaskOrder(num_tasks=5, seed=0)
    assert [position for position, _ in order.lease(3) + order.lease(4)] == [0, 1, 2, 3, 4, 5, 6]
    assert order.position == 7


@pytest.mark.parametrize("sizes", [[1] * 23, [7, 9, 7], [23], [10, 13]])
def test_the_order_does_not_depend_on_how_it_is_leased(sizes):
    # 23 tasks over epochs of 10: borders inside leases, and a lease longer than an epoch.
    order = TaskOrder(num_tasks=10, seed=1)
    leased = [task for n in sizes for task in order.lease(n)]
    assert leased == TaskOrder(num_tasks=10, seed=1).lease(23)


def test_a_lease_across_an_epoch_border_ends_one_epoch_and_begins_the_next():
    order = TaskOrder(num_tasks=10, seed=1)
    head, across, tail = order.lease(8), order.lease(5), order.lease(7)
    assert sorted(indices(head + across[:2])) == list(range(10))
    assert sorted(indices(across[2:] + tail)) == list(range(10))


@pytest.mark.parametrize("position", [0, 3, 10, 17, 1000])
def test_it_resumes_from_its_position(position):
    running, resumed = TaskOrder(10, seed=1), TaskOrder(10, seed=1)
    running.lease(position)
    resumed.position = position
    assert resumed.lease(25) == running.lease(25)


def test_an_env_without_tasks_is_refused():
    with pytest.raises(ValueError, match="num_tasks=0"):
        TaskOrder(0, seed=0)


def test_tasks_that_do_not_fit_are_passed_over_and_the_position_knows():
    order, even = TaskOrder(num_tasks=10, seed=1), TaskOrder(num_tasks=10, seed=1)
    tasks = even.lease(7, fits=lambda index: index % 2 == 0)
    assert tasks == [task for task in order.lease(even.position) if task[1] % 2 == 0]
    assert len(tasks) == 7 and even.position > 10  # five of ten fit: the second epoch was needed


def test_no_task_that_fits_is_an_error_and_not_an_endless_search():
    with pytest.raises(ValueError, match="num_tasks=10: none of the tasks fits"):
        TaskOrder(num_tasks=10, seed=1).lease(1, fits=lambda index: False)
