"""Finds the final answer in the text of a math completion.

Training uses `boxed_answer`, which accepts only the last \\boxed{...}. `final_answer` also searches texts without a
box: for "the answer is ...", the last formula, or the last number.

The time of all functions is linear in the length of any text.
"""

from __future__ import annotations

import re

from envs.grading.math.symbols import FUNCTIONS

MAX_BOXES = 32
MAX_CONNECTOR_CHARS = 40
# For an answer without a box, only the end of a long text is searched.
MAX_TAIL_CHARS = 4_000

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
# In \boxed 12 TeX reads one token, but authors mean the whole number.
_BARE_BOX = re.compile(r"[^\s{}$\\]{1,400}")
_BOX_NAMES = ("\\boxed", "\\fbox")

# The text between two boxes of one list: "\boxed{1} \text{ and } \boxed{2}".
_SEPARATORS = re.compile(r"(?:[\s$,;]|\\[()\[\],;! ]|\\q?quad(?![a-z])|\\text\s*\{\s*(?:and|or)\s*\}|and|or)*")
_ENDS_IN_AND = re.compile(r"(?<![a-z])and[\s$}(\[\\]*\Z")
# The name of a box: "x = \boxed{1} and y = \boxed{2}".
_BOX_NAME = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:_\{?\w{1,3}\}?)?)\s*=\s*\Z")
_SENTENCE_END = re.compile(r"[.:!?]\s|\n")

_SPECIAL_TOKEN = re.compile(r"<\|[a-z_]{2,20}\|>")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_ANCHOR = re.compile(
    r"(?:answer|réponse|respuesta|antwort|答案)\s*(?:is|are|est|es|ist|should be|is for sure|[:=\uff1a是为])*\s*",
    re.IGNORECASE,
)
# Minerva's prompt ends its answers with this line.
_CLOSING_LINE = re.compile(r"\s*I hope it is correct\.?\s*\Z")
_MATH = re.compile(
    r"\$\$([^$]{1,2000})\$\$"
    r"|(?<!\\)\$((?:[^$\\]|\\.){1,2000})\$"
    r"|\\\[(.{1,2000}?)\\\]"
    r"|\\\((.{1,2000}?)\\\)",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![\w.,])[-\u2212]?(?:\\frac\{[^{}]{1,30}\}\{[^{}]{1,30}\}"
    r"|\d{1,3}(?:[, ]\d{3}){1,20}(?![\d])(?:\.\d{1,40})?"
    r"|\d{1,400}(?:[.,]\d{1,400})?(?:\s?/\s?\d{1,400})?"
    r"|\.\d{1,400})(?:\s?\\?%)?"
)
_CJK_NUMBER = re.compile(r"-?\\frac\{[^{}]{1,30}\}\{[^{}]{1,30}\}|(?<![a-zA-Z\d.,])-?\d{1,400}(?:[.,]\d{1,400})?%?")
_CJK = re.compile(r"[\u0900-\u0dff\u3040-\u30ff\u3400-\u9fff\u0600-\u065f\u066a-\u06ef]")
_NOT_WORDS = re.compile(r"\\(?:text|mbox|mathrm|operatorname)[a-z]*\s*\{[^{}]{0,200}\}|\\[a-zA-Z]+")
_WORD = re.compile(r"(?<![a-zA-Z\d_{])[A-Za-zÀ-ÿ]{2,}")
_MATH_NAMES = frozenset(name[1:] for name in FUNCTIONS) | {"and", "or", "sqrt", "pi", "inf", "infinity", "mod"}
_SHORT_WORDS = frozenset({"is", "it", "so", "we", "of", "to", "be", "at", "in", "my", "as", "us"})
_LETTER = re.compile(r"(?<![\w\\'])\(?([A-J])\)?(?![\w'\u2019])", re.ASCII)
_FIRST_LETTER = re.compile(r"\s*\**\(?([A-J])\)?(?=[.,:)。*]|\s*\n|\s*$|\s+(?:and|or|is|was)\b)", re.ASCII)
_MARKUP = re.compile(r"\\(?:text|textbf|mathbf|mathrm)\s*(?=\{)|[{}$]")
_JOINS = r"(?:[,;/&+]|\\&|\\to(?![a-z])|\b(?:and|or|nor|as well as|plus|then|not)\b)"
# What follows an option that is not the only one or not the chosen one. I is no option here: "B, I think".
_GOES_ON = re.compile(
    rf"[\s)*]*(?:{_JOINS}[\s(*]*[A-HJ](?![\w'])|\(?[A-HJ]\)?\s*\Z|,?\s*no\b|(?:isn't|wasn't|can(?:not|'t))\b"
    r"|(?:is|was)\s+(?:not|wrong|false|incorrect)\b)",
    re.ASCII,
)
_BEFORE_LETTER = re.compile(
    rf"(?:(?<![\w'])[A-HJ][\s)*]*{_JOINS}|\b(?:not|never|isn't|but|except|neither))[\s(*]*\Z", re.ASCII
)


def boxed_answer(completion: str) -> str | None:
    """Return the content of the last box in the final part; None if there is no complete box.

    The final part is the text after the last `</think>`. A completion that opens `<think>` and never closes it has no
    final part. Boxes with only separators between them ("\\boxed{1}, \\boxed{2} and \\boxed{3}") are one list, so that
    several candidates are no advantage. A box whose brace is never closed was cut off and does not count.
    """
    text = final_part(completion)
    return None if text is None else _last_boxes(text)


def final_answer(text: str) -> str | None:
    """Return the answer in a text with or without a box; None if there is none."""
    part = final_part(text)
    if part is None or not part.strip():
        return None
    boxed = _last_boxes(part)
    if boxed is not None or (_BOX.search(part) and "\\boxed{" not in part):
        return boxed
    if "\\boxed{" in part:  # the box was cut off
        return part.rpartition("\\boxed{")[2].strip() or None
    return _unboxed(_SPECIAL_TOKEN.split(part)[0].strip())


def final_part(completion: str) -> str | None:
    """Return the text after the thought; None if the thought never ends."""
    end = completion.rfind("</think>")
    part = completion if end < 0 else completion[end + len("</think>") :]
    return None if "<think>" in part else part


def chosen_letter(text: str) -> str | None:
    """Return the option A to J that a text without a box chooses: the first one after "answer", else the last one.

    None where the text names several options together ("B and C") or takes the option back ("B is wrong").
    """
    tail = _MARKUP.sub(" ", text[-MAX_TAIL_CHARS:])
    anchors = list(_ANCHOR.finditer(tail))
    match = _LETTER.search(tail, anchors[-1].end()) if anchors else None
    match = match or _FIRST_LETTER.match(tail) or next(reversed(list(_LETTER.finditer(tail))), None)
    if match is None or _GOES_ON.match(tail, match.end()) or _BEFORE_LETTER.search(tail[: match.start()]):
        return None
    return match[1]


def is_prose(text: str) -> bool:
    """Whether a text has words before its formula or number, unlike "12 cm" or "Monday"."""
    plain = _NOT_WORDS.sub("", text)
    last_math = max((plain.rfind(char) for char in "0123456789$"), default=-1)
    if _CJK.search(plain):
        return last_math >= 0
    head = plain[: last_math + 1]
    return any(_is_word(match[0]) for match in _WORD.finditer(head))


def _is_word(token: str) -> bool:
    if len(token) == 2:
        return token.lower() in _SHORT_WORDS
    return token.lower() not in _MATH_NAMES and not (token.isupper() and len(token) <= 4)


def _last_boxes(text: str) -> str | None:
    contents: list[str] = []
    boxes: list[str] = []  # the contents with the names before the boxes
    after: int | None = None  # the start of the next box in the list
    end = len(text)
    for _ in range(MAX_BOXES):
        start = max(text.rfind(name, 0, end) for name in _BOX_NAMES)
        if start < 0:
            break
        end = start
        box = _box_at(text, start)
        if box is None and after is None and text.startswith("{", _BOX.match(text, start).end()):
            return None  # the last box was cut off
        if after is None:
            if box is None:
                continue
        elif box is None or box[1] > after or not _joins(text[box[1] : after]):
            break
        name = _BOX_NAME.search(text, max(0, start - MAX_CONNECTOR_CHARS), start)
        content = f"{name[1]} = {box[0]}" if name and "=" not in box[0] else box[0]
        if box[0] not in contents:
            contents.insert(0, box[0])
            boxes.insert(0, content)
        after = name.start() if name else start
    return contents[0] if len(contents) == 1 else ", ".join(boxes) or None


def _box_at(text: str, start: int) -> tuple[str, int] | None:
    """Return the content and the end of the box at `start`; None if it is not closed."""
    content = _BOX.match(text, start).end()
    if not text.startswith("{", content):
        match = _BARE_BOX.match(text, content)
        return (match[0].rstrip(".,"), match.end()) if match and content > start + len("\\fbox") else None
    depth = 0
    for match in _BRACE.finditer(text, content):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return text[content + 1 : match.start()].strip(), match.end()
    return None


def _joins(between: str) -> bool:
    """Whether two boxes with this text between them are parts of one list."""
    if len(between) > MAX_CONNECTOR_CHARS:
        return False
    if _SEPARATORS.fullmatch(between):
        return "\n" not in between or any(mark in between for mark in (",", ";", "and", "or"))
    return bool(_ENDS_IN_AND.search(between)) and not _SENTENCE_END.search(between)


def _unboxed(text: str) -> str | None:
    tags = _ANSWER_TAG.findall(text[-MAX_TAIL_CHARS:])
    if tags:
        return tags[-1].strip() or None
    if "####" in text:
        return text[text.rfind("####") + 4 :].strip().split("\n")[0] or None
    text = _CLOSING_LINE.sub("", text[-MAX_TAIL_CHARS:].replace("**", ""))
    anchors = list(_ANCHOR.finditer(text))
    tail = text[anchors[-1].end() :].strip() if anchors else ""
    if not is_prose(text):
        return tail or text or None
    if any(map(str.isalnum, tail)):
        return tail if not is_prose(tail) else _last_formula(_first_sentence(tail)) or _last_formula(tail)
    return _last_formula(text) or text


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[^\d\s])[.!?]\s|\n|(?<=\d)\.\s|。", text, maxsplit=1)[0]


def _last_formula(text: str) -> str | None:
    """Return the last formula in math delimiters or the last number, whichever ends later."""
    formula, end = None, -1
    for match in _MATH.finditer(text):
        content = match[match.lastindex]
        if not is_prose(content) and content.strip():
            formula, end = content, match.end()
    number = _CJK_NUMBER if _CJK.search(text) else _NUMBER
    for match in number.finditer(text, max(end, 0)):
        formula = match[0]
    return formula.strip() if formula else None
