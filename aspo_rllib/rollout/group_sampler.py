"""Prompts in, whole graded groups out: the engine's requests under way, and the grading beside them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from aspo_rllib.rollout.engines.engine import Completion, Engine
from aspo_rllib.rollout.rewards import rewards_of
from aspo_rllib.rollout.stats import repetition
from aspo_rllib.rollout.stops import cut_at_stop
from aspo_rllib.types import Rollout, RolloutGroup
from envs.grading.pool import Graded, GradingPool, ungraded

if TYPE_CHECKING:
    from aspo_rllib.config.settings import ASPOSettings
    from aspo_rllib.rollout.prompts import Prompt

GRADING_POLL_S = 0.05  # while nothing is generated; calls from other threads wait as long
_TRAINING, _EVALUATION = 0, 1  # streams of request seeds
_LEARNERS_DISTRIBUTION: dict[str, Any] = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop": ()}


@dataclass(frozen=True)
class GroupRequest:
    """One task to sample.

    config: whose sampling settings count; pool: who grades; weights_version: of the weights in the engine.
    """

    position: int
    index: int
    prompt: Prompt
    config: ASPOSettings
    pool: GradingPool
    weights_version: int


@dataclass
class _Group:
    request: GroupRequest
    future: Future[RolloutGroup] = field(default_factory=Future)
    completions: dict[int, tuple[Completion, str]] = field(default_factory=dict)
    graded: dict[int, Graded] = field(default_factory=dict)


class GroupSampler:
    """Drives one engine. Its calls must not overlap: `SteppingThread` makes them between two steps."""

    def __init__(
        self, engine: Engine, tokenizer: PreTrainedTokenizerBase, stop_token_ids: Sequence[int], base_seed: int
    ):
        self.engine = engine
        self._generate_s = self._grade_s = 0.0
        self._tokenizer = tokenizer
        self._stop_token_ids = stop_token_ids
        self._base_seed = base_seed
        self._serial = count()
        self._groups: dict[int, _Group] = {}
        self._requests: dict[str, tuple[int, int]] = {}  # what the engine works on: (serial, number in the group)
        self._probes: dict[str, Completion | None] = {}

    def start(self, requests: Iterable[GroupRequest]) -> list[Future[RolloutGroup]]:
        """Queue `group_size` completions of each prompt; a group's future is done when the last one is graded."""
        groups = {next(self._serial): _Group(request) for request in requests}
        self._groups |= groups
        for serial, group in groups.items():
            for g in range(group.request.config.group_size):
                request_id = f"{serial}/{g}"
                self._requests[request_id] = (serial, g)
                self._submit(request_id, group.request.prompt.ids, group.request.config, self._seed(group.request, g))
        return [group.future for group in groups.values()]

    @property
    def busy(self) -> bool:
        """Whether a group is unfinished."""
        return bool(self._groups)

    def step(self) -> None:
        """One engine step, and what the graders have found meanwhile. An error is that of all groups under way."""
        try:
            self._step()
        except Exception as error:
            self._fail(error)

    def cancel(self, futures: Iterable[Future[RolloutGroup]]) -> None:
        """Forget these groups; their futures are never done."""
        unwanted = {id(future) for future in futures}
        serials = {serial for serial, group in self._groups.items() if id(group.future) in unwanted}
        self._abort(serials)
        for serial in serials:
            del self._groups[serial]

    def probe(self, prompt_ids: Sequence[np.ndarray], config: ASPOSettings, max_tokens: int) -> list[Completion]:
        """One short completion per prompt, to compare the engine's logprobs with the learner's."""
        self._probes = {f"probe/{n}": None for n in range(len(prompt_ids))}
        for n, (request_id, ids) in enumerate(zip(self._probes, prompt_ids, strict=True)):
            self._submit(request_id, ids, config, seed=n, max_tokens=max_tokens, **_LEARNERS_DISTRIBUTION)
        try:
            while None in self._probes.values():
                self._step()
        except Exception as error:
            self._fail(error)
            raise
        return [completion for completion in self._probes.values() if completion is not None]

    def take_times(self) -> dict[str, float]:
        """Seconds since the last call in which the engine generated, and in which only the graders worked."""
        times = {"generate_s": self._generate_s, "grade_s": self._grade_s}
        self._generate_s = self._grade_s = 0.0
        return times

    def _submit(
        self, request_id: str, prompt_ids: np.ndarray, config: ASPOSettings, seed: int | None, **overrides: Any
    ) -> None:
        settings: dict[str, Any] = {
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k,
            "min_p": config.min_p,
            "repetition_penalty": config.repetition_penalty,
            "stop": config.stop or (),
            "max_tokens": config.max_completion_tokens,
            "stop_token_ids": self._stop_token_ids,
        }
        self.engine.submit(request_id, prompt_ids, seed=seed, **(settings | overrides))

    def _seed(self, request: GroupRequest, g: int) -> int | None:
        """A seed per completion that depends on nothing but the run's seed and the prompt's place in it."""
        if not request.config.completions_are_seeded:
            return None
        stream = _EVALUATION if request.config.in_evaluation else _TRAINING
        return int(np.random.SeedSequence([self._base_seed, stream, request.position, g]).generate_state(1)[0])

    def _step(self) -> None:
        start = time.perf_counter()
        generating = self.engine.busy
        for completion in self.engine.step() if generating else ():
            if completion.request_id in self._probes:
                self._probes[completion.request_id] = completion
            else:
                self._have_graded(completion)
        stepped = time.perf_counter()
        for pool in {group.request.pool for group in self._groups.values()}:
            for (serial, g), graded in pool.collect(0.0 if generating else GRADING_POLL_S):
                if serial in self._groups:  # else it was cancelled
                    self._take_grade(serial, g, graded)
        self._generate_s += stepped - start
        self._grade_s += 0.0 if generating else time.perf_counter() - stepped

    def _have_graded(self, completion: Completion) -> None:
        serial, g = self._requests.pop(completion.request_id)
        group = self._groups[serial]
        text = self._text(completion, group.request.config.stop or ())
        group.completions[g] = (completion, text)
        group.request.pool.submit((serial, g), group.request.index, text)

    def _text(self, completion: Completion, stop: Sequence[str] = ()) -> str:
        """The completion without its end token, up to a stop text. Other special tokens are part of the answer:
        `</think>` may be one."""
        ids = completion.completion_ids.tolist()
        if ids and ids[-1] in self._stop_token_ids:
            ids = ids[:-1]
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        assert isinstance(text, str)  # a list only for several completions
        return cut_at_stop(text, stop)

    def _take_grade(self, serial: int, g: int, graded: Graded) -> None:
        group, size = self._groups[serial], self._groups[serial].request.config.group_size
        group.graded[g] = graded
        if len(group.graded) == size:
            del self._groups[serial]
            request = group.request
            verdicts = [(*group.completions[g], group.graded[g]) for g in range(size)]
            finite = [v for v in verdicts if np.isfinite(v[0].sampler_logprobs).all()]
            rollouts = tuple(as_rollout(request, *v) for v in finite if not ungraded(v[-1]))
            errors = [v[-1].info["grade_error"] for v in finite if "grade_error" in v[-1].info]
            group.future.set_result(
                RolloutGroup(
                    request.position,
                    request.index,
                    request.prompt.text,
                    rollouts,
                    num_ungraded=size - len(rollouts),
                    num_nonfinite=size - len(finite),
                    grade_error=errors[0] if errors else None,
                )
            )

    def _fail(self, error: Exception) -> None:
        """Hand an error to whoever waits for a group. What was under way must not come back as an answer later."""
        groups, self._groups = self._groups, {}
        for group in groups.values():
            group.future.set_exception(error)
        self._abort(set(groups))
        self.engine.abort(self._probes)
        for pool in {group.request.pool for group in groups.values()}:
            pool.clear()

    def _abort(self, serials: set[int]) -> None:
        unwanted = [request_id for request_id, (serial, _) in self._requests.items() if serial in serials]
        self.engine.abort(unwanted)
        for request_id in unwanted:
            del self._requests[request_id]


def as_rollout(request: GroupRequest, completion: Completion, text: str, graded: Graded) -> Rollout:
    """One completion of a request, as text and as graded."""
    prompt = request.prompt
    verdict = graded.info.get("correct")
    reward, rewards = rewards_of(graded, request.config, request.index)
    assert graded.prompt in (prompt.text, None), f"a task of {request.config.env} asks something else on every reset"
    return Rollout(
        prompt_ids=prompt.ids,
        completion_ids=completion.completion_ids,
        sampler_logprobs=completion.sampler_logprobs,
        finish_reason=completion.finish_reason,
        completion=text,
        reward=reward,
        correct=None if verdict is None else bool(verdict),
        weights_version=request.weights_version,
        info=prompt.info | graded.info,
        repetition_frac=repetition(text),
        rewards=rewards,
    )
