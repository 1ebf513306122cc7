"""From a cleaned formula to a tree: numbers, names, the four operations, powers, roots and the usual functions.

A tree is a tuple: ("number", Fraction), ("name", str), ("imaginary",), ("constant", "e" or "pi"), or
(operation, argument, ...) with trees as arguments. There is no evaluation here, so no formula is expensive.
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
    """The text is no formula of this grammar."""


class TooLarge(ValueError):
    """The formula is longer, deeper or worth more digits than a final answer can be."""


_TOKEN = re.compile(
    r"(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+(?![\d.]))?)"
    r"|(?P<command>\\[a-zA-Z]+)"
    r"|(?P<word>\\text\{[^{}]*\})"
    r"|(?P<letter>[a-zA-Z])"
    r"|(?P<other>\\[{}|]|\*\*|[-+*/^_!%°|()\[\]{}':])"
    r"|(?P<blank> )"
)
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
_ENDS_PRODUCT = frozenset(
    ["+", "-", ")", "]", "}", r"\}", "|", "", ":", "_", "'", "%", "!", "^", "°", r"\rfloor", r"\rceil"]
)


def parse(text: str) -> Tree:
    """Return the tree of a cleaned formula.

    Raises:
        NotParsed: it has something that is not in the grammar.
        TooLarge: it is beyond the limits of this module.
    """
    parser = _Parser(_tokens(text))
    tree = parser.sum()
    if parser.token:
        raise NotParsed(f"unexpected {parser.token!r}")
    return tree


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotParsed(f"unexpected {text[position]!r}")
        position = match.end()
        tokens.append(match[0])
        if len(tokens) > MAX_TOKENS or len(match[0]) > MAX_DIGITS:
            raise TooLarge("long formula")
    return tokens


class _Parser:
    def __init__(self, tokens: list[str]):
        self._tokens = tokens
        self._position = -1
        self._depth = 0
        self._num_bars = 0
        self._next()

    def _next(self) -> str:
        """Move on; blanks count for nothing except between two numbers. Return the token left behind."""
        if self._position >= len(self._tokens):
            raise NotParsed("the formula ends too early")
        left = self._tokens[self._position] if self._position >= 0 else ""
        self._position += 1
        while self._position < len(self._tokens) and self._tokens[self._position] == " ":
            self._position += 1
        self.token = self._tokens[self._position] if self._position < len(self._tokens) else ""
        return left

    def _expect(self, token: str) -> None:
        if self.token != token:
            raise NotParsed(f"{token!r} expected, got {self.token!r}")
        self._next()

    def sum(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooLarge("deep formula")
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
                tree = ("multiply", tree, self._power())
        if self.token == ":":
            self._next()
            tree = ("divide", tree, self._product())
        return tree

    def _signed(self) -> Tree:
        signs = 0
        negative = False
        while self.token in ("+", "-"):
            negative ^= self._next() == "-"
            signs += 1
            if signs > MAX_DEPTH:
                raise TooLarge("many signs")
        return ("negate", self._power()) if negative else self._power()

    def _power(self) -> Tree:
        base = self._postfix(self._atom())
        if self.token in ("^", "**"):
            self._next()
            base = self._postfix(("power", base, self._exponent()))
            if self.token in ("^", "**"):
                raise NotParsed("two exponents")
        return base

    def _exponent(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooLarge("tower of powers")
        if self.token == "{":
            tree = self._group("{")
        elif self.token in ("+", "-"):
            sign = self._next()
            tree = self._power() if sign == "+" else ("negate", self._power())
        else:
            tree = self._power()
        self._depth -= 1
        return tree

    def _postfix(self, tree: Tree) -> Tree:
        for _ in range(MAX_DEPTH):
            if self.token == "!":
                tree = ("factorial", tree)
            elif self.token == "%":
                tree = ("divide", tree, ("number", Fraction(100)))
            elif self.token == "°":
                tree = ("multiply", tree, ("divide", ("constant", "pi"), ("number", Fraction(180))))
            else:
                return tree
            self._next()
        raise TooLarge("many signs after a term")

    def _group(self, opening: str) -> Tree:
        self._expect(opening)
        num_bars, self._num_bars = self._num_bars, 0
        tree = self.sum()
        self._num_bars = num_bars
        self._expect(_CLOSING[opening])
        return tree

    def _atom(self) -> Tree:
        token = self.token
        if token[:1].isdigit() or (token[:1] == "." and len(token) > 1):
            return self._number()
        if token in ("(", "[", "{"):
            return self._group(token)
        if token == "|":
            self._next()
            self._num_bars += 1
            tree = self.sum()
            self._num_bars -= 1
            self._expect("|")
            return ("abs", tree)
        if token == r"\frac":
            self._next()
            return ("divide", self._argument(), self._argument())
        if token == r"\sqrt":
            return self._root()
        if token == r"\binom":
            self._next()
            return ("binomial", self._argument(), self._argument())
        if token in (r"\lfloor", r"\lceil"):
            self._next()
            tree = self.sum()
            self._expect(token.replace(r"\l", r"\r"))
            return (token[2:], tree)
        if token in FUNCTIONS:
            return self._function()
        return self._name()

    def _number(self) -> Tree:
        text = self._next()
        mantissa, _, exponent = text.lower().partition("e")
        if exponent and abs(int(exponent[:6])) > MAX_EXPONENT:
            raise TooLarge("huge exponent")
        if text.endswith(".") and self.token == r"\overline":
            return self._repeating(Fraction(text[:-1]))
        if self.token == r"\overline" and "." in text:
            return self._repeating(Fraction(text), num_decimals=len(text.split(".")[1]))
        value = Fraction(mantissa) * Fraction(10) ** int(exponent or 0)
        mixed = self._mixed_fraction(text)
        return ("number", value if mixed is None else value + mixed)

    def _repeating(self, head: Fraction, num_decimals: int = 0) -> Tree:
        self._next()
        self._expect("{")
        period = self._next()
        self._expect("}")
        if not period.isdigit():
            raise NotParsed("a bar over something that is no digits")
        return ("number", head + Fraction(int(period), 10**num_decimals * (10 ** len(period) - 1)))

    def _mixed_fraction(self, text: str) -> Fraction | None:
        r"""Read on after the 3 of 3\frac{1}{2} or "3 1/2"; None when this is no mixed number."""
        if not text.isdigit():
            return None
        match [token for token in self._tokens[self._position : self._position + 12] if token != " "][:7]:
            case [r"\frac", "{", top, "}", "{", bottom, "}"]:
                num_tokens = 7
            case [top, "/", bottom, *_]:
                num_tokens = 3
            case [top, *_]:
                bottom, num_tokens = "", 1
            case _:
                return None
        if top.isdigit() and bottom.isdigit() and int(bottom):
            for _ in range(num_tokens):
                self._next()
            return Fraction(int(top), int(bottom))
        if top[:1].isdigit() and num_tokens < 7:
            raise NotParsed("two numbers side by side")
        return None

    def _argument(self) -> Tree:
        r"""Read {...} or, as TeX does, a single digit or letter: \frac12."""
        if self.token == "{":
            return self._group("{")
        token = self.token
        if token.isdigit() and len(token) > 1:
            self._tokens[self._position] = token[1:]
            self.token = token[1:]
            return ("number", Fraction(token[0]))
        if token.isdigit():
            self._next()
            return ("number", Fraction(token))
        return self._atom()

    def _root(self) -> Tree:
        self._next()
        index = ("number", Fraction(2))
        if self.token == "[":
            index = self._group("[")
        if self.token == "{":
            return ("root", self._group("{"), index)
        if self.token[:1].isdigit():
            return ("root", ("number", Fraction(self._next())), index)
        return ("root", self._atom(), index)

    def _function(self) -> Tree:
        name = self._next()[1:]
        base = None
        if name == "log" and self.token == "_":
            self._next()
            base = self._argument()
        exponent = None
        if self.token == "^":
            self._next()
            exponent = self._exponent()
            if exponent == ("negate", ("number", Fraction(1))) and name in _INVERSE:
                name, exponent = _INVERSE[name], None
        if name in ("max", "min", "gcd", "lcm"):
            raise NotParsed(f"{name} is not evaluated")
        argument = self._function_argument()
        tree = (name, argument) if base is None else ("divide", ("ln", argument), ("ln", base))
        return tree if exponent is None else ("power", tree, exponent)

    def _function_argument(self) -> Tree:
        """Read what a function without brackets extends over: the 2x of "sin 2x cos x"."""
        if self.token in ("(", "{", "["):
            return self._postfix(self._group(self.token))
        tree = self._signed()
        while self.token not in _ENDS_PRODUCT and self.token not in FUNCTIONS and self.token not in ("*", "/", "("):
            tree = ("multiply", tree, self._power())
        return tree

    def _name(self) -> Tree:
        token = self.token
        if token == r"\pi":
            self._next()
            return ("constant", "pi")
        is_letter = len(token) == 1 and token.isalpha()
        if not is_letter and token not in GREEK:
            raise NotParsed(f"unexpected {token!r}")
        self._next()
        if is_letter and token.isupper():
            # AB is a segment or a product of matrices, never BA.
            while len(self.token) == 1 and self.token.isupper():
                token += self._next()
        name = token + self._subscript()
        while self.token == "'":
            name += self._next()
        if name in ("f", "g", "h", "F", "G", "P", "Q") and self.token == "(":
            raise NotParsed("an unknown function")
        if name == "e":
            return ("constant", "e")
        return ("imaginary",) if name == "i" else ("name", name)

    def _subscript(self) -> str:
        if self.token != "_":
            return ""
        self._next()
        if self.token != "{":
            return "_" + self._next()
        text, depth = "", 0
        while self.token:
            depth += (self.token == "{") - (self.token == "}")
            part = self._next()
            if depth == 0:
                return "_" + text[1:]
            text += part
        raise NotParsed("a subscript that is not closed")
