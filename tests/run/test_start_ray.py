"""Ray is started again if the machine was too busy for its time limits, and only then."""

import pytest
import ray

from aspo_rllib.run.start_ray import start_ray

SLOW = Exception("The current node timed out during startup. This could happen because ...")


@pytest.fixture
def init_raising(monkeypatch):
    """`init_raising(error, error, ...)`: each call of ray.init raises the next of these, and later ones return."""

    def make(*errors):
        calls, left = [], list(errors)

        def init(*args, **kwargs):
            calls.append((args, kwargs))
            if left:
                raise left.pop(0)

        monkeypatch.setattr(ray, "init", init)
        return calls

    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return make


def test_a_slow_start_is_tried_again_with_the_same_arguments(init_raising, capsys):
    calls = init_raising(SLOW)
    start_ray("local", num_cpus=2)
    assert calls == [(("local",), {"num_cpus": 2})] * 2
    assert capsys.readouterr().out == "Ray did not start within its limit of 30 s (attempt 1 of 3).\n"


def test_a_machine_that_stays_too_slow_is_named_with_what_to_do(init_raising):
    calls = init_raising(SLOW, SLOW, SLOW)
    with pytest.raises(RuntimeError, match=r"did not start in 3 attempts.*`ray start --head`"):
        start_ray()
    assert len(calls) == 3


def test_another_error_is_raised_at_once(init_raising):
    calls = init_raising(ConnectionError("no cluster at that address"))
    with pytest.raises(ConnectionError, match="no cluster"):
        start_ray()
    assert len(calls) == 1


def test_the_message_that_is_waited_for_is_rays_own():
    # The text stands in the source of Ray's node and may change with a new version of Ray.
    import inspect

    from ray._private import node

    assert "timed out during startup" in inspect.getsource(node).replace('"\n                        "', "")
