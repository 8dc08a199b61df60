"""HTML pages of their own: no scripts, nothing loaded from elsewhere, every text escaped where it enters.

:class:`Html` is text that is HTML already; all other text is escaped by :func:`element`, so that no name of a model can
become a part of a page. The pages follow the reader's light or dark scheme, fit a phone, and print.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["Html", "document", "element", "escaped", "figures", "joined", "listing", "section", "table"]


class Html(str):
    """Text that is HTML: made by the functions here, never of what a model says."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Text as it is to be read; what cannot be shown (control characters, lone surrogates) is spelled out."""
    shown = "".join(
        letter
        if letter in "\t\n" or (letter >= " " and not "\x7f" <= letter <= "\x9f" and not "\ud800" <= letter <= "\udfff")
        else f"\\u{ord(letter):04x}"
        for letter in text
    )
    return Html(html.escape(shown))


def element(tag: str, *children: str, **attributes: str | int | float | None) -> Html:
    """One element.

    Args:
        tag: Its name.
        children: :class:`Html` as it is, text escaped.
        attributes: ``class_`` is ``class``, other underscores are hyphens; ``None`` leaves one out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(child if isinstance(child, Html) else escaped(child) for child in children)
    return Html(f"<{tag}{written}>{inner}</{tag}>")


def joined(parts: Iterable[str]) -> Html:
    """Several elements, one after the other."""
    return Html("\n".join(part if isinstance(part, Html) else escaped(part) for part in parts))


_SHOWN_ROWS = 24
_NAMES = ("name", "value", "new kernel", "model")
_SHORT = ("", "verdict", "operator", "outcome")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, classes: Sequence[str | None] = ()) -> Html:
    """A table that scrolls by itself where it is wider than the page; of a long one the rest is folded away.

    Args:
        headings: One a column; those that begin with ``>`` are flush right.
        rows: Cells, :class:`Html` or text.
        classes: Of each row.
    """
    if len(rows) <= _SHOWN_ROWS + 3:
        return _table(headings, rows, classes)
    rest = _table(headings, rows[_SHOWN_ROWS:], classes[_SHOWN_ROWS:])
    summary = element("summary", f"{len(rows) - _SHOWN_ROWS} more")
    return joined([_table(headings, rows[:_SHOWN_ROWS], classes[:_SHOWN_ROWS]), element("details", summary, rest)])


def listing(lines: Sequence[str]) -> Html:
    """A list of texts; of a long one the rest is folded away."""
    first, rest = (lines, ()) if len(lines) <= _SHOWN_ROWS + 3 else (lines[:_SHOWN_ROWS], lines[_SHOWN_ROWS:])
    shown = element("ul", joined(element("li", line) for line in first))
    if not rest:
        return shown
    folded = element("ul", joined(element("li", line) for line in rest))
    return joined([shown, element("details", element("summary", f"{len(rest)} more"), folded)])


def _kind_of(heading: str) -> str | None:
    if heading.startswith(">"):
        return "number"
    return "name" if heading in _NAMES else "short" if heading in _SHORT else None


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str | None]) -> Html:
    right = [_kind_of(heading) for heading in headings]
    head = joined(
        element("th", heading.removeprefix(">"), class_=kind, scope="col")
        for heading, kind in zip(headings, right, strict=True)
    )
    body = []
    for place, row in enumerate(rows):
        cells = joined(element("td", cell, class_=kind) for cell, kind in zip(row, right, strict=True))
        body.append(element("tr", cells, class_=classes[place] if classes else None))
    heads = [element("thead", element("tr", head))] if any(headings) else []
    whole = element("table", *heads, element("tbody", joined(body)))
    return element("div", whole, class_="scroll", tabindex="0", role="group")


def section(title: str, *parts: str) -> Html:
    """A headline with what stands below it."""
    return element("section", element("h2", title), *parts)


def figures(numbers: Iterable[tuple[str, str, str]]) -> Html:
    """Single numbers, large: what it is, the number, and a note."""
    return element(
        "dl",
        joined(
            element("div", element("dt", what), element("dd", number), element("dd", note, class_="note"))
            for what, number, note in numbers
        ),
        class_="figures",
    )


def document(title: str, *parts: str) -> str:
    """The whole page."""
    return (
        "<!doctype html>\n<!-- onnxmorph -->\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # Should anything ever slip through, the browser still runs no script and fetches nothing.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"{element('title', title)}\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n<main>\n{joined(parts)}\n"
        "</main>\n</body>\n</html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1d20; --soft: #5b6169; --paper: #ffffff; --panel: #f5f6f8; --line: #d9dce1;
  --good: #1a7f37; --bad: #c62828; --warn: #8a5a00; --old: #8d949e; --new: #2f6fde;
  --added: #d3efd3; --added-line: #3a8f46; --removed: #f8d9d7; --removed-line: #c0504a; --changed: #fbeab8;
  --changed-line: #ab8417; --kept: #eceef1; --kept-line: #9aa1ab; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a3abb5; --paper: #15171a; --panel: #1e2125;
  --line: #363b42; --good: #56c271; --bad: #ff7b72; --warn: #e3b341; --old: #8d949e; --new: #6ea8ff;
  --added: #1d3d25; --added-line: #57b869; --removed: #47211f; --removed-line: #e0736c; --changed: #43370f;
  --changed-line: #d9b13b; --kept: #272b30; --kept-line: #6d7580; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem clamp(.8rem, 3vw, 2rem) 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .8rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; color: var(--soft); font-weight: 600; overflow-wrap: anywhere; }
p, li { overflow-wrap: anywhere; max-width: 60rem; }
.soft, .note { color: var(--soft); }
.verdict { display: inline-block; padding: .15rem .7rem; border-radius: 1rem; font-weight: 600; border: 1.5px solid; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.figures > div { background: var(--panel); border-radius: .5rem; padding: .7rem .9rem; }
.figures dt { color: var(--soft); font-size: .85rem; } .figures dd { margin: 0; font-size: 1.3rem; font-weight: 600;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; } .figures .note { font-size: .85rem; font-weight: 400; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { padding: .4rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
th { font-weight: 600; color: var(--soft); background: var(--panel); white-space: nowrap; }
td { overflow-wrap: anywhere; min-width: 4.5rem; }
td.name { min-width: 13rem; } td.short { white-space: nowrap; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); padding: .2rem 0; }
td details { margin: .2rem 0 0; } @media (max-width: 600px) { td.name { min-width: 8.5rem; } }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.added td:first-child { box-shadow: inset 4px 0 var(--added-line); }
tr.removed td:first-child { box-shadow: inset 4px 0 var(--removed-line); }
tr.changed td:first-child { box-shadow: inset 4px 0 var(--changed-line); }
code, pre { font: .85em/1.5 ui-monospace, monospace; }
pre { background: var(--panel); border-radius: .5rem; padding: .8rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.picture { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem; overflow: auto; max-height: 75vh;
  display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-start; align-content: flex-start; }
.picture svg { flex: none; margin: 0 auto; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; list-style: none; font-size: .85rem; }
.legend i { display: inline-block; width: 1em; height: 1em; border-radius: .2em; border: 1.5px solid;
  margin-right: .4em; vertical-align: -.12em; }
.i-added { background: var(--added); border-color: var(--added-line) !important; }
.i-removed { background: var(--removed); border-color: var(--removed-line) !important; }
.i-changed { background: var(--changed); border-color: var(--changed-line) !important; }
.i-kept { background: var(--kept); border-color: var(--kept-line) !important; }
svg { font-family: system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); }
.node rect { stroke-width: 1.4; }
.added rect { fill: var(--added); stroke: var(--added-line); } .removed rect { fill: var(--removed);
  stroke: var(--removed-line); stroke-dasharray: 4 3; }
.changed rect { fill: var(--changed); stroke: var(--changed-line); }
.kept rect { fill: var(--kept); stroke: var(--kept-line); }
.edge { fill: none; stroke: var(--soft); stroke-width: 1.2; } .tip { fill: var(--soft); }
.weights { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15.5rem), 1fr)); gap: .8rem;
  margin: 0 0 1.2rem; }
.weights figure { margin: 0; background: var(--panel); border-radius: .5rem; padding: .6rem .7rem; min-width: 0; }
.weights svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; }
figcaption b { color: var(--ink); display: block; }
.old .bars { fill: var(--old); } .new .bars { fill: var(--new); } .axis { stroke: var(--soft); stroke-width: 1; }
.ratio { min-width: 13rem; } .ratio svg { width: 100%; min-width: 12rem; height: 1.6rem; display: block; }
.ratio .track { stroke: var(--line); stroke-width: 2; } .ratio .floor { stroke: var(--soft); stroke-width: 1.5; }
.ratio .limit { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 3 2; }
.ratio .in { fill: var(--good); } .ratio .out { fill: var(--bad); }
.share { display: flex; height: .9rem; border-radius: .45rem; overflow: hidden; gap: 2px; }
.share span { background: currentColor; min-width: 3px; }
@media print { body { font-size: 10pt; } main { max-width: none; padding: 0; } h2 { break-after: avoid; }
  .picture { max-height: none; overflow: visible; } .picture svg { max-width: 100%; height: auto; flex: initial; }
  .scroll { overflow: visible; } figure, .figures > div, tr, svg { break-inside: avoid; } }
""".strip()
