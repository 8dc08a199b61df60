"""Finding linear layers: what each operator's inputs and attributes mean, and why a layer cannot be touched."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.affine import only_user, per_channel
from onnxmorph.graph.attributes import WrongAttribute, floating, integer, integers, text
from onnxmorph.graph.constants import ConstantSource, chain, is_constant, stored
from onnxmorph.graph.equations import read as read_equation
from onnxmorph.graph.kernels import WeightForm
from onnxmorph.graph.labels import article, label
from onnxmorph.graph.layers import ONLY_WIDTH, LinearLayer
from onnxmorph.graph.padding import Pads, convolution_pads, transpose_pads
from onnxmorph.graph.recurrent import Cell, is_recurrent, read_cell
from onnxmorph.graph.scopes import Scope, node_label, nodes
from onnxmorph.graph.shapes import Dims, Shapes
from onnxmorph.graph.unreadable import weight_input

__all__ = ["find"]

_FLOATS = frozenset(("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"))
_STANDARD = ("", "ai.onnx")
_LAYOUT = frozenset(("Identity", "Transpose", "Reshape", "Cast", "CastLike"))


@dataclass
class _Found:
    """A layer in the making; what stays unset is unknown, which only a blocked layer may keep."""

    scope: Scope
    node: ir.Node
    input: ir.Value
    weight: ConstantSource
    form: WeightForm
    in_channels: int = 0
    out_channels: int = 0
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: Pads | None = None
    bias: ConstantSource | None = None
    bias_node: ir.Node | None = None
    bias_scale: float = 1.0
    input_axis: int = 1
    output_axis: int = 1
    blocked: Refusal | None = None
    shared_with: list[int] = field(default_factory=list)
    cell: Cell | None = None

    @property
    def output(self) -> ir.Value:
        # The first that is given: of an LSTM whose states alone are read, Y has no name.
        outputs = (self.bias_node or self.node).outputs
        return next((value for value in outputs if value.name), outputs[0])

    def block(self, code: str, reason: str, way_out: str | None = None) -> None:
        """The first reason stands: it is the one nearest to the cause."""
        if self.blocked is None:
            self.blocked = Refusal(f"'{node_label(self.node)}': {reason}", way_out=way_out, code=code)


def find(model: ir.Model, shapes: Shapes) -> list[LinearLayer]:
    """Every linear layer of a model, in the order of `onnxmorph.graph.scopes.nodes`."""
    return _Search(model, shapes).run()


class _Search:
    def __init__(self, model: ir.Model, shapes: Shapes) -> None:
        self._model = model
        self._shapes = shapes
        self._constant_at_calls = _constant_at_calls(model)

    def run(self) -> list[LinearLayer]:
        found = [each for scope, node in nodes(self._model) if (each := self._read(scope, node)) is not None]
        users: dict[ir.Value, list[int]] = {}
        for position, each in enumerate(found):
            if each.weight.root is not None:
                users.setdefault(each.weight.root, []).append(position)
        keys = [f"{each.scope.path}::{each.output.name}" for each in found]
        return [
            self._finished(
                position,
                each,
                keys,
                [other for other in users.get(each.weight.root, ()) if other != position],  # type: ignore[arg-type]
            )
            for position, each in enumerate(found)
        ]

    def _read(self, scope: Scope, node: ir.Node) -> _Found | None:
        try:
            return self._understood(scope, node)
        except WrongAttribute as error:
            found = self._start(scope, node, 0, 1)
            if found is not None:
                referred = any(attribute.is_ref() for attribute in node.attributes.values())
                found.block("function-attribute" if referred else "malformed", str(error))
            return found

    def _understood(self, scope: Scope, node: ir.Node) -> _Found | None:
        if node.domain in _STANDARD:
            if node.op_type in ("Conv", "ConvTranspose"):
                return self._convolution(scope, node)
            if node.op_type == "Gemm":
                return self._gemm(scope, node)
            if node.op_type == "MatMul":
                return self._matmul(scope, node)
            if node.op_type == "Einsum":
                return self._einsum(scope, node)
            if is_recurrent(node):
                return self._recurrent(scope, node)
        return self._blocked_operator(scope, node)

    # Operators

    def _convolution(self, scope: Scope, node: ir.Node) -> _Found | None:
        found = self._start(scope, node, 0, 1)
        if found is None:
            return None
        transposed = node.op_type == "ConvTranspose"
        groups = integer(node, "group", 1)
        dims = self._weight_dims(found)
        if dims is None:
            return found
        axes = len(dims) - 2
        if not 1 <= axes <= 3:
            found.block(
                "malformed", f"a {node.op_type} weight of shape {dims} has {max(axes, 0)} kernel axes, not 1 to 3"
            )
            return found
        if groups < 1 or dims[0] % groups:
            found.block("malformed", f"{groups} groups do not divide the weight's first size {dims[0]}")
            return found
        found.form = WeightForm(node.op_type, groups)
        found.kernel = dims[2:]
        found.strides = integers(node, "strides", (1,) * axes)
        found.dilations = integers(node, "dilations", (1,) * axes)
        if transposed:
            found.in_channels, found.out_channels = dims[0], dims[1] * groups
        else:
            found.in_channels, found.out_channels = dims[1] * groups, dims[0]
        explicit = integers(node, "pads", (0,) * (2 * axes))
        added = integers(node, "output_padding", (0,) * axes)
        stated = integers(node, "kernel_shape", found.kernel)
        wanted = integers(node, "output_shape", ())
        lengths = (len(found.strides), len(found.dilations), len(explicit) // 2, len(added), len(stated))
        if lengths != (axes,) * 5 or len(explicit) % 2 or min((*found.strides, *found.dilations)) < 1:
            found.block("malformed", f"its strides, dilations or pads do not fit {axes} kernel axes")
            return found
        if stated != found.kernel:
            found.block("malformed", f"its kernel_shape {stated} is not that of its weight {found.kernel}")
        auto_pad = text(node, "auto_pad", "NOTSET")
        if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            found.block("malformed", f"auto_pad '{auto_pad}' is not one of ONNX's")
            return found
        shape = self._input_dims(found, axes + 2)
        sizes: Dims = shape[2:] if shape is not None else (None,) * axes
        if transposed:
            if wanted and len(wanted) not in (axes, axes + 2):
                found.block("malformed", f"its output_shape {wanted} does not fit {axes} kernel axes")
                return found
            found.pads = transpose_pads(
                auto_pad,
                explicit,
                found.kernel,
                strides=found.strides,
                dilations=found.dilations,
                sizes=sizes,
                output_padding=added,
                output_shape=wanted or None,
            )
        else:
            found.pads = convolution_pads(
                auto_pad, explicit, found.kernel, strides=found.strides, dilations=found.dilations, sizes=sizes
            )
        if any(pad is not None and pad < 0 for pad in (*found.pads.begin, *found.pads.end)):
            found.block("malformed", "negative padding is no padding ONNX defines for it")
        self._bias_input(found, 2, axes + 2)
        return found

    def _gemm(self, scope: Scope, node: ir.Node) -> _Found | None:
        if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
            return None
        right, left = is_constant(node.inputs[1]), is_constant(node.inputs[0])
        if right and left:
            return None
        on_the_left = left and not right
        found = self._start(scope, node, 1 if on_the_left else 0, 0 if on_the_left else 1)
        if found is None:
            return None
        transposed_left, transposed_right = bool(integer(node, "transA", 0)), bool(integer(node, "transB", 0))
        alpha, beta = floating(node, "alpha", 1.0), floating(node, "beta", 1.0)
        dims = self._weight_dims(found)
        if dims is None:
            return found
        if len(dims) != 2:
            found.block("malformed", f"a Gemm weight has two axes, not shape {dims}")
            return found
        if on_the_left:
            found.form = WeightForm("Gemm", out_first=not transposed_left, scale=alpha)
            found.input_axis, found.output_axis = (1 if transposed_right else 0), 0
        else:
            found.form = WeightForm("Gemm", out_first=transposed_right, scale=alpha)
            found.input_axis, found.output_axis = (0 if transposed_left else 1), 1
        found.out_channels, found.in_channels = dims if found.form.out_first else dims[::-1]
        found.bias_scale = beta
        if alpha == 0 or not math.isfinite(alpha):
            found.block("malformed", f"alpha is {alpha}: its weight has no effect that could be factorised")
        if on_the_left:
            found.block(
                "weight-on-the-left", "its weight is the left operand, so that channels lie along the first axis"
            )
        self._input_dims(found, 2)
        self._bias_input(found, 2, 2)
        return found

    def _matmul(self, scope: Scope, node: ir.Node) -> _Found | None:
        if len(node.inputs) != 2 or node.inputs[0] is None or node.inputs[1] is None:
            return None
        left, right = (is_constant(value) for value in node.inputs)
        if left and right:
            return None
        if not left and not right:
            # Two activations, as in attention, unless a function is handed its weight.
            left, right = (self._is_call_constant(value) for value in node.inputs)
            if left == right:
                return None
        on_the_left = left
        found = self._start(scope, node, 1 if on_the_left else 0, 0 if on_the_left else 1)
        if found is None:
            return None
        found.input_axis = found.output_axis = -2 if on_the_left else -1
        dims = self._weight_dims(found)
        if dims is None:
            return found
        if len(dims) < 2:
            found.block(
                "vector-weight", f"its weight is a vector of {dims[0] if dims else 1}; its output has no channel axis"
            )
            return found
        out_first = on_the_left
        found.form = WeightForm("MatMul", out_first=out_first)
        found.out_channels, found.in_channels = dims[-2:] if out_first else dims[:-3:-1]
        if len(dims) > 2:
            found.block("batched-weight", f"its weight of shape {dims} is a stack of matrices")
            return found
        shape = self._input_dims(found, None)
        if on_the_left and (shape is None or len(shape) < 2):
            found.block(
                "weight-on-the-left",
                "its weight is the left operand, and whether its input has a second axis is unknown",
            )
        self._bias_node(found)
        return found

    def _einsum(self, scope: Scope, node: ir.Node) -> _Found | None:
        """An Einsum with one constant operand, where its equation is that of a linear layer."""
        operands = [value for value in node.inputs if value is not None]
        constants = [position for position, value in enumerate(operands) if is_constant(value)]
        if len(operands) != 2 or len(constants) != 1 or len(operands) != len(node.inputs):
            return None
        found = self._start(scope, node, 1 - constants[0], constants[0])
        dims = None if found is None else self._weight_dims(found)
        if found is None or dims is None:
            return found
        equation = read_equation(text(node, "equation", ""), constants[0], dims)
        if isinstance(equation, str):
            found.block("unsupported-op", equation, "export it as MatMul")
            return found
        found.form = WeightForm("Einsum", equation=equation)
        found.in_channels, found.out_channels = equation.in_channels, equation.out_channels
        found.input_axis, found.output_axis = equation.input_axis, equation.output_axis
        if equation.plain:
            self._input_dims(found, None)
            self._bias_node(found)
        return found

    def _recurrent(self, scope: Scope, node: ir.Node) -> _Found | None:
        """LSTM, GRU, RNN: listed, and of fixed width too where a tensor of theirs is not known before a run."""
        found = self._start(scope, node, 0, 1)
        dims = None if found is None else self._weight_dims(found)
        if found is None or dims is None:
            return found
        cell = read_cell(node, dims)
        if isinstance(cell, str):
            found.block("malformed", cell)
            return found
        found.cell, found.in_channels, found.out_channels = cell, cell.inputs, cell.hidden
        found.input_axis = found.output_axis = -1
        for what, position in (("recurrence weight", 2), ("bias", 3), ("peepholes", 7)):
            given = node.inputs[position] if position < len(node.inputs) else None
            if given is None:
                continue
            source = chain(given, ir_version=self._model.ir_version)
            if source.reason is not None:
                found.block("weight-not-constant", f"its {what} is not known before a run: {source.reason}")
            elif source.overridable:
                found.block(
                    "weight-overridable",
                    f"its {what} '{given.name}' is also a graph input, so a caller may replace it",
                    "fold --only freeze makes it a constant",
                )
            elif position == 3:
                found.bias = source
        found.block(
            ONLY_WIDTH,
            f"{article(node.op_type)} feeds its result back at every time step, so that only its hidden size can be"
            " morphed",
            "widen and shrink do that",
        )
        return found

    def _blocked_operator(self, scope: Scope, node: ir.Node) -> _Found | None:
        known = weight_input(node.domain, node.op_type)
        if known is None:
            return None
        reason, position = known
        if node.op_type in ("MatMulInteger", "ConvInteger", "QLinearMatMul") and len(node.inputs) > position:
            operand = node.inputs[position]
            if operand is None or not is_constant(operand):
                return None  # two activations, as in attention
        found = self._start(scope, node, 0, position)
        if found is None:
            return None
        found.blocked = None
        found.block("unsupported-op", reason)
        shape = found.weight.shape if found.weight.root is found.weight.value else None
        if shape is not None and len(shape) == 2 and "MatMul" in node.op_type and "NBits" not in node.op_type:
            found.in_channels, found.out_channels = shape
        elif shape is not None and len(shape) > 2 and "Conv" in node.op_type and "Transpose" not in node.op_type:
            groups = integer(node, "group", 1)
            found.out_channels, found.in_channels, found.kernel = shape[0], shape[1] * groups, tuple(shape[2:])
            found.form = replace(found.form, groups=max(groups, 1))
        return found

    # Parts

    def _start(self, scope: Scope, node: ir.Node, data: int, weight: int) -> _Found | None:
        if len(node.inputs) <= max(data, weight) or not node.outputs:
            return None  # not a valid model; the checker's business
        used, weighed = node.inputs[data], node.inputs[weight]
        if used is None or weighed is None:
            return None
        source = chain(weighed, ir_version=self._model.ir_version)
        found = _Found(scope, node, used, source, WeightForm(node.op_type))
        if source.reason is not None:
            if scope.function is not None and self._is_call_constant(weighed):
                found.block(
                    "weight-is-function-input",
                    f"its weight is the input '{weighed.name}' of '{scope.function.name}', another one for every call",
                    "widen and shrink do that; for other morphs inline the function, as onnx.inliner does",
                )
            else:
                found.block("weight-not-constant", f"its weight is not known before a run: {source.reason}")
        elif source.overridable:
            found.block(
                "weight-overridable",
                f"its weight '{weighed.name}' is also a graph input, so a caller may replace it",
                "fold --only freeze makes it a constant",
            )
        return found

    def _weight_dims(self, found: _Found) -> tuple[int, ...] | None:
        """Sizes of the weight, with the refusals that hang on it; ``None`` when they cannot be told."""
        value = found.weight.value
        dims: tuple[int, ...] | None = None
        derived = None if stored(value) is not None else self._shapes.shape(value)
        if (
            derived is not None
            and all(isinstance(size, int) for size in derived)
            and not self._shapes.is_declared(value)
        ):
            dims = tuple(size for size in derived if isinstance(size, int))
        elif found.weight.root is not None:
            dims = found.weight.shape
        if dims is None:
            found.block("weight-not-constant", f"its weight '{value.name}' cannot be computed before a run")
            return None
        dtype = self._dtype(value)
        if dtype.name not in _FLOATS:
            found.block(
                "dtype-unsupported", f"its weight is {dtype.name}; float32, float64, float16 or bfloat16 is needed"
            )
        if 0 in dims:
            found.block("empty-weight", f"its weight of shape {dims} has no elements")
        return dims

    def _dtype(self, value: ir.Value) -> ir.DataType:
        return self._shapes.dtype(value) or ir.DataType.UNDEFINED

    def _input_dims(self, found: _Found, rank: int | None) -> Dims | None:
        """The input's shape when it is known to fit the weight; blocks the layer when it is known not to."""
        shape = self._shapes.shape(found.input)
        if shape is None or self._shapes.is_declared(found.input):
            return None if shape is None or (rank is not None and len(shape) != rank) else shape
        if rank is not None and len(shape) != rank:
            found.block("malformed", f"its input has {len(shape)} axes where its weight needs {rank}")
            return None
        if not shape:
            found.block("malformed", "its input is a scalar")
            return None
        if not -len(shape) <= found.input_axis < len(shape):
            return shape  # W @ x with a vector x
        channels = shape[found.input_axis]
        if isinstance(channels, int) and channels != found.in_channels:
            found.block("malformed", f"its input has {channels} channels where its weight takes {found.in_channels}")
        return shape

    def _bias_input(self, found: _Found, position: int, rank: int) -> None:
        given = found.node.inputs[position] if len(found.node.inputs) > position else None
        if given is None:
            self._bias_node(found)
            return
        source = chain(given, ir_version=self._model.ir_version)
        if source.reason is not None:
            found.block("bias-not-constant", f"its bias is not known before a run: {source.reason}")
            return
        if source.overridable:
            found.block(
                "bias-overridable",
                f"its bias '{given.name}' is also a graph input, so a caller may replace it",
                "fold --only freeze makes it a constant",
            )
        found.bias = source
        dims = source.shape
        if found.node.op_type == "Gemm":
            allowed = dims is not None and _along_one_axis(dims, found.output_axis - rank, found.out_channels, rank)
        else:
            allowed = dims == (found.out_channels,)
        if not allowed:
            found.block("bias-not-per-channel", f"its bias of shape {dims} is not one number per output channel")

    def _bias_node(self, found: _Found) -> None:
        """The Add or Sub after it that adds one number per output channel, taken as the bias."""
        output = found.node.outputs[0]
        adder = only_user(output)
        if (
            adder is None
            or adder.domain not in _STANDARD
            or adder.op_type not in ("Add", "Sub")
            or len(adder.inputs) != 2
        ):
            return
        if "broadcast" in adder.attributes:
            return  # the broadcasting of opsets before 7
        first = adder.inputs[0] is output
        if adder.op_type == "Sub" and not first:
            return  # c - y negates the layer
        other = adder.inputs[1 if first else 0]
        if other is None or not is_constant(other):
            return
        rank = self._shapes.rank(output)
        if rank is None and found.kernel:
            rank = len(found.kernel) + 2
        numbers = per_channel(other, found.output_axis, rank, found.out_channels)
        if numbers is None or numbers.size != found.out_channels:
            return  # one number for all channels is more likely part of an activation, such as Clip(y + 3, 0, 6)
        source = chain(other, ir_version=self._model.ir_version)
        if source.overridable:
            return
        found.bias, found.bias_node = source, adder
        found.bias_scale = -1.0 if adder.op_type == "Sub" else 1.0

    def _is_call_constant(self, value: ir.Value | None) -> bool:
        """Whether a value inside a function is, but for its layout, an input that some call gives a constant for."""
        here = value
        while here is not None:
            if here in self._constant_at_calls:
                return True
            node = here.producer()
            if (
                node is None
                or node.op_type not in ("Identity", "Transpose", "Reshape", "Cast", "CastLike")
                or not node.inputs
            ):
                return False
            here = node.inputs[0]
        return False

    def _finished(self, index: int, found: _Found, keys: list[str], others: list[int]) -> LinearLayer:
        node, output = found.node, found.output
        root = found.weight.root
        bias = None if found.bias is None else found.bias.root
        return LinearLayer(
            index=index,
            key=keys[index],
            name=node_label(node),
            label=label(_name(root, others), _name(bias, []), node.name, output.name, node.op_type),
            op=node.op_type,
            node=node,
            nodes=(node,) if found.bias_node is None else (node, found.bias_node),
            graph=found.scope.graph,
            scope=found.scope.path,
            input=found.input,
            output=output,
            in_channels=found.in_channels,
            out_channels=found.out_channels,
            kernel=found.kernel,
            groups=found.form.groups,
            strides=found.strides or (1,) * len(found.kernel),
            dilations=found.dilations or (1,) * len(found.kernel),
            pads=found.pads,
            dtype=self._dtype(found.weight.value),
            weight=found.weight,
            bias=found.bias,
            shared_with=tuple(keys[other] for other in others),
            blocked=found.blocked,
            form=found.form,
            input_axis=found.input_axis,
            output_axis=found.output_axis,
            bias_scale=found.bias_scale,
            repeated=found.scope.repeated,
            shapes=self._shapes,
            cell=found.cell,
        )


def _name(root: ir.Value | None, others: list[int]) -> str | None:
    return None if root is None or others else root.name


def _constant_at_calls(model: ir.Model) -> set[ir.Value]:
    """Function inputs that at least one call gives a constant for, also through calls of calls."""
    functions = {function.identifier(): function for function in model.functions.values()}
    if not functions:
        return set()
    calls: list[tuple[ir.Node, ir.Function]] = []
    for _scope, node in nodes(model):
        called = functions.get((node.domain, node.op_type, node.overload))
        if called is not None:
            calls.append((node, called))
    constants: set[ir.Value] = set()
    while True:
        before = len(constants)
        for node, function in calls:
            for given, taken in zip(node.inputs, function.inputs, strict=False):
                if given is not None and taken not in constants and (given in constants or is_constant(given)):
                    constants.add(taken)
        if len(constants) == before:
            return constants


def _along_one_axis(dims: tuple[int, ...], axis: int, channels: int, rank: int) -> bool:
    """Whether a shape, broadcast from the right, varies at most along one axis (counted from the back)."""
    if len(dims) > rank:
        return False
    return all(size == 1 or (size == channels and position - len(dims) == axis) for position, size in enumerate(dims))
