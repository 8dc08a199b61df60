"""Coupled axes of a whole model: one walk over the nodes, each read by the rule of its operator.

See docs/coupled_axes.md. The result knows for every axis of every value its factors (`Factors`), and every place that
spells out a size. Groups are read off it (`onnxmorph.graph.axes.group`), index maps are applied by
`onnxmorph.graph.axes.rewrite`. Nothing here edits a model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes.contents import LARGEST_CONTENT, Content, Number, constant_content, evaluate_node
from onnxmorph.graph.axes.factors import Expr, Factors
from onnxmorph.graph.axes.notes import Block, Note, Pin
from onnxmorph.graph.axes.site import RULES, Axes, Barrier, Site
from onnxmorph.graph.axes.uses import AttributeUse, Frozen, IndexUse, SizeUse, SplitUse, ViewUse
from onnxmorph.graph.constants import chain, constant, is_constant, stored
from onnxmorph.graph.scopes import subgraphs
from onnxmorph.graph.shapes import Shapes

__all__ = ["CoupledAxes", "Operand"]

Operand = tuple[ir.Node, int]
"""One use of a value: node and input position."""

LARGEST_UNIFORM = 1 << 20
"""Elements; a shared constant up to this size is looked into, whether all its elements are the same."""

LARGEST_FLOAT_CONTENT = 1
"""Elements; a float tensor with more is data (a per-channel parameter), not arithmetic on sizes."""

DEEPEST_CONSTANT = 50
"""Nodes of arithmetic on stored numbers that are followed from one result back."""

LONGEST_CHAIN = 10_000
"""Nodes that are walked back to find the type of a number."""

LARGEST_TRIED = 1 << 16
"""Elements; what is computed from fewer is computed to learn its shape, rather than the whole model inferred."""

_CARRIED = frozenset(
    {
        *("Identity", "Cast", "CastLike", "DequantizeLinear", "Neg", "Dropout", "Transpose", "Reshape", "Flatten"),
        *("Squeeze", "Unsqueeze", "Concat", "Slice", "Split"),
    }
)
"""Operators through which an index map of a stored tensor goes: entries are moved, or scaled alike, and 0 stays 0."""

_PER_ENTRY = frozenset(
    {"Add", "Sub", "Mul", "Div", "Exp", "Sigmoid", "Tanh", "Softplus", "Sqrt", "Reciprocal", "Abs", "Pow"}
)
"""Operators that give copies what they give the original, and what nobody reads something: enough for a factor."""

_TRUTHS = {"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not", "Xor"}
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


class CoupledAxes:
    """Every axis of every value of one model, in factors; made once with `of`, never changes the model."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.factors = Factors()
        self.uses: list[SizeUse | AttributeUse | SplitUse | IndexUse | Frozen | ViewUse] = []
        self.barriers: list[tuple[ir.Node, str]] = []
        """Nodes that were not followed, with the reason."""
        self.roles: dict[Operand, list[tuple[int, str, Expr | None]]] = defaultdict(list)
        """For an operand what its axes, or only some factors of one, are for."""
        self.own_copy: dict[Operand, Axes] = {}
        """Uses of a shared constant whose elements are all equal: each use may have its own copy, so none couples."""
        self.formals: dict[ir.Value, list[ir.Value]] = defaultdict(list)
        """For a value handed to a model-local function, the function's own name for it."""
        self._axes: dict[ir.Value, Axes | None] = {}
        self._contents: dict[ir.Value, Content | None] = {}
        self._nesting = 0
        self._followed: set[ir.Value] = set()
        self._computed: dict[ir.Value, ir.TensorProtocol | None] = {}
        self._constants: dict[ir.Value, bool] = {}
        self._uniform: dict[ir.Value, bool] = {}
        self._shapes: Shapes | None = None
        self._functions: dict[tuple[str, str, str], ir.Function] = {
            function.identifier(): function for function in model.functions.values()
        }
        self._freeze_inputs = False
        self._bodies: dict[tuple[str, str, str], list[ir.Value]] = {}
        self._symbols: dict[str, int] = {}

    @classmethod
    def of(cls, model: ir.Model, *, freeze: bool = False) -> CoupledAxes:
        """Couple the axes of a model.

        Model-local functions are followed at every call; bodies of If, Loop and Scan by their rules.

        Args:
            model: Left unchanged.
            freeze: Treat initializers that are graph inputs too as constants. Otherwise they are pinned, since a
                caller may set them (IR versions before 4 had no other way to store a weight).
        """
        import onnxmorph.graph.axes.rules  # noqa: F401  # registers the rules on first use

        self = cls(model)
        self._freeze_inputs = freeze
        for value in model.graph.inputs:
            if not value.is_initializer():
                self._input(value)
        self.walk(model.graph, model.graph.opset_imports)
        for value in model.graph.outputs:
            self._output(value)
        return self

    # ---- reading the result ---------------------------------------------------------------------------------------

    def axes(self, value: ir.Value) -> Axes | None:
        """The axes of a value; ``None`` when its rank is unknown or nothing was said about it."""
        if value in self._axes:
            return self._axes[value]
        return self._stored_axes(value)

    def known_values(self) -> Iterator[tuple[ir.Value, Axes]]:
        """Every value whose axes are known."""
        for value, axes in self._axes.items():
            if axes is not None:
                yield value, axes

    def is_constant(self, value: ir.Value) -> bool:
        """Whether a value is known before a run: stored, or computed from stored values alone."""
        known = self._constants.get(value)
        if known is None:
            known = stored(value) is not None
            self._constants[value] = known
        return known

    def is_root(self, value: ir.Value) -> bool:
        """Whether an index map changes the tensor itself: it is stored, or computed from stored ones (`tensor`)."""
        return value in self._computed or stored(value) is not None

    def is_computed(self, value: ir.Value) -> bool:
        """Whether a value is computed from stored tensors in a way that no index map goes through, as by Exp."""
        return value in self._computed

    def computed(self) -> Iterator[ir.Value]:
        """Every value of which `is_computed` holds."""
        return iter(self._computed)

    def tensor(self, value: ir.Value) -> ir.TensorProtocol | None:
        """The numbers of a root (`is_root`), stored or computed now; ``None`` for any other value.

        Raises:
            Refusal: They cannot be computed, as where they are too many.
        """
        if value not in self._computed:
            return stored(value)
        known = self._computed[value]
        if known is None:
            array = constant(value)
            if array is None:
                raise Refusal(f"'{value.name}' cannot be computed before a run", code="computed-constant")
            known = self._computed[value] = ir.tensor(array, name=value.name)
        return known

    def contents(self) -> dict[ir.Value, Content]:
        """Every small tensor that was followed, with what it holds."""
        return {value: content for value, content in self._contents.items() if content is not None}

    def content(self, value: ir.Value) -> Content | None:
        """What a small value holds, in terms of axis sizes; ``None`` when it is data."""
        if value in self._contents:
            return self._contents[value]
        content: Content | None = self._computed_constant(value)
        array = self.small_array(value) if content is None else None
        if array is not None and (array.dtype.kind in "iub" or array.size <= LARGEST_FLOAT_CONTENT):
            content = constant_content(array)
        self._contents[value] = content
        return content

    def _computed_constant(self, value: ir.Value) -> Content | None:
        """Arithmetic on stored numbers that `onnxmorph.graph.constants` does not follow, such as Mod."""
        node = value.producer()
        if node is None or stored(value) is not None or not self.is_constant(value):
            return None
        if self._nesting >= DEEPEST_CONSTANT:
            return None
        self._nesting += 1
        inputs = [None if read is None else self.content(read) for read in node.inputs]
        self._nesting -= 1
        if any(read is not None and held is None for read, held in zip(node.inputs, inputs, strict=True)):
            return None
        out = evaluate_node(node, inputs)
        if out is None or out[value.index() or 0].size > LARGEST_CONTENT:
            return None
        content = np.asarray(out[value.index() or 0], dtype=object)
        numbers = [number.value(self.factors.size) for number in content.reshape(-1)]
        if any(number is None for number in numbers):
            return None
        if content.size > LARGEST_FLOAT_CONTENT and any(isinstance(number, float) for number in numbers):
            return None
        return content

    def small_array(self, value: ir.Value) -> np.ndarray[Any, Any] | None:
        """The numbers of a constant of at most `LARGEST_CONTENT` elements."""
        tensor = stored(value)
        if tensor is not None:
            if tensor.size > LARGEST_CONTENT or tensor.dtype == ir.DataType.STRING:
                return None
            return tensor.numpy()
        if not self.is_constant(value):
            return None
        axes = self._axes.get(value)
        if axes is not None:
            total = self.factors.size(tuple(atom for expr in axes for atom in expr))
            if total is not None and total > LARGEST_CONTENT:
                return None
        array = constant(value)
        return None if array is None or array.size > LARGEST_CONTENT or array.dtype.kind not in "fiub" else array

    # ---- what the rules call --------------------------------------------------------------------------------------

    def operand(self, value: ir.Value, node: ir.Node, position: int) -> Axes | None:
        """The axes of a value as one node reads it."""
        own = self.own_copy.get((node, position))
        if own is not None:
            return own
        if value not in self._axes and self._shared_uniform(value):
            tensor = stored(value)
            if tensor is not None:
                own = [self.factors.axis(int(size)) for size in tensor.shape.numpy()]
                self.own_copy[node, position] = own
                return own
        return self.axes(value)

    def pin_list(self, value: ir.Value, node: ir.Node, position: int) -> None:
        """Say that a tensor is read as a list of numbers: its axes cannot change."""
        for expr in self.operand(value, node, position) or ():
            if expr:
                self.factors.note(expr, Pin("structure", "a list of numbers that an operator reads"))

    def give(self, value: ir.Value, axes: Axes) -> None:
        """Set the axes of a value."""
        self._axes[value] = axes

    def symbol(self, name: str) -> Expr:
        """The axis of unknown size that the model calls ``name``."""
        if name not in self._symbols:
            self._symbols[name] = self.factors.atom(None, Pin("dynamic", f"dynamic size '{name}'"), symbol=name)
        return (self._symbols[name],)

    def declared(self, value: ir.Value, *notes: Note) -> Axes | None:
        """New axes from what shape inference and the file say of a value."""
        if self._shapes is None:
            self._shapes = Shapes.of(self.model)
        dims = self._shapes.shape(value)
        return None if dims is None else [self._dim(dim, *notes) for dim in dims]

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type of a number computed from sizes, ``None`` when unknown. Read off the chain, not inferred."""
        here: ir.Value | None = value
        for _ in range(LONGEST_CHAIN):
            if here is None:
                return None
            tensor = stored(here)
            if here.dtype is not None or tensor is not None:
                return here.dtype if tensor is None else tensor.dtype
            node = here.producer()
            if node is None:
                return None
            if node.op_type in {"Shape", "Size"}:
                return ir.DataType.INT64
            if node.op_type == "Cast":
                return ir.DataType(node.attributes["to"].as_int())
            if node.op_type in _TRUTHS:
                return ir.DataType.BOOL
            here = node.inputs[1 if node.op_type == "Where" else 0] if node.inputs else None
        return None

    def walk(self, graph: ir.Graph | ir.Function, imports: dict[str, int]) -> None:
        """Read every node of a graph in order."""
        for node in graph:
            self.read(node, imports)

    def read(self, node: ir.Node, imports: dict[str, int]) -> None:
        """Read one node: contents if it is shape arithmetic, else by its rule; a barrier where neither applies."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain == "" and node.op_type == "Constant":
            return
        opset = imports.get(domain, imports.get("ai.onnx", 1) if domain == "" else 1)
        site = Site(self, node, opset, imports)
        inputs = [value for value in node.inputs if value is not None]
        constant_inputs = bool(inputs) and all(self.is_constant(value) for value in inputs)
        # What a body captures is no input: an If of a constant condition gives what its branches compute.
        known = constant_inputs and node.op_type not in _RANDOM and next(subgraphs(node), None) is None
        if known:
            for value in node.outputs:
                self._constants[value] = True
        try:
            if domain == "" and self._follow_content(site):
                return
            if known and self._compute(site):
                return
            follow = RULES.get((domain, node.op_type))
            if node.op_identifier() in self._functions:
                self._call(site, self._functions[node.op_identifier()])
            elif follow is None:
                name = f"{domain}.{node.op_type}" if domain else node.op_type
                raise Barrier(f"no rule for operator {name} (node '{node.name or node.outputs[0].name}')", "unknown-op")
            else:
                follow(site)
            if known:
                self._not_computed(site)
        except Barrier as barrier:
            self._stop(site, barrier)
        except RecursionError:
            self._stop(site, Barrier(f"axes at {site.label} are refined too deeply", "too-deep"))
        except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            # Inputs, attributes or ranks that the operator does not allow: ONNX Runtime would refuse the model too.
            self._stop(site, Barrier(f"{site.label} is malformed ({error})", "malformed"))
        self._freeze(site)

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _dim(self, dim: Any, *notes: Note) -> Expr:
        if isinstance(dim, int):
            return self.factors.axis(dim, *notes)
        if isinstance(dim, str) and dim and not notes:
            return self.symbol(dim)
        return self.factors.axis(None, *notes, symbol=dim if isinstance(dim, str) and dim else None)

    def _input(self, value: ir.Value) -> None:
        if value.shape is None:
            self._axes[value] = None
            return
        axes: Axes = []
        for axis, dim in enumerate(value.shape):
            pin = Pin("graph-input", f"graph input '{value.name}' axis {axis}")
            name = None if isinstance(dim, int) else dim.value
            axes.append(self.factors.axis(int(dim), pin) if isinstance(dim, int) else self._symbolic(name, pin))
        self._axes[value] = axes

    def _symbolic(self, name: str | None, pin: Pin) -> Expr:
        if not name or name == "?":
            return self.factors.axis(None, pin)
        expr = self.symbol(name)
        self.factors.note(expr, pin)
        return expr

    def _output(self, value: ir.Value) -> None:
        axes = self.axes(value)
        for axis, expr in enumerate(axes or ()):
            self.factors.note(expr, Pin("graph-output", f"graph output '{value.name}' axis {axis}"))
        content = self._contents.get(value)
        for number in () if content is None else content.reshape(-1):
            for expr in number.axes():
                self.factors.note(expr, Pin("graph-output", f"its size is told by graph output '{value.name}'"))

    def _stored_axes(self, value: ir.Value) -> Axes | None:
        tensor = stored(value)
        if tensor is None:
            return None
        notes: list[Note] = []
        if value.is_graph_input() and not self._freeze_inputs:
            notes.append(_overridable(value))
        axes = [self.factors.axis(int(size), *notes) for size in tensor.shape.numpy()]
        self._axes[value] = axes
        return axes

    def _shared_uniform(self, value: ir.Value) -> bool:
        known = self._uniform.get(value)
        if known is None:
            known = False
            tensor = stored(value)
            if (
                tensor is not None
                and len(value.uses()) > 1
                and 1 < tensor.size <= LARGEST_UNIFORM
                and tensor.dtype.is_floating_point()
                and not value.is_graph_input()
                and not value.is_graph_output()
            ):
                array = tensor.numpy().reshape(-1)
                known = bool((array == array[0]).all())
            self._uniform[value] = known
        return known

    def _follow_content(self, site: Site) -> bool:
        """Shape arithmetic; True when it was understood and the node needs no rule."""
        node = site.node
        if node.op_type in {"Shape", "Size"}:
            return self._shape_of(site)
        inputs = list(node.inputs)
        # What is stored is read when somebody asks; only what stems from a Shape is followed here.
        if not any(value in self._followed for value in inputs if value is not None):
            return False
        contents = [None if value is None else self.content(value) for value in inputs]
        if any(value is not None and content is None for value, content in zip(inputs, contents, strict=True)):
            return False
        out = evaluate_node(node, contents)
        if out is None:
            return False
        for value, content in zip(node.outputs, out, strict=False):
            if content.size > LARGEST_FLOAT_CONTENT and not self._integral(node, contents):
                return False
            self._set_content(value, np.asarray(content, dtype=object), site)
        for position, read in enumerate(inputs):
            if read is not None:
                self.pin_list(read, node, position)
        return True

    def _integral(self, node: ir.Node, contents: Sequence[Content | None]) -> bool:
        if node.op_type == "Cast":
            to = node.attributes["to"].value
            return ir.DataType(to).is_integer() or ir.DataType(to) == ir.DataType.BOOL
        numbers = [number for content in contents if content is not None for number in content.reshape(-1)]
        return not any(isinstance(number.value(self.factors.size), float) for number in numbers)

    def _set_content(self, value: ir.Value, content: Content, site: Site) -> None:
        self._contents[value] = content
        self._followed.add(value)
        self._axes[value] = [site.new(int(size), "structure", "a list of sizes") for size in content.shape]

    def _shape_of(self, site: Site) -> bool:
        node = site.node
        value = node.outputs[0]
        axes = self.operand(site.value(0), node, 0)
        if axes is None:
            self._axes[value] = self.declared(value, Pin("structure", "a list of sizes"))
            return True
        if node.op_type == "Size":
            content: Content = np.empty((), dtype=object)
            content[()] = Number(axis=tuple(atom for expr in axes for atom in expr))
        else:
            start, end = int(site.attribute("start", 0)), site.attribute("end")
            picked = axes[start : None if end is None else int(end)]
            content = np.empty(len(picked), dtype=object)
            listed = self._contents.get(site.value(0)) is not None  # the length of a list of sizes never changes
            for index, expr in enumerate(picked):
                content[index] = Number(axis=expr) if expr and not listed else Number(self.factors.size(expr))
        self._set_content(value, content, site)
        return True

    def _freeze(self, site: Site) -> None:
        """Sizes that leave the arithmetic of shapes and enter the computation must stay what they were."""
        for position, value in enumerate(site.node.inputs):
            content = None if value is None else self._contents.get(value)
            if value is None or content is None or position in site.shape_operands:
                continue
            numbers = [number for number in content.reshape(-1) if number.depends]
            if not numbers:
                continue
            for number in numbers:
                if number.value(self.factors.size) is None:
                    for expr in number.axes():
                        if self.factors.size(expr) is not None:
                            text = f"its size enters a computation at {site.label}"
                            self.factors.note(expr, Block("computed-shape", text))
            site.freeze(position, content)

    def _stop(self, site: Site, barrier: Barrier) -> None:
        note = Block(barrier.kind, barrier.reason)
        self.barriers.append((site.node, barrier.reason))
        for position, value in enumerate(site.node.inputs):
            if value is None:
                continue
            for expr in self.operand(value, site.node, position) or ():
                self.factors.note(expr, note)
            content = self._contents.get(value)
            if content is not None:
                for number in content.reshape(-1):
                    for expr in number.axes():
                        self.factors.note(expr, note)
        for value in _captured(site.node):
            for expr in self.axes(value) or ():
                self.factors.note(expr, note)
        for value in site.node.outputs:
            known = self._axes.get(value)
            if known is None:
                self._axes[value] = self.declared(value, note)
            else:
                for expr in known:
                    self.factors.note(expr, note)

    # ---- constants that no index map goes through -------------------------------------------------------------------

    def _compute(self, site: Site) -> bool:
        """Make the outputs of a node on constants tensors of their own; True when they are."""
        node = site.node
        if self._carries(node):
            return False
        outputs = [value for value in node.outputs if value.name]
        shapes = [self._computed_shape(value) for value in outputs]
        if any(shape is None for shape in shapes):
            return False
        for value, shape in zip(outputs, shapes, strict=True):
            self._computed[value] = None
            roots = () if self._freeze_inputs else chain(value).roots
            notes = [_overridable(root) for root in roots if root.is_graph_input()]
            self._axes[value] = [self.factors.axis(size, *notes) for size in shape or ()]
        return True

    def _carries(self, node: ir.Node) -> bool:
        """Whether what an index map does to a constant operand, its node does to the result."""
        if node.op_identifier() in self._functions:
            return True
        if node.op_type == "DequantizeLinear":
            return not _in_blocks(node)
        if node.op_type == "Gather":
            table = None if node.inputs[0] is None else self.axes(node.inputs[0])
            return table is None or len(table) > 1  # of a list of numbers, no axis is carried
        if node.op_type in _CARRIED or (node.op_type in _PER_ENTRY and _is_factor(node)):
            return True
        if node.op_type == "ConstantOfShape":
            given = node.attributes.get("value")
            return given is None or (not given.is_ref() and not np.any(given.as_tensor().numpy()))
        return node.op_type == "Expand" and node.inputs[0] is not None and _is_zero(node.inputs[0])

    def _computed_shape(self, value: ir.Value) -> tuple[int, ...] | None:
        """The shape of a value that is computed from stored numbers; ``None`` where it cannot be."""
        if not is_constant(value):
            return None
        source = chain(value)
        if sum(tensor.size for tensor in map(stored, source.roots) if tensor is not None) > LARGEST_TRIED:
            if self._shapes is None:
                self._shapes = Shapes.of(self.model)
            dims = self._shapes.shape(value)
            if dims is not None and all(isinstance(dim, int) for dim in dims):
                return tuple(int(dim) for dim in dims if isinstance(dim, int))
        array = constant(value)
        return None if array is None or array.dtype.kind in "OSU" else array.shape

    def _not_computed(self, site: Site) -> None:
        """Block a constant that cannot be computed here: entries of the tensors behind it are not its own entries."""
        if self._carries(site.node):
            return
        text = f"a constant that {site.label} computes in a way that is not followed"
        for value in site.node.outputs:
            for expr in self._axes.get(value) or ():
                for leaf in self.factors.leaves(expr):
                    if not self.factors.notes(leaf, Pin):
                        self.factors.note((leaf,), Block("computed-constant", text))

    # ---- model-local functions ------------------------------------------------------------------------------------

    def _call(self, site: Site, function: ir.Function) -> None:
        """Walk a function's body; where it was walked for an earlier call, couple what the two say of one value.

        One list of nodes serves all calls, so that what is changed in it is changed for all of them: an axis that goes
        through several calls is one group, and one whose size differs from call to call cannot change at all.
        """
        known = self._bodies.get(function.identifier())
        before = {} if known is None else {value: self._axes.get(value) for value in known}
        uses = len(self.uses)
        if known is not None:
            self._same_inputs(site, function)
            for inner in known:
                self._axes.pop(inner, None)
                self._contents.pop(inner, None)
                self._followed.discard(inner)
        for position, formal in enumerate(function.inputs):
            value = site.node.inputs[position] if position < len(site.node.inputs) else None
            if value is None:
                raise Barrier(f"{site.label} leaves out an input of function '{function.name}'")
            self._axes[formal] = self.operand(value, site.node, position)
            self._constants[formal] = self.is_constant(value)
            self.formals[value].append(formal)
            content = self._given(value)
            if content is not None:
                self._contents[formal] = content
                site.shape_operands.add(position)
        self.walk(function, function.opset_imports)
        given = [(self.axes(inner), self._contents.get(inner)) for inner in function.outputs]
        if known is None:
            inside = (output for node in function.all_nodes() for output in node.outputs)
            self._bodies[function.identifier()] = [
                value for value in (*function.inputs, *inside) if stored(value) is None
            ]
        else:
            del self.uses[uses:]  # what they would set, the first call's do
            for inner, axes in before.items():
                self._couple_calls(site, function, axes, self._axes.get(inner))
        for output, (inner_axes, content) in zip(site.node.outputs, given, strict=False):
            self._axes[output] = inner_axes
            if content is not None:
                self._contents[output] = content

    def _given(self, value: ir.Value) -> Content | None:
        """What a value that a function is called with holds, where it is a shape or the like."""
        return self.content(value) if self.is_constant(value) else self._contents.get(value)

    def _same_inputs(self, site: Site, function: ir.Function) -> None:
        """A barrier unless a further call gives the same numbers as shapes, and constants where the others do."""
        for formal, value in zip(function.inputs, site.node.inputs, strict=False):
            if value is None:
                continue
            one, two = self._contents.get(formal), self._given(value)
            shapes = [
                None if held is None else [number.value(self.factors.size) for number in held.reshape(-1)]
                for held in (one, two)
            ]
            moves = any(number.depends for held in (one, two) if held is not None for number in held.reshape(-1))
            if moves or shapes[0] != shapes[1] or self._constants.get(formal, False) != self.is_constant(value):
                raise Barrier(
                    f"function '{function.name}' is called more than once with different sizes or constants; "
                    "onnx.inliner writes it out at every call",
                    "shared-function",
                )

    def _couple_calls(self, site: Site, function: ir.Function, one: Axes | None, two: Axes | None) -> None:
        """Couple what two calls of a function say of one value of its body."""
        text = f"function '{function.name}' is called with different sizes; onnx.inliner writes it out at every call"
        if one is None or two is None or len(one) != len(two):
            for expr in (*(one or ()), *(two or ())):
                self.factors.note(expr, Block("shared-function", text))
            return
        for left, right in zip(one, two, strict=True):
            sizes = self.factors.size(left), self.factors.size(right)
            if self.factors.same(left, right) or (sizes == (1, 1) and not (left and right)):
                continue
            if sizes[0] is not None and sizes[0] == sizes[1]:
                site.unify(left, right)
            elif any(
                self.factors.size((leaf,)) is not None for expr in (left, right) for leaf in self.factors.leaves(expr)
            ):
                for expr in (left, right):
                    self.factors.note(expr, Block("shared-function", text))


def _overridable(value: ir.Value) -> Pin:
    return Pin("overridable", f"initializer '{value.name}' is a graph input too, which a caller may set")


def _in_blocks(node: ir.Node) -> bool:
    """Whether one scale serves a block of entries, whose size no index map keeps."""
    size = node.attributes.get("block_size")
    scale = node.inputs[1] if len(node.inputs) > 1 else None
    tensor = stored(scale)
    return (size is not None and not size.is_ref() and size.as_int() > 0) or (
        tensor is not None and len(tensor.shape) > 1
    )


def _is_factor(node: ir.Node) -> bool:
    """Whether a constant only multiplies activations, as the ``1 - a`` of a blend does."""
    uses = [use for output in node.outputs for use in output.uses()]
    return bool(uses) and all(
        user.op_type in ("Mul", "PRelu") and len(user.inputs) == 2 and not is_constant(user.inputs[1 - position])
        for user, position in uses
    )


def _is_zero(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and not np.any(array)


def _captured(node: ir.Node) -> Iterator[ir.Value]:
    """Values that the bodies of a node read or make."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        graphs: Sequence[ir.Graph] = ()
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = (attribute.as_graph(),)
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = tuple(attribute.as_graphs())
        for graph in graphs:
            for inner in graph.all_nodes():
                yield from (value for value in inner.inputs if value is not None)
                yield from inner.outputs
            yield from graph.inputs
            yield from graph.outputs
