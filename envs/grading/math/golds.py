r"""Repairs damaged golds of data sets, and recognises golds with which no answer can be compared."""

from __future__ import annotations

import re

from envs.grading.math.clean import clean
from envs.grading.math.text import boxed_answer

MAX_GOLD_WORDS = 30

# If JSON has "\text" without a doubled backslash, the text that is read has a tab and "ext".
_COMMANDS = {
    "\t": "ext|extbf|extit|extrm|imes|frac|heta|riangle|au|ilde|an(?=[\\\\({\\s]*[\\\\({a-z0-9])|o(?=[\\s\\\\])",
    "\f": "rac|box|orall|lat",
    "\b": "oxed|egin|eta|inom|ar|ig|igl|igr|ecause|ot",
    "\r": "ight|ho|floor|ceil|angle|m",
    "\n": "eq|otin|abla|exists|less|geq",
    "\v": "ec|arphi|ert|arepsilon|artheta|arnothing",
    "\a": "lpha|pprox|ngle|rctan|rcsin|rccos",
}
_LETTERS = {"\t": "t", "\f": "f", "\b": "b", "\r": "r", "\n": "n", "\v": "v", "\a": "a"}
_BROKEN = re.compile("|".join(f"({char})(?:{names})(?![a-zA-Z])" for char, names in _COMMANDS.items()))
_PLACEHOLDER = re.compile(
    r"(?:proof|not ?found|see (?:the )?(?:solution|proof|above|below|figure).*|n/?a|null|nan|tbd)\.?", re.I
)
_FIGURE = re.compile(r"\\includegraphics|!\[[^\]]*\]\(|\[asy\]|<img ")
_PROSE = re.compile(r"[A-Za-z][A-Za-z'-]{2,}")


def mend_escapes(text: str) -> str:
    r"""Repair LaTeX commands that JSON's escapes have broken: a tab and "ext{" become "\text{"."""
    return _BROKEN.sub(lambda match: "\\" + _LETTERS[match[0][0]] + match[0][1:], text)


def why_not_comparable(gold: str) -> str | None:
    """The reason why no completion can be compared with a gold; None if one can."""
    text = mend_escapes(gold)
    if _PLACEHOLDER.fullmatch(text.strip(" .$")):
        return "a placeholder, not an answer"
    if _FIGURE.search(text):
        return "a figure, which no text answers"
    if not clean(text).strip(" .,;:()[]{}\\"):
        return "nothing is left of it without markup"
    if boxed_answer(f"\\boxed{{{text}}}") is None:
        return "its braces do not match, so that no box can hold it"
    words = len(_PROSE.findall(re.sub(r"\\[A-Za-z]+", " ", text)))
    if words > MAX_GOLD_WORDS:
        return f"{words} words of prose, which no completion repeats; map a column with the final answer"
    return None
