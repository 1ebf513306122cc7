r"""Words in cleaned answers: phrases that name a set, qualifiers, times of day, and answers that are only words."""

from __future__ import annotations

import re

from envs.grading.math.units import changes_meaning

_GROUP = re.compile(r"\\text\{([^{}]*)\}")
_PHRASE = re.compile(r"\\text\{[^{}]*\}\s*[a-z]?")
_PHRASES = {
    r"\mathbb{R}": r"(?:(?:the )?set of )?(?:all |any |every )?(?:reals|real (?:numbers?|values?|x)(?: of)?(?: [a-z])?)"
    r"|all (?:values of [a-z]|numbers)",
    r"\emptyset": r"(?:there (?:is|are) )?no (?:real |integer )?(?:solutions?|roots?)(?: exists?)?|(?:the )?empty set"
    r"|no such numbers? exists?|none(?: exist)?",
    r"\mathbb{Z}": r"(?:(?:the )?set of )?(?:all )?integers|any integer",
    r"\text{DNE}": r"(?:it |the limit )?(?:does not|doesn't) exist",
}
_EXCEPT = re.compile(
    r"\\text\{\s*(all real (?:numbers|values)|all reals|real numbers)[a-z ]*(?:except|but|excluding)[a-z ]*\}",
    re.IGNORECASE,
)
_QUALIFIER_WORDS = (
    r"for|where|with|if|when|all|any|every|each|some|arbitrary|real|rational|integers?|constants?|numbers?|positive|"
    r"negative|non-?negative|natural|whole|complex|valid|values?|of|in|the|being|is|are|an?|fixed|given"
)
_QUALIFIER = re.compile(
    rf"[\s,;(:]*(?:\\text\{{\s*(?:for|where|with)\b(?:[\s,]|\b(?:{_QUALIFIER_WORDS})\b)*\}}|\\forall"
    r"|(?=[\s(][A-Za-z]\s*\\in(?![a-z])))"
    r"(?P<tail>.*)\Z"
)
_TAIL = re.compile(
    rf"(?:\\text\{{(?:[\s,]|\b(?:{_QUALIFIER_WORDS})\b)*\}}|\\and|\\in(?![a-z])|\\mathbb\{{[A-Z]\}}|[ZNRQC](?=[_^+*)\s,]|\Z)"
    r"|[_^]\{?[+*>=0-9]+\}?|(?:>=?|<=?|!=)\s*0|[a-z](?![a-z])|[\s,().])*"
)
_STRONG = re.compile(r"all|any|every|each|arbitrary|constant|integer|\\in(?![a-z])|\\forall")
_LEAD = re.compile(
    r"\\text\{\s*(?:the )?(?:final |correct )?(?:answer|option|choice|ans|total|result|solution|value)"
    r"(?:(?: is)?\s*[:.]?\s*\}\s*:?\s*(?=\S)|(?P<open>(?: is)?\s*:\s*|\sis\s+)(?=[^\s}]))",
    re.IGNORECASE,
)
_SAYS = re.compile(
    r"\\text\{\s*(?:(?:so|thus|hence|therefore),?\s+)?(the\b[^{}]*?)\s*(?:\}\s*[A-Za-z]{1,3}\s*\\text\{([^{}]*?)\s*)?"
    r"\b(?:is|are|equals)\s*:?\s*\}\s*(?=\S)",
    re.IGNORECASE,
)
_OPTION_WORD = re.compile(r"\\text\{(?:the )?(?:answer|option|choice)(?: is)?[:.]? \(?([A-J])\)?\}", re.IGNORECASE)
_CLOCK = re.compile(
    r"(\d{1,2})(?::(\d\d)(?::(\d\d))?)?\s*(?:\\text\{\s*(?P<half>(?:am|pm)?)\b\s*(?P<beside>[^{}]*)\})?"
    r"\s*(?:\\text\{(?P<after>[^{}]*)\})?",
    re.IGNORECASE,
)


def strip_lead(text: str) -> str:
    """Remove words such as "Answer:" before the answer."""
    option, lead = _OPTION_WORD.fullmatch(text), _LEAD.match(text) or _says(text)
    if option:
        return option[1].upper()
    if lead is None:
        return text
    return (r"\text{" if lead.groupdict().get("open") else "") + text[lead.end() :]


def _says(text: str) -> re.Match | None:
    r"""Match the beginning of a sentence that states an answer: \text{The value of }x\text{ is }."""
    match = _SAYS.match(text)
    return match if match and not changes_meaning(f"{match[1]} {match[2] or ''}".replace(" to ", " ")) else None


def split_qualifier(text: str) -> tuple[str, str]:
    r"""Split an answer into its value and its qualifier ("for all x", ", k \in \mathbb{Z}"), which may be empty."""
    if r"\in" not in text and r"\text" not in text and r"\forall" not in text:
        return text, ""
    match = _QUALIFIER.search(text)
    while match is not None:
        head, tail = text[: match.start()].strip(" ,;"), text[match.start() :]
        if head and _TAIL.fullmatch(match["tail"]) and _STRONG.search(tail) and head[-1] not in "{(|=":
            return head, tail
        match = _QUALIFIER.search(text, match.start() + 1)
    return text, ""


def named_set(text: str) -> str:
    """Return the formula for a phrase such as "all real numbers" or "no solution"; other texts are not changed."""
    if r"\text" not in text:
        return text
    if _PHRASE.fullmatch(text):
        phrase = as_text(text)
        return next((meaning for meaning, pattern in _PHRASES.items() if re.fullmatch(pattern, phrase)), text)
    match = _EXCEPT.match(text)
    if match:
        points = re.sub(r"[A-Za-z]\s*(?:=|!=)", "", text[match.end() :])
        return rf"\mathbb{{R}} \setminus \{{{points}\}}"
    return text


def clock(text: str) -> tuple[int, bool, str] | None:
    """Parse a time of day: seconds since midnight, whether AM or PM is known, and the words after it. Else None."""
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        return None
    half = (match["half"] or "").lower()
    if match[2] is None and not half:
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    if hour > 24 or minute > 59 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    words = " ".join(f"{match['beside'] or ''} {match['after'] or ''}".lower().strip(" .").split())
    return hour * 3600 + minute * 60 + second, bool(half) or hour > 12 or hour == 0, words


def same_clock(gold: tuple[int, bool, str], answer: tuple[int, bool, str]) -> bool:
    """Whether two times of day are the same. If the gold has neither AM nor PM, both are right."""
    return gold[2] == answer[2] and (gold[0] == answer[0] or (not gold[1] and gold[0] + 43_200 == answer[0]))


def as_text(cleaned: str) -> str:
    """Return a text that is equal for two answers with the same words. Blanks, case and markup do not count."""
    text = _GROUP.sub(lambda match: f" {match[1].casefold()} ", cleaned)
    text = text.replace("\\and ", " and ").replace("\\or ", " or ")
    text = re.sub(r"\s*([^\w\s])\s*", r"\1", " ".join(text.split())).lstrip(" .,;:")
    return text if text.endswith("...") else text.rstrip(" .,;:")


def is_words(text: str) -> bool:
    """Whether an answer has only words."""
    return bool(re.fullmatch(r"(?:\\text\{[^{}\d]*\}|[\s,.;])+", text)) and r"\text" in text


def letters(text: str) -> str:
    """Return the text of words in lower case, without blanks and punctuation."""
    return re.sub(r"[^\w+*/^=<>]+", "", _GROUP.sub(r"\1", text)).casefold()
