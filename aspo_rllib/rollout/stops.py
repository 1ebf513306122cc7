"""Stop strings: where a completion ends, in tokens and in text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_SPARE_TOKENS = 4  # a decoder may change a text's first characters: it strips a blank or shows half a letter


def ends_with_stop(ids: Sequence[int], stops: Sequence[str], decode: Callable[[list[int]], str]) -> bool:
    """Whether the last token of a completion completed a stop string, which may end within the token.

    ids: the completion's tokens, none of which completed one before. The cost does not depend on their number: every
        token has at least one byte, so that a stop string of n bytes has at most n tokens.
    """
    longest = max(len(stop.encode()) for stop in stops)
    tail = decode(list(ids[-longest - _SPARE_TOKENS :]))
    return any(stop in tail for stop in stops)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to and with the first stop string that is complete; all of it without one."""
    ends = [start + len(stop) for stop in stops if (start := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]
