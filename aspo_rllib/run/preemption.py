"""Ends a run under Tune after a signal: SIGTERM saves a checkpoint first, Ctrl-C does not. The run can be resumed.

Systems that take machines back (Slurm, Kubernetes, spot instances, `ray job stop`) send SIGTERM, and SIGKILL after a
grace period.
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
    """The signal that asked the run to end, and the trials that were saved after it.

    signum: SIGTERM or SIGINT; None: no signal was received.
    grace_s: seconds that the running trials have after SIGTERM for their iteration and its checkpoint.
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
        how = f"saves after this iteration, within {self._grace_s:g} s, and ends" if saves else "ends without saving"
        _say(f"{signal.Signals(signum).name}: {how}; a second signal ends the run at once")

    def wants(self, trial: Trial) -> bool:
        """Whether this trial must still be saved before the run ends."""
        return self.signum == signal.SIGTERM and trial.trial_id not in self.saved

    def is_due(self, trials: Iterable[Trial]) -> bool:
        """Whether the run can end now. It does not wait for trials that are starting or pending: they lose nothing."""
        waits = any(self.wants(trial) for trial in trials if trial.status == Trial.RUNNING)
        return self.signum is not None and (not waits or time.monotonic() > self._deadline_s)


_stop: Stop | None = None  # not an attribute of the callback: Tune pickles the callback and restores it when resuming


class StopCallback(tune.Callback):
    """The Tune callback that saves trials and ends the run after a signal. Every run inside `stoppable` needs it."""

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
            # On SIGUSR1 Tune ends its loop, stores the experiment's state and leaves the trials unfinished.
            signal.raise_signal(signal.SIGUSR1)


@contextmanager
def stoppable(grace_s: float) -> Iterator[Stop]:
    """A context in which SIGTERM and Ctrl-C end `Tuner.fit()` cleanly. A second signal raises SystemExit at once.

    grace_s: seconds that the running trials have after SIGTERM for their iteration and its checkpoint.

    It works only in the main thread, and needs a `StopCallback` among the Tuner's callbacks.
    """
    global _stop
    _stop = Stop(grace_s)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # otherwise fit() would replace our handler
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
    """Raise SystemExit if a signal ended the run before it was finished, and print what each trial has saved.

    The exit code is INTERRUPTED after Ctrl-C. After SIGTERM it is 0 if there is a checkpoint to continue from or a
    finished trial, else NOTHING_SAVED.
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
    _say("the same command with --resume continues from there" if kept else "nothing is saved yet")
    if stop.signum == signal.SIGINT:
        raise SystemExit(INTERRUPTED)
    raise SystemExit(0 if kept else NOTHING_SAVED)


def _say(line: str) -> None:
    with suppress(BrokenPipeError):  # the reader, for example tee, may have ended after the same Ctrl-C
        os.write(1, f"stopping    {line}\n".encode())  # print raises in a handler that interrupted a print
