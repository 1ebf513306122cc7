"""Tables of commands, unicode characters and symbols with their normal spelling in `clean`."""

# Lists of words are easier to read as one text, and the table must contain symbols that look alike.
# ruff: noqa: SIM905, RUF001

import unicodedata

_NOTHING = r"""
    left right mleft mright middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle
    scriptstyle scriptscriptstyle limits nolimits mathstrut hline allowbreak rm bf it ensuremath strut null noindent
    newline par qed square blacksquare checkmark tiny small normalsize large Large LARGE huge Huge centering mathop
    mathrel protect relax bigstar nonumber notag hfill smallskip medskip bigskip ! $ [ ] ( ) /
"""
_TEXT = """
    text textbf textit textrm textnormal textsf texttt mathrm mathbf mathit mathsf mathtt mathnormal mbox hbox bm
    boldsymbol operatorname emph underline textup pmb mathcal Bbb
"""
_SPELLINGS = r"""
    dfrac \frac tfrac \frac cfrac \frac dbinom \binom tbinom \binom cdot * times * ast * div / lt < gt >
    le <= leq <= leqslant <= ge >= geq >= geqslant >= ne != neq != approx ≈ simeq ≈ thickapprox ≈ doteq ≈
    ldots ... dots ... cdots ... dotsc ... dotsb ... vert | lvert | rvert | mid | colon : langle ( rangle )
    lbrace \{ rbrace \} lbrack [ rbrack ] varnothing \emptyset oslash \emptyset backslash \setminus land \wedge
    lor \vee lnot \neg bmod \text{mod} degree ° circ ° % % _ _ imath i varphi \phi tg \tan ctg \cot
    arctg \arctan arcctg \arccot lg \log_{10}
"""
_PAIRS = _SPELLINGS.split()
COMMANDS = (
    {f"\\{name}": "" for name in _NOTHING.split()}
    | {f"\\{name}": r"\text" for name in _TEXT.split()}
    | {f"\\{name}": " " for name in (",", ";", ":", " ", ">", "\n", "quad", "qquad", "enspace", "thinspace", "space")}
    | {f"\\{name}": spelling for name, spelling in zip(_PAIRS[::2], _PAIRS[1::2], strict=True)}
)
_GREEK = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega
    Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega
"""
GREEK = frozenset(f"\\{name}" for name in [*_GREEK.split(), "varepsilon", "vartheta", "ell", "hbar"])


def _greek(name: str) -> str:
    case = "SMALL" if name.islower() else "CAPITAL"
    return unicodedata.lookup(f"GREEK {case} LETTER {name.upper().replace('LAMBDA', 'LAMDA')}")


def _fraction(char: str) -> str:
    top, bottom = unicodedata.normalize("NFKC", char).split("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}"


UNICODE = str.maketrans(
    {_greek(name): f"\\{name} " for name in [*_GREEK.split(), "pi"]}
    | {char: _fraction(char) for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"}
    | {chr(0xFF01 + n): chr(0x21 + n) for n in range(94)}  # full-width characters
    | dict.fromkeys("−–—‐‑﹣－", "-")
    | dict.fromkeys("×·⋅∙∗＊", "*")
    | dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u3000", " ")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", None)
    | dict.fromkeys("$€£¥₹₽₩₫฿₺₴■□✓✔", None)
    | {"÷": "/", "∕": "/", "⁄": "/", "、": ",", "｛": r"\{", "｝": r"\}", "º": "°", "˚": "°", "′": "'", "’": "'"}
    | {"≤": "<=", "≥": ">=", "⩽": "<=", "⩾": ">=", "≠": "!=", "≅": "≈", "≃": "≈", "…": "...", "。": ".", "‖": r"\|"}
    | {"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∞": r"\infty ", "±": r"\pm ", "√": r"\sqrt ", "∅": r"\emptyset "}
    | {"∖": r"\setminus ", "∧": r"\wedge ", "∨": r"\vee ", "¬": r"\neg ", "∀": r"\forall ", "ℝ": r"\mathbb{R}"}
    | {"µ": r"\mu ", "\u2126": r"\Omega "}
    | {chr(0x2460 + n): f"({n + 1})" for n in range(20)}
    | {char: f"^{power}" for power, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
    | {char: f"_{index}" for index, char in enumerate("₀₁₂₃₄₅₆₇₈₉")}
)
FUNCTIONS = frozenset(
    f"\\{name}"
    for name in """
        sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch ln log exp
        max min gcd lcm
    """.split()
)
# Names in other languages.
FUNCTION_ALIASES = {
    "tg": "tan",
    "ctg": "cot",
    "arctg": "arctan",
    "arcctg": "arccot",
    "sh": "sinh",
    "ch": "cosh",
    "th": "tanh",
}
# 101_{\text{two}}
BASES = {name: str(base) for base, name in enumerate("two three four five six seven eight nine ten".split(), start=2)}
