"""The thread that steps a worker: calls come in between steps, errors reach whoever asked."""

import threading

import pytest

from aspo_rllib.rollout.stepping_thread import SteppingThread


class Countdown:
    """Busy for as many steps as it is told."""

    def __init__(self):
        self.left, self.steps, self.threads = 0, 0, {threading.get_ident()}

    @property
    def busy(self):
        return self.left > 0

    def step(self):
        self.threads.add(threading.get_ident())
        self.left -= 1
        self.steps += 1
        if self.left == 13:
            raise OSError("step 13")

    def add(self, n):
        self.threads.add(threading.get_ident())
        self.left += n


@pytest.fixture
def thread():
    thread = SteppingThread(Countdown, name="countdown")
    yield thread
    thread.close()


def wait_until_idle(thread):
    while thread.call(lambda worker: worker.busy):
        pass


def test_a_busy_worker_is_stepped_until_it_is_not(thread):
    thread.call(lambda worker: worker.add(10))
    wait_until_idle(thread)
    assert thread.call(lambda worker: (worker.left, worker.steps)) == (0, 10)


def test_calls_are_made_while_it_is_busy(thread):
    thread.call(lambda worker: worker.add(10**9))
    first, second = (thread.call(lambda worker: worker.steps) for _ in range(2))
    assert 0 <= first <= second < 10**9
    thread.call(lambda worker: worker.add(-worker.left))


def test_everything_happens_in_one_thread_that_is_not_ours(thread):
    thread.call(lambda worker: worker.add(3))
    wait_until_idle(thread)
    (only,) = thread.call(lambda worker: worker.threads)
    assert only != threading.get_ident()


def test_a_held_thread_makes_calls_and_no_steps(thread):
    thread.call(lambda worker: worker.add(10**9))
    thread.hold()
    first, second = (thread.call(lambda worker: worker.steps) for _ in range(2))
    assert first == second
    thread.release()
    while thread.call(lambda worker: worker.steps) == second:
        pass
    thread.call(lambda worker: worker.add(-worker.left))


def test_an_error_of_a_call_is_its_callers_and_changes_nothing_else(thread):
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda worker: 1 / worker.left)
    assert thread.call(lambda worker: worker.steps) == 0


def test_after_an_error_of_a_step_every_call_raises_it(thread):
    thread.call(lambda worker: worker.add(14))
    for _ in range(2):
        with pytest.raises(OSError, match="step 13"):
            while True:
                thread.call(lambda worker: worker.steps)


def test_what_cannot_be_made_raises_where_it_was_asked_for():
    with pytest.raises(ZeroDivisionError):
        SteppingThread(lambda: 1 / 0, name="never").call(lambda worker: worker)


def test_close_ends_the_thread():
    thread = SteppingThread(Countdown, name="to be closed")
    thread.call(lambda worker: worker.add(10**9))
    thread.close()
    assert "to be closed" not in {t.name for t in threading.enumerate()}
