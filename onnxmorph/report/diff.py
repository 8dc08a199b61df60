"""A difference of two models, as text, as Markdown with a Mermaid picture, and as a page of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxmorph.diff import Diff, NodeChange, Picture, Shown, TensorChange
from onnxmorph.errors import OnnxMorphError
from onnxmorph.morphs import plan_from_record
from onnxmorph.report.drawing import draw
from onnxmorph.report.drawing import parts as connected
from onnxmorph.report.page import Html, document, element, joined, listing, section, table
from onnxmorph.visible import visible

__all__ = ["as_html", "as_markdown", "as_text", "html_sections", "markdown_text", "mermaid", "told"]

_MOST_ROWS = 200
# Mermaid draws no more, and shows an error in the place of the picture.
_MOST_DRAWN, _MOST_EDGES = 48_000, 480
_COLOURS = {"added": "#cfe8cf", "removed": "#f4cccc", "changed": "#fbe9b7", "kept": "#eeeeee"}


@dataclass(frozen=True)
class _Section:
    """One part of a report: a table of rows, or lines of text where there are no headings."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _sections(found: Diff) -> Iterator[_Section]:
    before, after = found.totals
    pairs = (
        ("nodes", *found.node_counts),
        ("parameters of layers", before.parameters, after.parameters),
        ("numbers stored", before.stored, after.stored),
        ("multiply-accumulates", before.macs, after.macs),
    )
    unknown = f" (unknown for {after.unknown} layers)" if after.unknown else ""
    rows = [
        (name, f"{one:,}", f"{two:,}" + (unknown if name.startswith("multiply") else ""), _growth(one, two))
        for name, one, two in pairs
        if one is not None and two is not None
    ]
    yield _Section("Size", ("", "parent", "child", ""), tuple(rows))
    yield _Section("Morphs recorded", (), tuple((told(record),) for record in found.records))
    yield _Section("Interface", (), tuple((line,) for line in found.signature))
    yield _Section("Settings", (), tuple((line,) for line in found.settings))
    yield _Section("Nodes", ("", "operator", "name", "what changed"), tuple(map(_node_row, found.nodes)))
    yield _Section(
        "Stored tensors",
        ("", "name", "parent", "child", "largest change"),
        tuple(map(_tensor_row, found.tensors)),
    )
    yield _Section(
        "Shapes of values",
        ("name", "parent", "child"),
        tuple((value.name, value.before, value.after) for value in found.values),
    )


def _growth(before: int, after: int) -> str:
    if before == after:
        return "the same"
    return f"x{after / before:.3g}" if before else "new"


def told(record: Mapping[str, Any]) -> str:
    """A record in words; of one that this version cannot read, what it is called."""
    try:
        return plan_from_record(record).describe()
    except (OnnxMorphError, TypeError, ValueError, AttributeError):
        return f"{record.get('morph', 'a morph without a name')} (a record that this version cannot read)"


def _scoped(name: str, scope: str) -> str:
    return f"{name} (in {scope})" if scope else name


def _node_row(change: NodeChange) -> tuple[str, ...]:
    return change.kind, change.op, _scoped(change.name, change.scope), "; ".join(change.details)


def _tensor_row(change: TensorChange) -> tuple[str, ...]:
    moved = "" if change.max_abs is None else f"{change.max_abs:.3g} of {change.largest:.3g}"
    return change.kind, _scoped(change.name, change.scope), change.before or "", change.after or "", moved


def _shown(found: Diff) -> Iterator[tuple[_Section, int]]:
    """Sections that have something to say, with how many rows are left out."""
    for part in _sections(found):
        if part.rows:
            kept = part.rows[:_MOST_ROWS]
            yield _Section(part.title, part.headings, kept), len(part.rows) - len(kept)


def as_text(found: Diff, table: Callable[[Sequence[str], Sequence[Sequence[str]]], str]) -> str:
    """For a terminal. ``table`` lays out headings and rows."""
    parts = [found.summary()]
    for part, left_out in _shown(found):
        if part.headings:
            body = table(part.headings, part.rows)
        else:
            body = "\n".join(visible(row[0]) for row in part.rows)
        parts.append(f"{part.title}\n{body}" + (f"\nand {left_out} more" if left_out else ""))
    return "\n\n".join(parts)


# -- Markdown ---------------------------------------------------------------------------------------------------------


def as_markdown(found: Diff, names: tuple[str, str] = ("parent", "child"), *, level: int = 3) -> str:
    """For a pull request or a step summary; the picture is a Mermaid flowchart.

    Args:
        found: What they differ in.
        names: What they are called.
        level: Of the headline, as a number of ``#``.
    """
    parts = [f"{'#' * level} {markdown_text(names[0])} → {markdown_text(names[1])}", markdown_text(found.summary())]
    for part, left_out in _shown(found):
        more = f"\n\nand {left_out} more" if left_out else ""
        if part.headings:
            lines = [f"| {' | '.join(part.headings)} |", f"|{' --- |' * len(part.headings)}"]
            lines += [f"| {' | '.join(map(markdown_text, row))} |" for row in part.rows]
        else:
            lines = [f"* {markdown_text(row[0])}" for row in part.rows]
        parts.append(f"{'#' * (level + 1)} {part.title}\n\n" + "\n".join(lines) + more)
        if part.title == "Nodes" and found.picture.nodes:
            drawn = mermaid(found.picture)
            if len(drawn) <= _MOST_DRAWN and len(found.picture.edges) <= _MOST_EDGES:
                parts.append(f"```mermaid\n{drawn}\n```")
    return "\n\n".join(parts) + "\n"


def markdown_text(text: str) -> str:
    """Text that Markdown leaves alone, on one line."""
    escaped = re.sub(r"([\\`*_{}\[\]|#~$])", r"\\\1", visible(" ".join(text.split())).replace("&", "&amp;"))
    return escaped.replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")  # nobody is called by a name


def mermaid(picture: Picture) -> str:
    """The picture as a Mermaid flowchart, added nodes green, changed ones yellow, removed ones red and dashed."""
    lines = ["flowchart TD"]
    for number, node in enumerate(picture.nodes):
        lines.append(f'  n{number}["{_quoted(node)}"]:::{node.kind}')
    for one, two, _ in picture.edges:
        lines.append(f"  n{one} --> n{two}")
    if picture.left_out:
        lines.append(f'  more["{picture.left_out} more changed nodes are not shown"]')
    for kind, colour in _COLOURS.items():
        dashed = ",stroke-dasharray:4 3" if kind == "removed" else ""
        lines.append(f"  classDef {kind} fill:{colour},stroke:#555,color:#111{dashed}")
    return "\n".join(lines)


def _quoted(node: Shown) -> str:
    """A label in Mermaid's own escapes, so that no name can end it."""
    name = node.name if len(node.name) <= 60 else f"...{node.name[-57:]}"
    return "<br/>".join(
        "".join(f"#{ord(letter)};" if letter in '"#<>&;`{}[]()|\\' or ord(letter) < 32 else letter for letter in text)
        for text in (node.op, name)
    )


# -- HTML -------------------------------------------------------------------------------------------------------------


def as_html(found: Diff, names: tuple[str, str] = ("parent", "child")) -> str:
    """A page of its own: no scripts, nothing loaded from elsewhere; the picture is drawn in it."""
    title = f"{names[0]} → {names[1]}"
    return document(title, element("h1", title), element("p", found.summary()), *html_sections(found, picture=True))


def html_sections(found: Diff, *, picture: bool = False, skip: Collection[str] = ()) -> list[Html]:
    """The sections of a difference as HTML.

    Args:
        found: The difference.
        picture: Whether the neighbourhood of what changed is drawn below the nodes.
        skip: Titles of sections that are told elsewhere.
    """
    parts = []
    for part, left_out in _shown(found):
        if part.title in skip:
            continue
        body: list[Html]
        if part.headings:
            kinds = [row[0] if row[0] in ("added", "removed", "changed") else None for row in part.rows]
            body = [table(part.headings, part.rows, classes=kinds)]
        else:
            body = [listing([row[0] for row in part.rows])]
        if left_out:
            body.append(element("p", f"and {left_out} more", class_="soft"))
        parts.append(section(part.title, *body))
        if picture and part.title == "Nodes" and found.picture.nodes:
            drawn = element(
                "div", joined(draw(one) for one in connected(found.picture)), class_="picture", tabindex="0"
            )
            more = found.picture.left_out
            note = element("p", f"{more} more changed nodes are not shown", class_="soft") if more else Html("")
            parts.append(section("Neighbourhood of what changed", note, drawn))
    return parts
