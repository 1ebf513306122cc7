"""Find the program in a completion."""

import re

# A fence may be in a list or a quotation, also on the line with the list's mark.
_FENCE = re.compile(
    r"^(?P<before>[ \t]*(?:(?:>|[-*+]|\d{1,9}[.)])[ \t]+|>)*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$",
    re.MULTILINE,
)
_PYTHON = re.compile(r"\.?(?:i?python|py|pypy)[\d.]*(?:-?repl)?\Z", re.IGNORECASE)
_NO_LANGUAGE = re.compile(r"#|\.\w*(-|line|number|copy)|[^=]*=", re.IGNORECASE)
_QUOTE = re.compile(r"[ \t]*>[ \t]?")
_THOUGHT_BEGINS, _THOUGHT_ENDS = "<think>", "</think>"
_TAB_STOP = 4


def extract_program(completion: str) -> str | None:
    """Return the content of the last fenced block after the last thought, or None if there is none.

    The last block that is marked as Python is taken. If there is none, the last block without a mark is taken. Text
    after the language on its line, such as a title, is ignored, and so is a class in braces that is not a language.
    Lines lose the indentation of their fence. A block that is never closed was cut off and is ignored. Blocks after a
    thought that is never closed are ignored, too.
    """
    answer = completion.rpartition(_THOUGHT_ENDS)[2]
    if _THOUGHT_BEGINS in answer:
        return None
    programs: dict[bool, str] = {}
    opening = None
    for fence in _FENCE.finditer(answer):
        marks = fence["marks"]
        if opening is None:
            opening = fence
        elif not fence["info"].strip() and marks[0] == opening["marks"][0] and len(marks) >= len(opening["marks"]):
            language = _language(opening["info"])
            if language == "" or _PYTHON.match(language):
                content = answer[opening.end() + 1 : fence.start()]
                programs[language != ""] = _without_indentation(content, opening["before"])
            opening = None
    return programs.get(True, programs.get(False))


def _language(info: str) -> str:
    """The language of ```python title="x", {python}, {.python .numberLines} and python:main.py, if any."""
    info = info.strip()
    if info.startswith("{"):
        names = re.findall(r"[^\s,{}]+", info)
        python = next((name for name in names if _PYTHON.match(name)), "")
        return python or next((name for name in names[:1] if not _NO_LANGUAGE.match(name)), "")
    first = info.split(maxsplit=1)[0] if info else ""
    return "" if "=" in first else re.split(r"[,:{(]", first)[0]


def _without_indentation(content: str, before: str) -> str:
    if not before:
        return content
    quotes, width = before.count(">"), len(before.replace(">", "").expandtabs(_TAB_STOP))
    return "".join(_unindented(line, quotes, width) for line in content.splitlines(keepends=True))


def _unindented(line: str, quotes: int, width: int) -> str:
    for _ in range(quotes):
        line = _QUOTE.sub("", line, count=1)
    if quotes:  # the blank after the mark was removed with it
        width = max(width - quotes, 0)
    removed = 0
    while removed < width and line[:1] in (" ", "\t"):
        removed += 1 if line[0] == " " else _TAB_STOP
        line = line[1:]
    return line
