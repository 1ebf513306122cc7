"""How the driver brings the learner's weights to the runners: over the object store, or by vLLM's own transfer."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from aspo_rllib.placement import OBJECT_STORE, weight_transport

if TYPE_CHECKING:
    from aspo_rllib.config import ASPOConfig
    from aspo_rllib.learner_group import ASPOLearnerGroup
    from aspo_rllib.runner_pool import RunnerPool
    from aspo_rllib.weight_sync import WeightsHandle


class Transport(Protocol):
    """A way to the runners."""

    def send(self) -> WeightsHandle:
        """Bring the learner's weights to every runner in service, and wait until they have them."""


class ObjectStore:
    """The learner puts the weights, the runners read them from shared memory or over the network; any machines."""

    def __init__(self, learners: ASPOLearnerGroup, runners: RunnerPool):
        self._learners = learners
        self._runners = runners

    def send(self) -> WeightsHandle:
        handle = self._learners.weights()
        self._runners.load(handle)
        return handle


class VLLMTransfer:
    """The learners send, the engines receive, with no copy in between.

    The connection is made anew when the runners in service are others than before, or one of them was restarted. One
    that comes back in the meantime gets its weights over the object store. What fails while weights are under way ends
    the run: the learner's side of a broadcast cannot be taken back.
    """

    def __init__(self, learners: ASPOLearnerGroup, runners: RunnerPool):
        self._learners = learners
        self._runners = runners
        self._group = ""
        self._members: list[int] = []

    def send(self) -> WeightsHandle:
        # Asking also finds out who has died since: nobody may be missing in what follows.
        groups = self._runners.call(attrgetter("transfer_group"))
        members = sorted(groups)
        if not members:  # all are being restarted, and will get these
            return self._learners.weights()
        if members != self._members or set(groups.values()) != {self._group}:
            self._group, self._members = uuid4().hex, members
            self._learners.connect(self._group, self._runners.actors(members))
        handle = self._learners.send()
        self._runners.asleep = False
        return handle


def make_transport(config: ASPOConfig, learners: ASPOLearnerGroup, runners: RunnerPool) -> Transport:
    """What the config says, or what follows from its placement."""
    made = ObjectStore if weight_transport(config) == OBJECT_STORE else VLLMTransfer
    return made(learners, runners)
