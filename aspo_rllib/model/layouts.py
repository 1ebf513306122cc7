"""The three layouts of a micro-batch: the tensors, their cost in tokens, and which rollouts stay together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from aspo_rllib.internals import attention_implementation, supports_attention_backend
from aspo_rllib.model.packing import SEQUENCE_ATTENTION, Pack, pack_rows, pad_rows, share_prompts
from aspo_rllib.types import Rollout

Cost = Callable[[Sequence[int]], int]
Units = Callable[[Sequence[Rollout], int], list[list[int]]]

# Elements of the loss per token of a micro-batch's budget. Even so many cost little beside the layers of a model.
LOSS_ELEMENTS_PER_TOKEN = 16
ROLLOUTS_PER_UNIT = 4  # of one prompt; with more of them, the loss may have more elements


@dataclass(frozen=True)
class Layout:
    """One way to arrange the rollouts of a micro-batch in tensors.

    pack: (prompts, completions, device) -> TokenBatch.
    cost: number of tokens in a forward pass, from the numbers of tokens of its units.
    units: groups the rollouts of one prompt, by their positions. All rollouts of a unit are in the same forward pass.
    """

    pack: Pack
    cost: Cost
    units: Units


def padded_tokens(lengths: Sequence[int]) -> int:
    """Number of tokens in a forward pass over right-padded rows: rows x longest row."""
    return len(lengths) * max(lengths)


def packed_tokens(lengths: Sequence[int]) -> int:
    """Tokens of a forward pass over one row without padding; more if there would be too much padding in its loss.

    The loss has a row per rollout, as wide as the longest. Without a limit, one long rollout among many short ones
    would make it grow with the square of the tokens.
    """
    return max(sum(lengths), padded_tokens(lengths) // LOSS_ELEMENTS_PER_TOKEN)


def shared_row_tokens(lengths: Sequence[int]) -> int:
    """The same for units of several rollouts, each of which has a row of the loss that is as wide as the longest."""
    return max(sum(lengths), padded_tokens(lengths) // (LOSS_ELEMENTS_PER_TOKEN // ROLLOUTS_PER_UNIT))


def single_rollouts(rollouts: Sequence[Rollout], max_tokens: int) -> list[list[int]]:
    """Each rollout may go to any learner and micro-batch."""
    return [[i] for i in range(len(rollouts))]


def rollouts_of_one_prompt(rollouts: Sequence[Rollout], max_tokens: int) -> list[list[int]]:
    """As many rollouts of a group stay together as fit into `max_tokens`, counting their prompt once."""
    units: list[list[int]] = []
    for i in range(len(rollouts)):
        if units and shared_tokens([rollouts[k] for k in (*units[-1], i)]) <= max_tokens:
            units[-1].append(i)
        else:
            units.append([i])
    return units


def shared_tokens(rollouts: Sequence[Rollout]) -> int:
    """Number of tokens of rollouts that share one copy of their prompt."""
    return len(rollouts[0].prompt_ids) + sum(len(r.completion_ids) for r in rollouts)


LAYOUTS = {
    "padded": Layout(pad_rows, padded_tokens, single_rollouts),
    "packed": Layout(pack_rows, packed_tokens, single_rollouts),
    "shared": Layout(share_prompts, shared_row_tokens, rollouts_of_one_prompt),
}


def resolve_layout(layout: str | None, hf_model: PreTrainedModel) -> str:
    """A name in LAYOUTS: `layout`, or for None "packed" if the model keeps packed rollouts apart, else "padded".

    Raises ValueError if `layout` is "packed" or "shared" and the model's layers would mix the rollouts of a row, or if
    it is "shared" and the model's attention does not copy shared prompts.
    """
    others = set(getattr(hf_model.config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if others:
        obstacle = f"has {sorted(others)} layers"
    elif not supports_attention_backend(hf_model):
        obstacle = "brings its own attention"
    elif layout == "shared" and attention_implementation(hf_model) != SEQUENCE_ATTENTION:
        obstacle = f"uses {attention_implementation(hf_model)!r} attention"
    else:
        return layout or "packed"
    if layout in ("packed", "shared"):
        raise ValueError(f"layout={layout!r}: {type(hf_model).__name__} {obstacle}; use 'padded'.")
    return "padded"
