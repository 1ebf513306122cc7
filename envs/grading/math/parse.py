"""Parses a cleaned formula to a tree of numbers, names, the four operations, powers, roots and common functions.

A tree is a tuple: ("number", Fraction), ("name", str), ("imaginary",), ("constant", "e" or "pi"), or
(operation, argument, ...) with trees as arguments. Nothing is evaluated here, so that no formula is expensive.
"""

from __future__ import annotations

import re
from fractions import Fraction

from envs.grading.math.symbols import FUNCTIONS, GREEK

MAX_TOKENS = 250
MAX_DEPTH = 40
MAX_DIGITS = 4_000
MAX_EXPONENT = 5_000

Tree = tuple


class NotParsed(ValueError):
    """The text is not a formula of this grammar."""


class TooLarge(ValueError):
    """The formula is too long, too deep or has too many digits for a final answer."""


_ACCENTED = r"\\(?:overline|vec|hat|bar|overrightarrow|tilde)(?:\{[A-Za-z]\w*(?:_\{\w+\})?\}|\s?[A-Za-z])"
_ENDLESS = r"\d+\.\d*?(?:(?P<digit>\d)(?P=digit){2,}|(?P<digits>\d{2,}?)(?P=digits)+)\.\.\."
_GREEK = "|".join(re.escape(name) for name in sorted(GREEK))
_TOKEN = re.compile(
    # 3\frac{1}{2} and 3 1/2; 0.1\overline{6}; 0.1666...; 1.5e-7.
    r"(?P<mixed>\d+(?:\\frac\{\d+\}\{0*[1-9]\d*\}|\s\d+/0*[1-9]\d*))"
    r"|(?P<repeating>\d+\.\d*\\(?:overline|dot)\{\d+\})"
    rf"|(?P<endless>{_ENDLESS})"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+(?![\d.]))?)"
    # AB is one name, because it may be a segment or a product of matrices; it never equals BA.
    rf"|(?P<name>(?:{_ACCENTED}|(?:{_GREEK})(?![a-zA-Z])|[A-Z](?:\s?[A-Z])*|[a-z])"
    r"(?:_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\w|\\[a-zA-Z]+))?'*)"
    r"|(?P<command>\\[a-zA-Z]+)"
    r"|(?P<other>\\[{}]|\*\*|[-+*/^_!%°|()\[\]{}:,])"
    r"|\s"
)
_BRACES = re.compile(r"[{}\s]")
UNEVALUATED = re.compile(r"\\(?:i{0,3}int|oint|sum|prod|lim|limsup|liminf|det)(?![a-zA-Z])")
_KNOWN_NAMES = {"e": ("constant", "e"), r"\pi": ("constant", "pi"), "i": ("imaginary",)}
_UNKNOWN_FUNCTIONS = frozenset("fghFGPQ")
_OF_SEVERAL = frozenset(("max", "min", "gcd", "lcm"))
_TWO_ARGUMENTS = {r"\frac": "divide", r"\binom": "binomial"}
_INTEGER_PARTS = {r"\lfloor": ("floor", r"\rfloor"), r"\lceil": ("ceil", r"\rceil")}
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
_POSTFIX = {
    "!": lambda tree: ("factorial", tree),
    "%": lambda tree: ("divide", tree, ("number", Fraction(100))),
    "°": lambda tree: ("multiply", tree, ("divide", ("constant", "pi"), ("number", Fraction(180)))),
}
_ENDS_PRODUCT = frozenset(
    ["+", "-", ",", ")", "]", "}", r"\}", "|", "", ":", "_", "^", r"\rfloor", r"\rceil", *_POSTFIX]
)
_MINUS_ONE = ("negate", ("number", Fraction(1)))


def parse(text: str) -> Tree:
    """Return the tree of a formula, which is the `clean.key` of an answer.

    Raises:
        NotParsed: the text is not in the grammar.
        TooLarge: the formula exceeds the limits of this module, or has an integral, a sum or a limit, which would only
            repeat the question.
    """
    if UNEVALUATED.search(text):
        raise TooLarge("no final answer")
    parser = _Parser(_tokens(text))
    tree = parser.sum()
    if parser.token:
        raise NotParsed(f"unexpected {parser.token!r}")
    return tree


def _tokens(text: str) -> list[tuple[str, str]]:
    """Return (kind, text) of each token. Blanks have a meaning only between two numbers."""
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotParsed(f"unexpected {text[position]!r}")
        position = match.end()
        if match.lastgroup:
            tokens.append((match.lastgroup, match[0]))
        if len(tokens) > MAX_TOKENS or len(match[0]) > MAX_DIGITS:
            raise TooLarge("long formula")
    return [*tokens, ("end", "")]


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]):
        self._tokens = tokens
        self._position = 0
        self._depth = 0
        self._num_bars = 0
        self._may_precede_number = False

    @property
    def token(self) -> str:
        return self._tokens[self._position][1]

    @property
    def _kind(self) -> str:
        return self._tokens[self._position][0]

    def _next(self) -> str:
        """Return the current token and go on to the next one."""
        left = self.token
        if not left:
            raise NotParsed("the formula ends too early")
        self._position += 1
        return left

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise NotParsed(f"{token!r} expected")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooLarge("deep formula")

    def sum(self) -> Tree:
        self._deeper()
        tree = self._product()
        while self.token in ("+", "-"):
            operation = "add" if self._next() == "+" else "subtract"
            tree = (operation, tree, self._product())
        self._depth -= 1
        return tree

    def _product(self) -> Tree:
        tree = self._signed()
        while self.token not in _ENDS_PRODUCT or (self.token == "|" and not self._num_bars):
            if self.token in ("*", "/"):
                operation = "multiply" if self._next() == "*" else "divide"
                tree = (operation, tree, self._signed())
            else:
                if self.token[0].isdigit() and not self._may_precede_number:
                    raise NotParsed("two numbers side by side")
                tree = ("multiply", tree, self._power())
        if self.token == ":":
            self._next()
            tree = ("divide", tree, self._product())
        return tree

    def _signed(self) -> Tree:
        if self.token not in ("+", "-"):
            return self._power()
        self._deeper()
        sign, tree = self._next(), self._signed()
        self._depth -= 1
        return tree if sign == "+" else ("negate", tree)

    def _power(self) -> Tree:
        tree = self._postfix(self._atom())
        has_exponent = self.token in ("^", "**")
        if has_exponent:
            self._next()
            tree = self._postfix(("power", tree, self._exponent()))
            if self.token in ("^", "**"):
                raise NotParsed("two exponents")
        self._may_precede_number = has_exponent or self._tokens[self._position - 1][1] == "!"
        return tree

    def _exponent(self) -> Tree:
        if self.token not in ("+", "-"):
            return self._atom()
        self._deeper()
        sign, tree = self._next(), self._exponent()
        self._depth -= 1
        return tree if sign == "+" else ("negate", tree)

    def _postfix(self, tree: Tree) -> Tree:
        for _ in range(MAX_DEPTH):
            if self.token not in _POSTFIX:
                return tree
            tree = _POSTFIX[self._next()](tree)
        raise TooLarge("many signs after a term")

    def _enclosed(self, closing: str, num_bars: int = 0) -> Tree:
        """Read the content of a bracket that has been opened, and the closing bracket."""
        outer, self._num_bars = self._num_bars, num_bars
        tree = self.sum()
        self._num_bars = outer
        self._expect(closing)
        return tree

    def _atom(self) -> Tree:
        kind, token = self._kind, self._next()
        if kind in ("mixed", "repeating", "endless", "number"):
            return ("number", _number(kind, token))
        if kind == "name":
            if token in _UNKNOWN_FUNCTIONS and self.token == "(":
                raise NotParsed("an unknown function")
            return _KNOWN_NAMES.get(token, ("name", _BRACES.sub("", token)))
        if token in ("(", "[", "{"):
            return self._enclosed(_CLOSING[token])
        if token == "|":
            return ("abs", self._enclosed("|", num_bars=self._num_bars + 1))
        if token in _TWO_ARGUMENTS:
            return (_TWO_ARGUMENTS[token], self._atom(), self._atom())
        if token in _INTEGER_PARTS:
            operation, closing = _INTEGER_PARTS[token]
            return (operation, self._enclosed(closing, self._num_bars))
        if token == r"\sqrt":
            index = ("number", Fraction(2))
            if self.token == "[":
                index = self._atom()
            return ("root", self._atom(), index)
        if token in FUNCTIONS:
            return self._function(token[1:])
        if token in _KNOWN_NAMES:
            return _KNOWN_NAMES[token]
        raise NotParsed(f"unexpected {token!r}")

    def _function(self, name: str) -> Tree:
        self._deeper()
        base = exponent = None
        if name == "log" and self.token == "_":
            self._next()
            base = self._atom()
        if self.token == "^":
            self._next()
            exponent = self._exponent()
            if exponent == _MINUS_ONE and name in ("sin", "cos", "tan"):
                name, exponent = f"arc{name}", None
        if name in _OF_SEVERAL:
            self._depth -= 1
            return (name, *self._arguments())
        argument = self._argument()
        self._depth -= 1
        tree = (name, argument) if base is None else ("divide", ("ln", argument), ("ln", base))
        return tree if exponent is None else ("power", tree, exponent)

    def _arguments(self) -> list[Tree]:
        opening = self._next()
        if opening not in ("(", r"\{", "{"):
            raise NotParsed("a function of several numbers without brackets")
        trees = [self.sum()]
        while self.token == ",":
            self._next()
            trees.append(self.sum())
        self._expect(_CLOSING[opening])
        return trees

    def _argument(self) -> Tree:
        """Read the argument of a function, with or without brackets: the 2x of "sin 2x cos x"."""
        if self.token in ("(", "{", "["):
            return self._postfix(self._atom())
        tree = self._signed()
        while self.token not in _ENDS_PRODUCT and self.token not in FUNCTIONS and self.token not in ("*", "/", "("):
            tree = ("multiply", tree, self._power())
        return tree


def _number(kind: str, token: str) -> Fraction:
    if kind == "mixed":
        whole, top, bottom = re.findall(r"\d+", token)
        return int(whole) + Fraction(int(top), int(bottom))
    if kind == "endless":
        period = next(filter(None, re.fullmatch(_ENDLESS, token).groups()))
        kind, token = "repeating", f"{token.removesuffix('...').removesuffix(period)}\\overline{{{period}}}"
    if kind == "repeating":
        head, decimals, period = re.findall(r"\d+(?=\.)|(?<=\.)\d*|(?<=\{)\d+", token)
        start = Fraction(f"{head}.{decimals or 0}")
        return start + Fraction(int(period), 10 ** len(decimals) * (10 ** len(period) - 1))
    mantissa, _, exponent = token.lower().partition("e")
    if exponent and abs(int(exponent[:6])) > MAX_EXPONENT:
        raise TooLarge("huge exponent")
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)
