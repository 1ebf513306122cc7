"""A run under Tune that is told to end: SIGTERM saves it first, Ctrl-C does not wait; both leave it fit to be resumed.

Who takes machines back (Slurm, Kubernetes, spot instances, `ray job stop`) sends SIGTERM, and SIGKILL after a while.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ray import tune
from ray.train import Checkpoint
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT, TRAINING_ITERATION

INTERRUPTED = 128 + signal.SIGINT  # exit codes, as shells count them
NOTHING_SAVED = 128 + signal.SIGTERM


class Stop:
    """Whether a run was told to end, by which signal, and which trials were saved since.

    signum: SIGTERM or SIGINT; None: neither came.
    """

    def __init__(self, grace_s: float):
        self.signum: int | None = None
        self.saved: set[str] = set()
        self._grace_s = grace_s
        self._deadline_s = 0.0

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise SystemExit(128 + signum)
        self.signum = signum
        saves = signum == signal.SIGTERM
        self._deadline_s = time.monotonic() + (self._grace_s if saves else 0.0)
        how = f"saves after this iteration, within {self._grace_s:g} s, and ends" if saves else "ends, unsaved"
        _say(f"{signal.Signals(signum).name}: {how}; a second signal ends at once")

    def wants(self, trial: Trial) -> bool:
        """Whether this trial is to be saved before the end."""
        return self.signum == signal.SIGTERM and trial.trial_id not in self.saved

    def is_due(self, trials: Iterable[Trial]) -> bool:
        """Whether nothing more is to be waited for. A trial that boots, or waits for resources, loses nothing."""
        waits = any(self.wants(trial) for trial in trials if trial.status == Trial.RUNNING)
        return self.signum is not None and (not waits or time.monotonic() > self._deadline_s)


_stop: Stop | None = None  # not the callback's: Tune pickles that, and a resumed run takes the first one's


class StopCallback(tune.Callback):
    """Does within Tune what the signals asked for; one of the callbacks of every run below `stoppable`."""

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if _stop and _stop.wants(trial):
            result[SHOULD_CHECKPOINT] = True

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Checkpoint, **info: Any
    ) -> None:
        if _stop and _stop.wants(trial):
            _stop.saved.add(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if _stop and _stop.is_due(trials):
            # Tune's good order: the loop ends, the experiment's state is stored, trials stay unfinished.
            signal.raise_signal(signal.SIGUSR1)


@contextmanager
def stoppable(grace_s: float) -> Iterator[Stop]:
    """Within, SIGTERM and Ctrl-C end `Tuner.fit()` in good order, a second one at once by SystemExit.

    grace_s: how long after SIGTERM the running trials may take for their iteration and its checkpoint.

    Only in the main thread, and only with a `StopCallback` among the Tuner's callbacks.
    """
    global _stop
    _stop = Stop(grace_s)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # fit() would put its own over ours
    signal.signal(signal.SIGTERM, _stop.on_signal)
    signal.signal(signal.SIGINT, _stop.on_signal)
    try:
        yield _stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        del os.environ["TUNE_DISABLE_SIGINT_HANDLER"]
        _stop = None


def exit_if_stopped(stop: Stop, results: Iterable[tune.Result]) -> None:
    """SystemExit, with a line per trial on what is saved, for a run that a signal ended before it was done.

    Its code: 0 after SIGTERM, but NOTHING_SAVED where there is neither a checkpoint to go on from nor a trial that is
    done; INTERRUPTED after Ctrl-C.
    """
    unfailed = [result for result in results if not result.error]
    unfinished = [result for result in unfailed if not (result.metrics or {}).get("done")]
    if stop.signum is None or not unfinished:
        return
    if num_done := len(unfailed) - len(unfinished):
        _say(f"trials that are done: {num_done}")
    saved = [result for result in unfinished if result.checkpoint]
    for result in saved:
        assert result.metrics and result.checkpoint and result.best_checkpoints
        iteration = max(metrics[TRAINING_ITERATION] for _, metrics in result.best_checkpoints)
        last = result.metrics[TRAINING_ITERATION]
        _say(f"iteration {last} was the last, {iteration} is saved in {result.checkpoint.path}")
    kept = bool(saved or num_done)
    _say("the same command with --resume goes on from there" if kept else "nothing is saved yet")
    if stop.signum == signal.SIGINT:
        raise SystemExit(INTERRUPTED)
    raise SystemExit(0 if kept else NOTHING_SAVED)


def _say(line: str) -> None:
    with suppress(BrokenPipeError):  # who reads it, tee for example, may have died of the same Ctrl-C
        os.write(1, f"stopping    {line}\n".encode())  # print raises in a handler that interrupted a print
