"""Tables: what commands, unicode symbols and units of measure are called in the one spelling of `clean`."""

# Lists of words read better as one text, and symbols that look like others are the point of this file.
# ruff: noqa: SIM905, RUF001

_NOTHING = (
    "left right mleft mright big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle "
    "scriptstyle limits nolimits mathstrut hline allowbreak rm bf it ensuremath strut null"
).split()
_TEXT = (
    "text textbf textit textrm textnormal textsf texttt mathrm mathbf mathit mathsf mathtt mathnormal mbox hbox bm "
    "boldsymbol operatorname emph underline"
).split()
COMMANDS = (
    {f"\\{name}": "" for name in _NOTHING}
    | {f"\\{name}": r"\text" for name in _TEXT}
    | {f"\\{name}": r"\frac" for name in ("dfrac", "tfrac", "cfrac")}
    | {f"\\{name}": r"\binom" for name in ("dbinom", "tbinom")}
    | {f"\\{name}": "*" for name in ("cdot", "times", "ast")}
    | {f"\\{name}": " " for name in (",", ";", ":", " ", ">", "\n", "quad", "qquad", "enspace", "thinspace", "space")}
    | {f"\\{name}": "<=" for name in ("le", "leq", "leqslant")}
    | {f"\\{name}": ">=" for name in ("ge", "geq", "geqslant")}
    | {f"\\{name}": "≈" for name in ("approx", "simeq", "thickapprox", "doteq")}
    | {f"\\{name}": "..." for name in ("ldots", "dots", "cdots", "dotsc", "dotsb")}
    | {f"\\{name}": "|" for name in ("vert", "lvert", "rvert", "mid")}
    | {f"\\{name}": "" for name in ("!", "$", "[", "]", "(", ")", "/")}
    | {
        r"\lt": "<",
        r"\gt": ">",
        r"\ne": "!=",
        r"\neq": "!=",
        r"\div": "/",
        r"\lbrace": r"\{",
        r"\rbrace": r"\}",
        r"\lbrack": "[",
        r"\rbrack": "]",
        r"\varnothing": r"\emptyset",
        r"\degree": "°",
        r"\circ": "°",
        r"\langle": "(",
        r"\rangle": ")",
        r"\colon": ":",
        r"\%": "%",
        r"\_": "_",
        r"\imath": "i",
        r"\varphi": r"\phi",
        r"\tg": r"\tan",
        r"\ctg": r"\cot",
        r"\lg": r"\log_{10}",
    }
)
UNICODE = str.maketrans(
    dict.fromkeys("−–—‐‑﹣－", "-")
    | dict.fromkeys("×·⋅∙∗＊", "*")
    | dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u3000", " ")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", None)
    | dict.fromkeys("$€£¥₹₽₩₫฿₺₴", None)
    | {"÷": "/", "∕": "/", "⁄": "/", "／": "/", "＋": "+", "＝": "=", "％": "%", "：": ":", "；": ";"}
    | {"，": ",", "、": ",", "．": ".", "（": "(", "）": ")", "［": "[", "］": "]", "｛": r"\{", "｝": r"\}"}
    | {"≤": "<=", "≥": ">=", "⩽": "<=", "⩾": ">=", "≠": "!=", "＜": "<", "＞": ">", "≅": "≈", "≃": "≈"}
    | {"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∞": r"\infty ", "±": r"\pm ", "√": r"\sqrt ", "∅": r"\emptyset "}
    | {"π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda "}
    | {"ω": r"\omega ", "φ": r"\phi ", "μ": r"\mu ", "σ": r"\sigma ", "Δ": r"\Delta ", "ℝ": r"\mathbb{R}"}
    | {"º": "°", "˚": "°", "′": "'", "’": "'", "…": "...", "。": ".", "‖": r"\|"}
    | {char: f"^{power}" for power, char in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
    | {char: f"_{index}" for index, char in enumerate("₀₁₂₃₄₅₆₇₈₉")}
    | {"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"}
    | {"⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅛": r"\frac{1}{8}"}
)
GREEK = frozenset(
    f"\\{name}"
    for name in (
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
        "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell hbar"
    ).split()
)
FUNCTIONS = frozenset(
    f"\\{name}"
    for name in "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp max min gcd lcm".split()
)
_UNITS = {
    canonical: names.split()
    for canonical, names in {
        "mm": "mm millimeter millimetre",
        "cm": "cm centimeter centimetre",
        "dm": "dm decimeter decimetre",
        "m": "m meter metre",
        "km": "km kilometer kilometre",
        "in": "in inch inches inche",
        "ft": "ft foot feet",
        "yd": "yd yard",
        "mi": "mi mile",
        "mg": "mg milligram",
        "g": "g gram gm",
        "kg": "kg kilogram",
        "lb": "lb pound",
        "s": "s sec second",
        "min": "min minute",
        "h": "h hr hour",
        "day": "day",
        "week": "week",
        "year": "year yr",
        "mL": "ml milliliter millilitre",
        "L": "l liter litre",
        "km/h": "km/h kmh kmph kph",
        "m/s": "m/s",
        "mph": "mph",
        "J": "j joule",
        "N": "n newton",
        "W": "w watt",
        "V": "v volt",
        "A": "a ampere amp",
        "Hz": "hz hertz",
        "dollar": "dollar",
        "cent": "cent",
    }.items()
}
UNIT_OF = {name: canonical for canonical, names in _UNITS.items() for name in names}
COUNTED = frozenset("unit square sq cubic cu degree deg yuan rupee euro percent point apple person people".split())
