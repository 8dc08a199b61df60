"""``onnxmorph inspect``: the layers of a model, what they cost, and what can be done to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxmorph.visible import visible

from ..options import model_argument, talk_options
from ..table import Table
from ..talk import Talk

if TYPE_CHECKING:
    from onnxmorph.errors import Refusal
    from onnxmorph.graph.axes import Group
    from onnxmorph.graph.summary import Port, Row, Summary

__all__ = ["command"]

Answers = Sequence[Mapping[str, "Refusal | None"]]


@click.command(name="inspect", short_help="List the layers of a model, and which morphs each of them takes.")
@model_argument("model")
@click.option(
    "--group",
    "of_layer",
    metavar="LAYER",
    help="Show instead what is coupled with the output channels of a layer: what would be widened or shrunk with it.",
)
@click.option(
    "--index-maps",
    is_flag=True,
    help="Give instead, as JSON, where the entries of a grown model's tensors come from in its parent's.",
)
@talk_options
def command(*, model: Path, of_layer: str | None, index_maps: bool, talk: Talk) -> None:
    """List the layers of a model, and which morphs each of them takes.

    The number, the name, or a part of the name of a layer is what other verbs take as LAYER. MACs are
    multiply-accumulates for one sample.
    """
    if of_layer is not None and index_maps:
        raise click.UsageError("give one of --group and --index-maps", click.get_current_context(silent=True))
    if index_maps:
        _give_index_maps(model, talk)
        return
    if of_layer is not None:
        _show_groups(model, of_layer, talk)
        return
    with talk.step("loading"):
        from onnxmorph import model as files
        from onnxmorph.graph.summary import summarise
        from onnxmorph.morphs import MORPHS

        loaded = files.load(model)
    with talk.step("reading the graph"):
        summary = summarise(loaded)
        checks = {morph: prepare(loaded) for morph, prepare in MORPHS.items()}
        answers = [{morph: why_not(row.layer) for morph, why_not in checks.items()} for row in summary.rows]
        grown = files.records(loaded)
    for note in summary.notes:
        talk.note(note)
    document = _document(model, summary, answers, grown)
    talk.result(document, lambda: _show(model, summary, answers, list(MORPHS), grown))


def _give_index_maps(path: Path, talk: Talk) -> None:
    with talk.step("loading"):
        from onnxmorph import model as files

        document = {"index_maps": files.index_maps(files.load(path))}
    talk.result(document, lambda: click.echo(json.dumps({"schema": 1, **document})))


def _show_groups(path: Path, of_layer: str, talk: Talk) -> None:
    with talk.step("loading"):
        from onnxmorph import model as files
        from onnxmorph.graph.axes import groups_of
        from onnxmorph.graph.layers import layers
        from onnxmorph.graph.select import select_one
        from onnxmorph.morphs.widen import coupled_groups

        loaded = files.load(path)
    with talk.step("reading the graph"):
        layer = select_one(layers(loaded), of_layer)
        table = coupled_groups(loaded)
        groups = groups_of(table, layer.output, layer.output_axis)
        axes = table.coupled.axes(layer.output)
        text = "" if axes is None else table.coupled.factors.text(axes[layer.output_axis])
    document = {
        "layer": layer.name,
        "value": layer.output.name,
        "axis": layer.output_axis,
        "factors": text,
        "groups": [_group(group) for group in groups],
    }

    def show() -> None:
        click.echo(visible(f"{layer.name}: output '{layer.output.name}' axis {layer.output_axis}, {text}"))
        for group in groups:
            click.echo()
            click.echo(group.describe())

    talk.result(document, show)


def _group(group: Group) -> dict[str, Any]:
    return {
        "size": group.size,
        "status": group.status,
        **{
            name: [{"kind": note.kind, "text": note.text} for note in dict.fromkeys(notes)]
            for name, notes in (
                ("blocks", group.blocks),
                ("pins", group.pins),
                ("conditions", group.conditions),
                ("constraints", group.constraints),
            )
        },
        "members": [
            {
                "tensor": member.value.name,
                "axis": member.axis,
                "size": group.coupled.factors.size(member.expr),
                "stored": member.is_stored,
                "roles": sorted(member.roles),
                "places": [{"offset": offset, "stride": stride} for offset, stride in member.placements],
            }
            for member in group.members
        ],
    }


def _document(path: Path, summary: Summary, answers: Answers, grown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    totals = summary.totals
    return {
        "layers": [_layer(row, answer) for row, answer in zip(summary.rows, answers, strict=True)],
        "totals": {
            "layers": len(summary.rows),
            "parameters": totals.parameters,
            "macs": totals.macs,
            "macs_unknown": totals.unknown,
            "stored": totals.stored,
        },
        "model": {
            "path": path,
            "name": summary.name,
            "opsets": summary.opsets,
            "ir_version": summary.ir_version,
            "producer": summary.producer,
            "nodes": summary.nodes,
            "functions": summary.functions,
            "inputs": [_port(port) for port in summary.inputs],
            "outputs": [_port(port) for port in summary.outputs],
        },
        "grown": list(grown),
        "notes": list(summary.notes),
    }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": None if port.shape is None else list(port.shape)}


def _layer(row: Row, answer: Mapping[str, Refusal | None]) -> dict[str, Any]:
    layer = row.layer
    return {
        "index": layer.index,
        "name": layer.name,
        "op": layer.op,
        "in": layer.in_channels,
        "out": layer.out_channels,
        "kernel": list(layer.kernel),
        "groups": layer.groups,
        "directions": None if layer.cell is None else layer.cell.directions,
        "activation": _activation(row),
        "parameters": row.cost.parameters,
        "macs": row.cost.macs,
        "label": layer.label,
        "scope": layer.scope,
        "output": layer.output.name,
        "dtype": layer.dtype.name.lower(),
        "shared_with": list(layer.shared_with),
        "morphs": {morph: None if refusal is None else str(refusal) for morph, refusal in answer.items()},
    }


def _activation(row: Row) -> str | None:
    activation = row.layer.activation
    return None if activation is None else activation.name


def _channels(row: Row) -> str:
    """``in -> out``; of a layer that runs in both directions ``in -> 2 x hidden``."""
    layer, cell = row.layer, row.layer.cell
    each = f"{cell.directions} x " if cell is not None and cell.directions > 1 else ""
    return f"{layer.in_channels or '?'} -> {each}{layer.out_channels or '?'}"


def _show(
    path: Path, summary: Summary, answers: Answers, morphs: Sequence[str], grown: Sequence[Mapping[str, Any]]
) -> None:
    _show_header(path, summary, grown)
    table = Table(["#", "name", "op", "in -> out", "kernel", ">groups", "activation", ">parameters", ">MACs", *morphs])
    reasons: dict[str, int] = {}
    for row, answer in zip(summary.rows, answers, strict=True):
        layer = row.layer
        table.add(
            f"#{layer.index}",
            layer.name if not layer.scope else f"{layer.scope}: {layer.name}",
            layer.op,
            _channels(row),
            "x".join(map(str, layer.kernel)),
            str(layer.groups),
            _activation(row) or "",
            f"{row.cost.parameters:,}",
            "?" if row.cost.macs is None else f"{row.cost.macs:,}",
            *(_yes_or_number(refusal, layer.name, reasons) for refusal in answer.values()),
        )
    if not table.rows:
        click.echo("no linear layers")
        return
    table.show()
    click.echo(_totals(summary))
    if reasons:
        click.echo()
    for reason, number in reasons.items():
        click.echo(f"[{number}] {visible(reason)}")


_VALUE_WORDS = ("output ", "input ", "value ", "weight ", "bias ", "initializer ")


def _in_a_word(character: str) -> bool:
    return character.isalnum() or character in ("_", "/", ".") if character else False


def _yes_or_number(refusal: Refusal | None, name: str, reasons: dict[str, int]) -> str:
    """``yes``, or ``no [3]`` with the reason under that number below the table: reasons are sentences.

    The layer's own name is left out of them, since the row has it: so layers with the same trouble share a number.
    """
    if refusal is None:
        return "yes"
    reason = str(refusal)
    # Plain search: a regular expression per layer costs more than all else here on a graph of 20,000 nodes.
    for spelled in (f"'{name}'", name):
        at = reason.find(spelled)
        whole = at >= 0 and not _in_a_word(reason[:at][-1:]) and not _in_a_word(reason[at + len(spelled) :][:1])
        # A layer without a name goes by its output's, and "output 'y'" is about that value.
        if whole:
            if not reason[:at].endswith(_VALUE_WORDS):
                reason = f"{reason[:at]}the layer{reason[at + len(spelled) :]}"
            break
    return f"no [{reasons.setdefault(reason, len(reasons) + 1)}]"


def _show_header(path: Path, summary: Summary, grown: Sequence[Mapping[str, Any]]) -> None:
    opsets = ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())
    by = f", by {visible(summary.producer)}" if summary.producer else ""
    click.echo(f"{path}: opset {opsets}, IR {summary.ir_version}{by}, {summary.nodes} nodes")
    for what, ports in (("inputs", summary.inputs), ("outputs", summary.outputs)):
        click.echo(visible(f"{what}: {', '.join(map(_signature, ports))}"))
    if grown:
        click.echo(f"grown by: {', '.join(str(record.get('morph')) for record in grown)}")
    click.echo()


def _signature(port: Port) -> str:
    shape = (
        "of unknown rank" if port.shape is None else f"[{', '.join('?' if d is None else str(d) for d in port.shape)}]"
    )
    return f"{port.name} {port.dtype or 'no tensor'} {shape}"


def _totals(summary: Summary) -> str:
    totals = summary.totals
    stored = "" if totals.stored is None else f" of {totals.stored:,} stored in the model"
    macs = f"{totals.macs:,} MACs" + (f" and {totals.unknown} layers of unknown size" if totals.unknown else "")
    count = len(summary.rows)
    return f"{count} layer{'s' if count != 1 else ''}, {totals.parameters:,} parameters{stored}, {macs}"
