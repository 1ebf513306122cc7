"""The child process and the pool of graders: nothing hangs, nothing is lost, nothing stays behind."""

import os
import pickle
import signal
import time
from functools import partial

import psutil
import pytest
from grading_envs import Troublesome

from envs.arithmetic import ArithmeticEnv
from envs.grading.child import Child, ChildDied, ChildError, ChildTimeout
from envs.grading.pool import GradingPool, ungraded


@pytest.fixture
def child():
    """`child(factory, *args, ...)`: a Child that is closed at the end."""
    children = []

    def make(*args, **kwargs):
        children.append(Child(*args, **kwargs))
        return children[-1]

    yield make
    for c in children:
        c.close()


@pytest.fixture
def pool():
    """`pool(trouble, ...)`: a pool over the troublesome env that is closed at the end."""
    pools = []

    def make(trouble="none", num_workers=1, timeout_s=60.0, **kwargs):
        pools.append(GradingPool(partial(Troublesome, trouble, **kwargs), num_workers, timeout_s))
        return pools[-1]

    yield make
    for p in pools:
        p.close()


def collect_all(pool, limit_s=60.0):
    verdicts, start = {}, time.monotonic()
    while pool.pending:
        assert time.monotonic() - start < limit_s
        verdicts |= dict(pool.collect(wait_s=1.0))
    return verdicts


# ---- one child ----------------------------------------------------------------------------------------------------


def test_a_child_answers_in_one_process_that_starts_at_the_first_request(child):
    c = child("operator:itemgetter", 1)
    assert c.pid is None
    assert c.ask("abc", timeout_s=10) == "b"
    pid = c.pid
    assert c.ask([1, 2], timeout_s=10) == 2 and c.pid == pid != os.getpid()


def test_a_late_child_is_killed_and_the_next_request_gets_a_new_one(child):
    c = child("functools:partial", time.sleep)
    c.ask(0, timeout_s=10)
    process, start = psutil.Process(c.pid), time.monotonic()
    with pytest.raises(ChildTimeout, match=r"0\.3 s"):
        c.ask(60, timeout_s=0.3)
    assert time.monotonic() - start < 30 and not process.is_running()
    assert c.ask(0, timeout_s=10) is None


def test_a_child_that_computes_in_c_code_is_killed_all_the_same(child):
    c = child("functools:partial", pow, 3)  # 3 ** 10**9 holds the interpreter's lock for minutes
    with pytest.raises(ChildTimeout):
        c.ask(10**9, timeout_s=0.3)


def test_an_error_of_the_handler_comes_back_with_its_traceback_and_the_child_lives(child):
    c = child("operator:itemgetter", 1)
    with pytest.raises(ChildError, match="IndexError"):
        c.ask([], timeout_s=10)
    assert c.ask([1, 2], timeout_s=10) == 2


def test_an_error_of_the_factory_comes_back_too(child):
    c = child("operator:no_such_thing")
    with pytest.raises(ChildError, match="no_such_thing"):
        c.ask(1, timeout_s=10)
    assert c.pid is None


def test_a_child_that_dies_says_so_and_is_replaced(child):
    c = child("operator:itemgetter", 1)
    c.start()
    os.kill(c.pid, signal.SIGKILL)
    with pytest.raises(ChildDied, match="exit code -9"):
        c.ask("abc", timeout_s=10)
    assert c.ask("abc", timeout_s=10) == "b"


def test_a_child_is_replaced_after_its_share_of_answers(child):
    c = child("operator:itemgetter", 1, max_answers=2)
    pids = []
    for _ in range(4):
        c.start()
        pids.append(c.pid)
        c.ask("abc", timeout_s=10)
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_a_child_that_grows_is_replaced(child):
    c = child("grading_envs:hoarder", max_growth_bytes=30_000_000)
    c.ask(1, timeout_s=10)
    pid = c.pid
    c.ask(1_000_000, timeout_s=10)
    assert c.pid == pid
    c.ask(60_000_000, timeout_s=10)
    assert c.pid is None  # the next request gets a new one
    assert c.ask(1, timeout_s=10) == 1


def test_a_copy_has_a_process_of_its_own(child):
    c = child("operator:itemgetter", 1)
    c.start()
    copy = pickle.loads(pickle.dumps(c))
    assert copy.ask("xyz", timeout_s=10) == "y" and copy.pid != c.pid
    copy.close()


def test_an_idle_child_ends_with_its_parent(child):
    parent = child("grading_envs:grandparent")
    grandchild = psutil.Process(parent.ask("start", timeout_s=30))
    assert grandchild.is_running()
    os.kill(parent.pid, signal.SIGKILL)
    assert psutil.wait_procs([grandchild], timeout=10)[1] == []


# ---- the pool -----------------------------------------------------------------------------------------------------


def test_verdicts_are_those_of_the_env(pool):
    env, p = ArithmeticEnv(digits=3), pool(num_workers=2)
    for index in range(20):
        p.submit(index, index, env.task(index).answer if index % 2 else "0")
    verdicts = collect_all(p)
    assert sorted(verdicts) == list(range(20))
    for index, graded in verdicts.items():
        assert graded.prompt == env.task(index).prompt and graded.info["index"] == index
        assert graded.reward == index % 2 and graded.info["grade_status"] == ("ok" if index % 2 else "wrong")


def test_collect_does_not_wait_unless_asked_to(pool):
    p = pool("slow")
    p.submit("k", 1, "1")
    assert p.collect() == []  # the worker has not even started
    assert p.pending == 1
    assert [key for key, _ in p.collect(wait_s=30)] == ["k"]


def test_work_is_shared_between_workers(pool):
    p = pool("slow", num_workers=2)
    for key in range(8):
        p.submit(key, 1, "1")
    collect_all(p)
    # Eight answers of 0.1 s each: had one worker done them all, the other's CPU time would be that of its start.
    answers = [worker.child._num_answers for worker in p._workers]
    assert sum(answers) == 8 and min(answers) >= 2


def test_a_caller_who_comes_by_seldom_finds_much_done(pool):
    p = pool()
    p.submit("first", 1, "1")
    collect_all(p)  # now it is known how fast the worker is
    for key in range(1000):  # with their answers more than a socket holds
        p.submit(key, 1, "1")
        time.sleep(1e-4)
    visits = 0
    while p.pending:
        time.sleep(0.02)  # as long as an engine step
        p.collect()
        visits += 1
    assert visits < 500  # 1000 with one at a time


def test_long_completions_do_not_pile_up_at_a_worker(pool):
    p = pool()
    p.submit("first", 1, "1")
    collect_all(p)
    for key in range(40):  # more than a socket holds, both ways
        p.submit(key, 1, "1" * 20_000)
    assert len(p._workers[0].queue) == 2
    assert len(collect_all(p)) == 40


def test_a_worker_that_grades_gets_no_completion_that_would_not_fit_into_its_socket(pool):
    """The caller would wait until it is read, while the worker waits until its own long answer is."""
    p = pool("slow")
    p.submit("first", 1, "1")
    collect_all(p)
    for key in range(4):
        p.submit(key, 1, "1" * 2_000_000)
        assert len(p._workers[0].queue) == 1
    assert len(collect_all(p)) == 4


def test_what_hangs_times_out_and_nothing_else_does(pool):
    p = pool("hangs", timeout_s=1.0)
    for key, index in enumerate([1, 3, 2, 3, 5]):
        p.submit(key, index, "1")
    statuses = {key: graded.info["grade_status"] for key, graded in collect_all(p).items()}
    assert statuses == {0: "wrong", 1: "timeout", 2: "wrong", 3: "timeout", 4: "wrong"}


def test_a_completion_that_kills_its_worker_twice_is_ungraded_and_the_rest_are_graded(pool):
    p = pool("dies")
    for key, index in enumerate([1, 40, 2, 40, 5]):
        p.submit(key, index, "1")
    verdicts = collect_all(p)
    assert [key for key, graded in verdicts.items() if ungraded(graded)] == [1, 3]
    assert all(verdicts[key].info["grade_status"] == "wrong" for key in (0, 2, 4))


def test_what_was_graded_before_a_worker_died_is_not_to_blame(pool):
    p = pool("dies")
    p.submit("first", 1, "1")
    collect_all(p)
    for key in range(50):
        p.submit(key, 40 if key == 25 else 1, "1")
        time.sleep(0.002)  # the answers to the first ones lie unread while the worker dies, and after that
    assert all(item.attempt == 1 for item in (*p._waiting, *p._workers[0].queue))
    assert [key for key, graded in collect_all(p).items() if ungraded(graded)] == [25]


def test_a_worker_that_dies_once_costs_nothing(pool, tmp_path):
    p = pool("dies once", flag=str(tmp_path / "flag"))
    p.submit("k", 40, ArithmeticEnv(digits=3).task(40).answer)
    assert collect_all(p)["k"].reward == 1.0 and (tmp_path / "flag").exists()


def test_an_exception_of_the_env_is_raised_with_its_traceback_and_can_be_cleared(pool):
    p = pool("raises", num_workers=2)
    for key in range(4):
        p.submit(key, 1, "1")
    with pytest.raises(RuntimeError, match="grader down"):
        collect_all(p)
    p.clear()
    assert p.pending == 0 and p.collect() == []


def test_an_env_that_cannot_be_made_is_an_error_and_not_an_endless_restart():
    p = GradingPool(partial(ArithmeticEnv, digits=99), 1, 60.0)
    p.submit("k", 0, "1")
    with pytest.raises(RuntimeError, match="digits=99"):
        collect_all(p)
    p.close()
    p = GradingPool(partial(os._exit, 7), 1, 60.0)
    p.submit("k", 0, "1")
    with pytest.raises(RuntimeError, match="exit code 7"):
        collect_all(p)
    p.close()


def test_nothing_is_left_after_close(pool):
    p = pool("slow", num_workers=2)
    p.submit("k", 1, "1")
    processes = [psutil.Process(pid) for pid in p.pids]
    p.close()
    assert not any(process.is_running() for process in processes)


@pytest.mark.parametrize(("num_workers", "timeout_s", "message"), [(0, 1.0, "num_workers=0"), (1, 0, "timeout_s=0")])
def test_bad_settings_are_named(num_workers, timeout_s, message):
    with pytest.raises(ValueError, match=message):
        GradingPool(Troublesome, num_workers, timeout_s)
