"""Find the program in a completion."""

import re

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^`\n]*)$", re.MULTILINE)
_PYTHON = ("python", "python3", "py")
_THOUGHT_BEGINS, _THOUGHT_ENDS = "<think>", "</think>"


def extract_program(completion: str) -> str | None:
    """Return the content of the last fenced block after the last thought, or None if there is none.

    The last block that is marked as Python wins; without any, the last one that is marked as nothing. A block that
    is never closed was cut short and does not count, and nothing counts after a thought that is never closed.
    """
    answer = completion.rpartition(_THOUGHT_ENDS)[2]
    if _THOUGHT_BEGINS in answer:
        return None
    programs: dict[bool, str] = {}
    opening = None
    for fence in _FENCE.finditer(answer):
        marks, language = fence[1], fence[2].strip().lower()
        if opening is None:
            opening = fence
        elif not language and marks[0] == opening[1][0] and len(marks) >= len(opening[1]):
            marked = opening[2].strip().lower()
            if marked in ("", *_PYTHON):
                programs[marked != ""] = answer[opening.end() + 1 : fence.start()]
            opening = None
    return programs.get(True, programs.get(False))
