"""Shapes and types of every value, derived from the operators.

A file's own ``value_info`` may be stale: whoever edited the model last need not have updated it. So inference
(`onnx.shape_inference`, the C++ one) starts from graph inputs and stored tensors alone; what the file declares of
inner values is used only where inference has nothing to say (custom operators, data-dependent shapes), and not at all
once a declared shape contradicts a derived one.

What is inferred is a copy built here: every value under a number of its own, so that shadowed, repeated or empty names
cannot mix values up, and tensors over `LARGEST_STORED` bytes as typed inputs, so that no weight is read or serialised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.errors import SelectionError
from onnxmorph.graph.constants import stored
from onnxmorph.graph.propagation import known_values

__all__ = ["Dims", "Shapes"]

Dims = tuple[int | str | None, ...]

LARGEST_STORED = 1024
"""Bytes; smaller tensors may be Reshape targets, axes, pads, which inference reads."""

_REFINEMENTS = 4
_INFERENCE_IR_VERSION = 10

_STAND_INS: dict[tuple[str, str], tuple[str, int]] = {
    **{
        ("com.microsoft", op): ("Identity", 1)
        for op in ("Gelu", "FastGelu", "QuickGelu", "BiasGelu", "RotaryEmbedding", "GroupNorm")
    },
    ("com.microsoft", "SkipLayerNormalization"): ("Identity", 1),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): ("Identity", 1),
    ("com.microsoft", "FusedConv"): ("Conv", 3),
    ("com.microsoft", "FusedGemm"): ("Gemm", 3),
    ("com.microsoft", "DequantizeLinear"): ("DequantizeLinear", 3),
    ("com.microsoft", "QuantizeLinear"): ("QuantizeLinear", 3),
    ("", "SimplifiedLayerNormalization"): ("Identity", 1),
    ("ai.onnx.ml", "Scaler"): ("Cast", 1),
    ("ai.onnx.ml", "Normalizer"): ("Cast", 1),
}
"""Operators inference knows nothing of, and a standard one with the same shape and type of the first output, given as
many of the inputs. A Cast is to float, which the operators of ``ai.onnx.ml`` give whatever they take."""


class Shapes:
    """Shapes and types of the values of one model, made once; a later edit of the model does not show here."""

    def __init__(self) -> None:
        self._shapes: dict[ir.Value, Dims | None] = {}
        self._dtypes: dict[ir.Value, ir.DataType] = {}
        self._declared: set[ir.Value] = set()
        self.ir_version: int | None = None
        """The model's, as far as the shapes are of one."""
        self.conflicts: list[str] = []
        """One line for each value whose declared shape contradicts what its operator gives."""
        self.failure: str | None = None
        """Why inference gave nothing at all, when it did; then only declared shapes are known."""

    @classmethod
    def of(cls, model: ir.Model, fixed: Mapping[str, Sequence[int | str | None]] | None = None) -> Shapes:
        """Infer the shapes of a model: main graph, bodies, and functions as far as their calls agree.

        Args:
            model: Left unchanged.
            fixed: Sizes for graph inputs by name, in place of what the model declares; a name or ``None`` in them
                stays unknown.

        Raises:
            SelectionError: `fixed` names no graph input, or contradicts a declared rank or size.
        """
        shapes = cls()
        shapes.ir_version = model.ir_version
        overrides = _overrides(model, fixed or {})
        inference = _refined(model, overrides)
        shapes.failure = inference.failure
        trials = _trials(model, overrides) if inference.unresolved() else None
        shapes._take(inference, trials)
        return shapes

    def shape(self, value: ir.Value) -> Dims | None:
        """Sizes; a name for a symbolic size, ``None`` for a size nobody knows. ``None`` as a whole: rank unknown.

        Equal names are equal sizes. Names beginning with ``unk__`` are inference's own, for sizes it could not tell.
        """
        known = self._shapes.get(value)
        if known is None and value not in self._shapes:
            tensor = stored(value)
            if tensor is not None:
                return tuple(int(size) for size in tensor.shape.numpy())
        return known

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type, ``None`` when unknown or not a tensor."""
        known = self._dtypes.get(value)
        if known is None:
            tensor = stored(value)
            return value.dtype if tensor is None else tensor.dtype
        return known

    def rank(self, value: ir.Value) -> int | None:
        """Number of axes, ``None`` when unknown."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def is_declared(self, value: ir.Value) -> bool:
        """Whether the shape (or a part of it) is only what the file says, not what the operators give."""
        return value in self._declared

    def _take(self, inference: _Inference, trials: _Trials | None) -> None:
        merged: list[tuple[ir.Value, Dims]] = []
        for value in inference.values():
            derived, dtype = inference.result(value)
            if trials is not None and value not in inference.trusted:
                derived = _completed(derived, trials.shape(value), inference.symbols)
            if dtype is not None:
                self._dtypes[value] = dtype
            self._shapes[value] = derived
            declared = _replaced(_declared_shape(value), inference.fixed_symbols)
            if declared is None or value in inference.trusted:
                continue
            if derived is None:
                merged.append((value, declared))
            elif _contradicts(derived, declared):
                self.conflicts.append(f"'{value.name}' is declared {_text(declared)} but is {_text(derived)}")
            elif any(
                _unknown(one, inference.symbols) and two is not None for one, two in zip(derived, declared, strict=True)
            ):
                both = zip(derived, declared, strict=True)
                filled = tuple(
                    two if _unknown(one, inference.symbols) and two is not None else one for one, two in both
                )
                merged.append((value, filled))
        if self.conflicts:
            return  # one false declaration: none is believed
        for value, dims in merged:
            self._shapes[value] = dims
            self._declared.add(value)


def _refined(model: ir.Model, overrides: Mapping[ir.Value, Dims]) -> _Inference:
    """Inference, repeated while sizes that the model computes settle more of its shapes."""
    inference = _Inference(model, overrides, {})
    for _ in range(_REFINEMENTS):
        if not inference.unresolved():
            break
        known = known_values(model, inference.sizes)
        if known.keys() <= inference.known.keys():
            break
        inference = _Inference(model, overrides, known)
    return inference


def _completed(derived: Dims | None, trial: Dims | None, symbols: set[str]) -> Dims | None:
    """`derived` with what inference could not name taken from the trials; they never overrule it."""
    if trial is None or derived is None:
        return derived if derived is not None else trial
    if len(trial) != len(derived):
        return derived
    pairs = zip(derived, trial, strict=True)
    return tuple(tried if _unknown(size, symbols) and tried is not None else size for size, tried in pairs)


class _Trials:
    """Sizes that do not hang on a symbolic one, found by inferring twice with numbers in place of the symbols.

    C++ inference does not cancel: of ``(N, 192, 4, 4)`` reshaped to ``(N, 192, -1)`` it cannot tell the last size. Two
    runs, N small and N large, both give 16. A size on which they agree is taken as fixed, one that is the symbol's
    number in both as the symbol; small and large, so that neither ``min(N, 5)`` nor ``ceil(N / 16)`` passes as fixed.
    """

    def __init__(self, first: _Inference, second: _Inference, names: Mapping[tuple[int, int], str]) -> None:
        self._first, self._second, self._names = first, second, names

    def shape(self, value: ir.Value) -> Dims | None:
        one, two = self._first.sizes(value), self._second.sizes(value)
        if one is None or two is None or len(one) != len(two):
            return None
        return tuple(self._size(*pair) for pair in zip(one, two, strict=True))

    def _size(self, one: int | str | None, two: int | str | None) -> int | str | None:
        if not isinstance(one, int) or not isinstance(two, int):
            return None
        return one if one == two else self._names.get((one, two))


def _trials(model: ir.Model, overrides: Mapping[ir.Value, Dims]) -> _Trials | None:
    numbers: dict[str, tuple[int, int]] = {}
    first: dict[ir.Value, Dims] = dict(overrides)
    second: dict[ir.Value, Dims] = dict(overrides)
    for value in model.graph.inputs:
        dims = overrides.get(value, _declared_shape(value))
        if dims is None or value.is_initializer() or all(isinstance(size, int) for size in dims):
            continue
        chosen = []
        for axis, size in enumerate(dims):
            if isinstance(size, int):
                chosen.append((size, size))
                continue
            key = size or f" {len(numbers)}"  # no symbol has a leading space
            if key not in numbers:
                count = len(numbers)
                # A batch may be any number; other sizes go through strides and skips, which want multiples.
                numbers[key] = (2 + count, 1009 + count) if axis == 0 else (256 + 64 * count, 4096 + 64 * count)
            chosen.append(numbers[key])
        first[value] = tuple(one for one, _ in chosen)
        second[value] = tuple(two for _, two in chosen)
    if not numbers:
        return None
    names = {pair: symbol for symbol, pair in numbers.items() if not symbol.startswith(" ")}
    return _Trials(_refined(model, first), _refined(model, second), names)


def _overrides(model: ir.Model, fixed: Mapping[str, Sequence[int | str | None]]) -> dict[ir.Value, Dims]:
    inputs = {value.name: value for value in model.graph.inputs}
    found: dict[ir.Value, Dims] = {}
    for name, sizes in fixed.items():
        if name not in inputs:
            known = ", ".join(f"'{each}'" for each in inputs if each)
            raise SelectionError(f"'{name}' is not an input of the model; its inputs are {known}")
        wanted: Dims = tuple(size if size is None or isinstance(size, str) else int(size) for size in sizes)
        declared = _declared_shape(inputs[name])
        if declared is not None and _contradicts(wanted, declared):
            raise SelectionError(f"input '{name}' is {_text(declared)}; {_text(wanted)} does not fit")
        found[inputs[name]] = wanted
    return found


def _replaced(dims: Dims | None, sizes: Mapping[str, int]) -> Dims | None:
    if dims is None or not sizes:
        return dims
    return tuple(sizes.get(size, size) if isinstance(size, str) else size for size in dims)


def _text(dims: Dims) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in dims) + ")"


def _contradicts(derived: Dims, declared: Dims) -> bool:
    if len(derived) != len(declared):
        return True
    pairs = zip(derived, declared, strict=True)
    return any(isinstance(one, int) and isinstance(two, int) and one != two for one, two in pairs)


def _unknown(size: int | str | None, symbols: set[str]) -> bool:
    """A size inference could not name: nothing, or a symbol of its own making."""
    return size is None or (isinstance(size, str) and size.startswith("unk__") and size not in symbols)


def _declared_shape(value: ir.Value) -> Dims | None:
    if value.shape is None:
        return None
    dims: list[int | str | None] = []
    for size in value.shape:
        if isinstance(size, int):
            # A negative or zero-by-convention size is how some exporters write "dynamic".
            dims.append(size if size >= 0 else None)
        else:
            dims.append(size.value or None)
    return tuple(dims)


class _Inference:
    """One run of C++ shape inference over a copy of the model in which every value has a number for a name."""

    def __init__(
        self, model: ir.Model, overrides: Mapping[ir.Value, Dims], known: Mapping[ir.Value, np.ndarray[Any, Any]]
    ) -> None:
        import onnx

        self._onnx: Any = onnx
        self._schemas: dict[tuple[str, str], bool] = {}
        self._overrides = overrides
        self.known = known
        self._names: dict[ir.Value, str] = {}
        self._types: dict[str, tuple[Dims | None, ir.DataType | None]] = {}
        self._calls: dict[ir.Function, list[ir.Node]] = {}
        self._functions = {function.identifier(): function for function in model.functions.values()}
        self._versions = dict(model.graph.opset_imports)
        self.symbols: set[str] = set()
        self.fixed_symbols: dict[str, int] = {}
        self.trusted: set[ir.Value] = set()
        """Values whose declared shape went into inference: nothing better was to be had."""
        self.failure: str | None = None
        self._model = model
        self._main(model)
        for function in _outer_first(model, self._functions):
            self._function(function)

    def values(self) -> Iterator[ir.Value]:
        return iter(self._names)

    def result(self, value: ir.Value) -> tuple[Dims | None, ir.DataType | None]:
        return self._types.get(self._names[value], (None, value.dtype))

    def sizes(self, value: ir.Value) -> Dims | None:
        """Derived sizes, those that inference itself could not name as ``None``."""
        tensor = stored(value)
        if tensor is not None:
            return tuple(int(size) for size in tensor.shape.numpy())
        return self._types.get(self._names.get(value, ""), (None, None))[0]

    def unresolved(self) -> bool:
        """Whether some shape has a part that inference could not name."""
        types = map(self.result, self._names)
        return any(dims is None or any(_unknown(size, self.symbols) for size in dims) for dims, _ in types)

    # Building the copy

    def _name(self, value: ir.Value | None) -> str:
        if value is None:
            return ""
        name = self._names.get(value)
        if name is None:
            name = self._names[value] = f"v{len(self._names)}"
        return name

    def _main(self, model: ir.Model) -> None:
        proto = self._empty(model.graph.opset_imports)
        for value in model.graph.inputs:
            if not value.is_initializer() or value in self._overrides:
                self._typed(proto.graph.input.add(), value, self._overrides.get(value, _declared_shape(value)))
                self.trusted.add(value)
        self.symbols = {
            size for value in model.graph.inputs for size in _declared_shape(value) or () if isinstance(size, str)
        }
        # A symbol that the caller gave a size for has that size in every declaration.
        for value, dims in self._overrides.items():
            for declared, size in zip(_declared_shape(value) or (), dims, strict=False):
                if isinstance(declared, str) and isinstance(size, int):
                    self.fixed_symbols[declared] = size
        self._graph(proto.graph, model.graph, proto.graph)
        for function in model.functions.values():
            self._function_proto(proto.functions.add(), function)
        self._run(proto)

    def _empty(self, versions: Mapping[str, int]) -> Any:
        proto = self._onnx.ModelProto(ir_version=_INFERENCE_IR_VERSION)
        proto.graph.name = "g"
        for domain, version in versions.items():
            proto.opset_import.add(domain=domain, version=version)
        return proto

    def _typed(self, info: Any, value: ir.Value, dims: Dims | None, dtype: ir.DataType | None = None) -> None:
        info.name = self._name(value)
        dtype = dtype or value.dtype
        if isinstance(value.type, ir.SequenceType | ir.OptionalType | ir.SparseTensorType):
            ir.serde.serialize_type_into(info.type, value.type)
            return
        if dtype is None:
            return
        tensor = info.type.tensor_type
        tensor.elem_type = dtype.value
        if dims is None:
            return
        tensor.shape.SetInParent()
        for size in dims:
            dimension = tensor.shape.dim.add()
            if isinstance(size, int):
                dimension.dim_value = size
            elif size is not None:
                dimension.dim_param = size

    def _graph(self, proto: Any, graph: ir.Graph | ir.Function, top: Any) -> None:
        """Initializers, nodes and outputs of one scope; what is too large to carry becomes a typed input of `top`.

        `top` is ``None`` in the body of a function.
        """
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value not in self._overrides:
                    self._stored(proto, value, top)
        for node in graph:
            self._node(proto, node, top)
        for value in graph.outputs:
            proto.output.add().name = self._name(value)

    def _stored(self, proto: Any, value: ir.Value, top: Any) -> None:
        tensor = value.const_value
        if tensor is None:
            if top is not None:
                self._typed(top.input.add(), value, _declared_shape(value))
        elif top is not None and value.is_graph_input() and self._model.ir_version >= 4:
            # A caller may feed other numbers, though not of another type.
            self._typed(top.input.add(), value, tuple(int(size) for size in tensor.shape.numpy()), tensor.dtype)
        elif tensor.nbytes > LARGEST_STORED or tensor.dtype == ir.DataType.STRING:
            if top is None:  # in the body of a function there is no place for an input
                typed = proto.initializer.add(dims=tensor.shape.numpy(), data_type=tensor.dtype.value)
                typed.name = self._name(value)
                return
            self._typed(top.input.add(), value, tuple(int(size) for size in tensor.shape.numpy()), tensor.dtype)
        else:
            small = proto.initializer.add(dims=tensor.shape.numpy(), data_type=tensor.dtype.value)
            small.raw_data = tensor.tobytes()
            small.name = self._name(value)

    def _node(self, proto: Any, node: ir.Node, top: Any) -> None:
        if top is not None and node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            tensor = stored(node.outputs[0])
            if tensor is not None and tensor.nbytes > LARGEST_STORED:
                dims = tuple(int(size) for size in tensor.shape.numpy())
                self._typed(top.input.add(), node.outputs[0], dims, tensor.dtype)
                return
        if top is not None and self.known and node.outputs and all(value in self.known for value in node.outputs):
            for value in node.outputs:
                numbers = self.known[value]
                dtype = ir.DataType.from_numpy(numbers.dtype)
                small = proto.initializer.add(dims=numbers.shape, data_type=dtype.value, name=self._name(value))
                small.raw_data = np.ascontiguousarray(numbers).tobytes()
            return
        function = self._functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            self._calls.setdefault(function, []).append(node)
        stand_in = None if function is not None else _STAND_INS.get((node.domain, node.op_type))
        if stand_in is not None:
            self._stand_in(proto, node, *stand_in)
            return
        copy = proto.node.add(op_type=node.op_type, domain=node.domain)
        if node.overload:
            copy.overload = node.overload
        copy.input.extend([self._name(value) for value in node.inputs])
        copy.output.extend([self._name(value) if value.name else "" for value in node.outputs])
        for attribute in node.attributes.values():
            self._attribute(copy.attribute.add(), attribute, top)
        if function is None and top is not None and not self._has_schema(node):
            # Nothing to derive from: the file's word is all there is.
            for value in node.outputs:
                if value.name and value.type is not None:
                    self._typed(proto.value_info.add(), value, _declared_shape(value))
                    self.trusted.add(value)

    def _stand_in(self, proto: Any, node: ir.Node, op: str, inputs: int) -> None:
        copy = proto.node.add(op_type=op)
        copy.input.extend([self._name(value) for value in node.inputs[:inputs]])
        copy.output.append(self._name(node.outputs[0]))
        if op == "Cast":
            copy.attribute.add(name="to", type=2, i=ir.DataType.FLOAT.value)
        elif inputs > 1:
            for attribute in node.attributes.values():
                self._attribute(copy.attribute.add(), attribute, None)

    def _has_schema(self, node: ir.Node) -> bool:
        known = self._schemas.get((node.domain, node.op_type))
        if known is None:
            domain = "" if node.domain == "ai.onnx" else node.domain
            version = self._versions.get(domain, self._versions.get("ai.onnx", 1) if not domain else 1)
            known = self._schemas[node.domain, node.op_type] = bool(self._onnx.defs.has(node.op_type, version, domain))
        return known

    def _attribute(self, copy: Any, attribute: ir.Attr, top: Any) -> None:
        kind = attribute.type.name
        if attribute.is_ref():
            copy.name, copy.ref_attr_name, copy.type = attribute.name, attribute.ref_attr_name, attribute.type.value
        elif kind in ("GRAPH", "GRAPHS"):
            copy.name, copy.type = attribute.name, attribute.type.value
            bodies = [attribute.as_graph()] if kind == "GRAPH" else attribute.as_graphs()
            for body in bodies:
                inner = copy.g if kind == "GRAPH" else copy.graphs.add()
                inner.name = "b"
                for value in body.inputs:
                    self._typed(inner.input.add(), value, None)
                self._graph(inner, body, top)
        elif kind == "TENSOR" and attribute.value.nbytes > LARGEST_STORED:
            tensor = attribute.value  # only its type can matter to inference
            copy.name, copy.type = attribute.name, attribute.type.value
            copy.t.data_type = tensor.dtype.value
            copy.t.dims.extend(tensor.shape.numpy())
        else:
            ir.serde.serialize_attribute_into(copy, attribute)

    # Functions

    def _function_proto(self, proto: Any, function: ir.Function) -> None:
        """The function as inference needs it to see through its calls; its large constants keep their type only."""
        proto.name, proto.domain = function.name, function.domain
        if function.overload:
            proto.overload = function.overload
        proto.input.extend([self._name(value) for value in function.inputs])
        proto.output.extend([self._name(value) for value in function.outputs])
        for attribute in function.attributes.values():
            if attribute.value is None:
                proto.attribute.append(attribute.name)
            else:
                ir.serde.serialize_attribute_into(proto.attribute_proto.add(), attribute)
        for domain, version in function.opset_imports.items():
            proto.opset_import.add(domain=domain, version=version)
        for node in function:
            self._node(proto, node, None)

    def _function(self, function: ir.Function) -> None:
        """Infer a function's body from the types its calls agree on, with the attributes they agree on."""
        calls = self._calls.get(function, [])
        proto = self._empty(function.opset_imports or self._versions)
        for position, value in enumerate(function.inputs):
            given = [call.inputs[position] for call in calls if position < len(call.inputs)]
            types = [self.result(each) for each in given if each is not None and each in self._names]
            dims = _agreed([dims for dims, _ in types])
            dtypes = {dtype for _, dtype in types}
            dtype = dtypes.pop() if len(dtypes) == 1 else None
            self._typed(proto.graph.input.add(), value, dims, dtype)
        self._graph(proto.graph, function, proto.graph)
        for inner in self._called_from(function):
            self._function_proto(proto.functions.add(), inner)
        self._run(proto, f".{function.domain}::{function.name}")

    def _called_from(self, function: ir.Function) -> list[ir.Function]:
        """What a function calls, also through others, without itself: all that inferring its body needs."""
        found: dict[ir.Function, None] = {}
        waiting = [function]
        while waiting:
            for node in waiting.pop().all_nodes():
                called = self._functions.get((node.domain, node.op_type, node.overload))
                if called is not None and called is not function and called not in found:
                    found[called] = None
                    waiting.append(called)
        return list(found)

    # Running

    def _run(self, proto: Any, suffix: str = "") -> None:
        from onnx import shape_inference

        try:
            inferred = shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        except Exception as error:
            # The library raises what its C++ threw; the declared shapes are still there to fall back on.
            self.failure = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            inferred = proto
        self._read(inferred.graph, suffix)

    def _read(self, graph: Any, suffix: str) -> None:
        """Take the results; `suffix` keeps apart the symbols that two runs made up."""
        for tensor in graph.initializer:
            self._types[tensor.name] = (tuple(tensor.dims), ir.DataType(tensor.data_type))
        for infos in (graph.input, graph.value_info, graph.output):
            for info in infos:
                self._types[info.name] = _type_of(info, suffix)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self._read(attribute.g, suffix)
                for body in attribute.graphs:
                    self._read(body, suffix)


def _type_of(info: Any, suffix: str) -> tuple[Dims | None, ir.DataType | None]:
    if info.type.WhichOneof("value") != "tensor_type":
        return None, None
    tensor = info.type.tensor_type
    dtype = ir.DataType(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return None, dtype
    dims: list[int | str | None] = []
    for dimension in tensor.shape.dim:
        which = dimension.WhichOneof("value")
        if which == "dim_value":
            dims.append(dimension.dim_value if dimension.dim_value >= 0 else None)
        else:
            symbol = dimension.dim_param if which else ""
            dims.append(symbol + suffix if symbol.startswith("unk__") else symbol or None)
    return tuple(dims), dtype


def _agreed(shapes: list[Dims | None]) -> Dims | None:
    first = shapes[0] if shapes else None
    if first is None or any(each is None or len(each) != len(first) for each in shapes):
        return None
    columns = zip(*(each for each in shapes if each is not None), strict=True)
    return tuple(column[0] if len(set(column)) == 1 else None for column in columns)


def _outer_first(model: ir.Model, functions: Mapping[Any, ir.Function]) -> list[ir.Function]:
    """Functions so that a caller comes before what it calls (ONNX forbids recursion)."""
    order: list[ir.Function] = []
    seen: set[ir.Function] = set()
    stack = [(function, False) for function in model.functions.values()]
    while stack:
        function, expanded = stack.pop()
        if expanded:
            order.append(function)
            continue
        if function in seen:
            continue
        seen.add(function)
        stack.append((function, True))
        for node in function.all_nodes():
            called = functions.get((node.domain, node.op_type, node.overload))
            if called is not None:
                stack.append((called, False))
    return order[::-1]
