"""What `inspect` shows of a model, as data."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmorph._ir import ir
from onnxmorph.graph.cost import Cost, Sample, Totals, cost, total
from onnxmorph.graph.layers import LinearLayer, layers
from onnxmorph.graph.shapes import Dims, Shapes

__all__ = ["Port", "Row", "Summary", "summarise"]


@dataclass(frozen=True)
class Port:
    """One input or output of the graph; ``shape`` is ``None`` where the rank is unknown."""

    name: str
    dtype: str | None
    shape: Dims | None


@dataclass(frozen=True, eq=False)
class Row:
    """One linear layer and its cost."""

    layer: LinearLayer
    cost: Cost


@dataclass(frozen=True, eq=False)
class Summary:
    """A model at a glance.

    Attributes:
        name: The graph's name.
        ir_version: Of the file format.
        opsets: Version by domain; the standard one is ``'ai.onnx'``.
        producer: Name and version of what wrote it, may be empty.
        inputs: Graph inputs, without those that only repeat an initializer.
        outputs: Graph outputs.
        nodes: Number of nodes of the main graph.
        functions: Number of model-local functions.
        rows: The linear layers.
        totals: Their sum, and the numbers stored in the model.
        notes: What a reader should know: stale shapes, failed inference.
    """

    name: str
    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: int
    functions: int
    rows: tuple[Row, ...]
    totals: Totals
    notes: tuple[str, ...]


def _port(value: ir.Value, shapes: Shapes) -> Port:
    dtype = shapes.dtype(value)
    return Port(value.name or "", None if dtype is None else dtype.name.lower(), shapes.shape(value))


def summarise(model: ir.Model, shapes: Shapes | None = None, found: list[LinearLayer] | None = None) -> Summary:
    """Summarise a model.

    Args:
        model: Left unchanged.
        shapes: Of this model, where the caller has them already.
        found: Its layers, likewise.
    """
    shapes = Shapes.of(model) if shapes is None else shapes
    found = layers(model, shapes) if found is None else found
    sample = Sample(model, shapes)
    costs = [cost(layer, sample) for layer in found]
    notes = []
    if shapes.failure is not None:
        notes.append(f"shape inference failed ({shapes.failure}); only declared shapes are known")
    if shapes.conflicts:
        more = f" and {len(shapes.conflicts) - 1} more" if len(shapes.conflicts) > 1 else ""
        notes.append(f"stale shapes in the file: {shapes.conflicts[0]}{more}; the operators' own are used")
    return Summary(
        name=model.graph.name or "",
        ir_version=model.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in model.graph.opset_imports.items()},
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        inputs=tuple(_port(value, shapes) for value in model.graph.inputs if not value.is_initializer()),
        outputs=tuple(_port(value, shapes) for value in model.graph.outputs),
        nodes=len(model.graph),
        functions=len(model.functions),
        rows=tuple(Row(layer, own) for layer, own in zip(found, costs, strict=True)),
        totals=total(found, costs, model),
        notes=tuple(notes),
    )
