"""The HTML elements of a report. Every text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem; max-width: 68rem; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.2; margin: 1.8rem 0 0.6rem; }
h1 { margin-top: 0.5rem; overflow-wrap: anywhere; }
p, li { max-width: 46rem; }
.verdict { border-left: 0.35rem solid #1a1a1a; padding: 0.2rem 0 0.2rem 1rem; }
.verdict strong { font-size: 1.1rem; }
.wide { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; }
caption { text-align: left; padding-bottom: 0.4rem; color: #444; white-space: nowrap; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.8rem 0.3rem 0; border-bottom: 1px solid #ccc; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.figures { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0 0 1.5rem; max-width: 46rem; }
.figures figure { margin: 0; }
details dl, p + dl { font-size: 0.9rem; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.2rem 1.2rem; margin: 0; }
dt { font-weight: bold; overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; }
figure img { width: 100%; height: auto; }
figcaption { font-size: 0.9rem; color: #444; }
figcaption b { color: #1a1a1a; }
details { margin-top: 1rem; }
summary { cursor: pointer; }
@media print { figure, tr { break-inside: avoid; } }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A complete HTML document, which needs no network."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join([heading(title, 1), *parts])
        + "\n</main>\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def items(texts: Sequence[str]) -> str:
    """A list; "" if there are no entries."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>" if texts else ""


def facts(values: dict[str, str]) -> str:
    """A list of names with their values."""
    entries = [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in values.items()]
    return f"<dl>{''.join(entries)}</dl>"


def verdict(summary: str, sentences: Sequence[str], remarks: Sequence[str]) -> str:
    """The summary in bold, a list, then a paragraph per remark."""
    strong = f"<p><strong>{escape(summary)}</strong></p>"
    return f'<div class="verdict">{strong}{items(sentences)}{"".join(map(paragraph, remarks))}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str, numbers: Sequence[str] = ()) -> str:
    """A table of texts. The first text of each row is its heading.

    caption: should be short, because it does not wrap.
    numbers: names of the columns that are aligned as numbers.
    """
    classes = [' class="number"' if column in numbers else "" for column in columns]
    head = "".join(f'<th scope="col"{c}>{escape(column)}</th>' for column, c in zip(columns, classes, strict=True))
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td{c}>{escape(cell)}</td>" for cell, c in zip(rest, classes[1:], strict=True))
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>\n'
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def details(summary: str, content: str) -> str:
    """Collapsed content, which opens with a click. `content` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def picture(title: str, caption: str, alt: str, png: bytes) -> str:
    """A figure with its image embedded in the document."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{escape(title)}.</b> {escape(caption)}".rstrip()
        + "</figcaption></figure>"
    )


def pictures(figures: Sequence[str]) -> str:
    """Figures side by side if the screen is wide enough."""
    return f'<div class="figures">{"".join(figures)}</div>'
