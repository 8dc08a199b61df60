"""What new channels must hold so that everything that mixes channels still gives what it gave: a walk from the readers.

A new channel of a value is described by a *functional* ``a``, one number per channel of the parent: the new channel
holds ``sum_j a_j x_j``. Two are needed: ``a = 1/h`` (the mean over the channels) in front of what subtracts a mean, and
``a = 0`` in front of what sums, squares or multiplies channels with each other. An operator asks for them at its
input; from there the demand goes back against the arrows. Linear operators hand it on (a per-channel factor ``g`` turns
``a`` into ``a * g``), and a stored weight meets it: its new row is ``sum_j a_j W_j``, its new bias ``sum_j a_j b_j``.
Whatever keeps zeros hands on ``a = 0``. Everything else, and a value of which two readers want different things, is
refused by name. Nothing here edits or computes weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxmorph._ir import ir
from onnxmorph.errors import Refusal
from onnxmorph.graph.axes import Group, Member
from onnxmorph.graph.axes.analysis import Operand
from onnxmorph.graph.constants import constant
from onnxmorph.graph.recurrent import RECURRENCE, STATES, is_recurrent, keeps_zero, zero_filled
from onnxmorph.morphs.recurrent import siblings
from onnxmorph.morphs.zeros import is_zero

__all__ = ["NORMALISATIONS", "Demands", "Functional", "Key", "Normalisation", "Rescale", "is_tied"]

Functional = NDArray[np.float64]
Key = tuple[ir.Value, Operand | None]
"""A stored tensor; where every user has its own copy, for one user."""


@dataclass(frozen=True)
class Normalisation:
    """A fused normalisation: what is normalised, and where its parameters are.

    Attributes:
        centred: Whether the mean is subtracted first.
        data: Positions of what is normalised; of several, the sum is.
        scale, shift, bias: Positions of the parameters, ``None`` for none.
        epsilon: The operator's default.
        last: Whether it is always over the last axis alone.
        sum_output: Which output is the sum of the data, ``None`` for none.
    """

    centred: bool
    data: tuple[int, ...] = (0,)
    scale: int | None = 1
    shift: int | None = None
    bias: int | None = None
    epsilon: float = 1e-5
    last: bool = False
    sum_output: int | None = None


NORMALISATIONS = {
    ("", "LayerNormalization"): Normalisation(True, shift=2),
    ("", "RMSNormalization"): Normalisation(False),
    ("", "SimplifiedLayerNormalization"): Normalisation(False),
    ("com.microsoft", "SimplifiedLayerNormalization"): Normalisation(False),
    ("com.microsoft", "SkipLayerNormalization"): Normalisation(
        True, (0, 1), 2, shift=3, bias=4, epsilon=1e-12, last=True, sum_output=3
    ),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): Normalisation(
        False, (0, 1), 2, bias=3, epsilon=1e-12, last=True, sum_output=3
    ),
}

_CARRY = frozenset(
    {
        *("Identity", "Cast", "CastLike", "Dropout", "Neg", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        *("Expand", "Tile", "Slice", "Split", "Concat", "Gather", "DepthToSpace", "SpaceToDepth", "AveragePool"),
        *("GlobalAveragePool", "ReduceMean", "ReduceSum", "Resize", "Upsample", "Trilu"),
    }
)
"""Linear, and the same for every channel."""

_KEEP_ZERO = frozenset(
    {
        *("Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Tanh", "Gelu", "HardSwish", "Mish", "Swish", "Elu", "Selu"),
        *("Celu", "Softsign", "Erf", "Abs", "Sqrt", "Sign", "Sin", "Tan", "Asin", "Atan", "Sinh", "Asinh", "Round"),
        *("Floor", "Ceil", "Shrink", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
        *("ReduceSumSquare", "LpPool", "FastGelu", "QuickGelu", "Pad"),
    }
)
_SUMS = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
_SPREAD = frozenset({"Expand", "ConstantOfShape"})
_CONTRACT = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "FusedMatMul", "FusedConv"})
_GATES = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Exp", "Softplus"})
_ATTENTION = frozenset({("", "Attention"), ("com.microsoft", "MultiHeadAttention")})
_FLOATS = frozenset({1, 10, 11, 16})
_HANDLED = frozenset({"layernorm", "rmsnorm", "mean", "sum", "l1", "l2", "sum-of-squares", "bilinear", "attention"})
_DEEPEST = 40
_SAME = 1e-12


@dataclass(frozen=True, eq=False)
class Rescale:
    """An operator of the child that must account for the new channels.

    Attributes:
        node: A fused normalisation, a mean over the channels, or an attention whose scale depends on the head's size.
        ratio: Over the new axis, the mean of squares is this times what it was; for attention the scale to be kept.
        kind: ``"normalisation"``, ``"mean"`` or ``"attention"``.
    """

    node: ir.Node
    ratio: float
    kind: str


@dataclass(eq=False)
class Demands:
    """The walk over one group, and what it found.

    Args:
        group: The group that grows.
        size: Its indices in the child.
        copies: How many copies of every channel there are; the rest is new.
        side: Which operand of a product of two activations is silenced, 0 or 1.

    Raises:
        Refusal: No functional serves every reader.
    """

    group: Group
    size: int
    copies: int = 1
    side: int = 1
    of: dict[ir.Value, Functional | None] = field(default_factory=dict)
    """Per value the functional of its new channels; ``None``: they may hold anything."""
    fed: dict[Key, Functional | float | None] = field(default_factory=dict)
    """Per stored tensor what its new entries hold: a functional of its own, a number, or anything."""
    reads: dict[Key, list[ir.Value]] = field(default_factory=dict)
    """Per stored tensor that reads channels, what it reads them from."""
    scaled: dict[Key, float] = field(default_factory=dict)
    """Stored tensors that are multiplied as a whole."""
    rescales: list[Rescale] = field(default_factory=list)
    silenced: list[ir.Value] = field(default_factory=list)
    """Operands of products of two activations whose new channels are 0."""
    givers: dict[Key, ir.Value] = field(default_factory=dict)
    """Per stored tensor with new entries the value they go into."""

    def __post_init__(self) -> None:
        self._coupled = self.group.coupled
        self._factors = self._coupled.factors
        self._atom = self.group.atom
        self._members = {(member.value, member.use) for member in self.group.stored}
        self._tied = {(member.value, member.use) for member in self.group.stored if is_tied(member)}
        self._actual = {formal: actual for actual, formals in self._coupled.formals.items() for formal in formals}
        self._returned: dict[ir.Value, list[ir.Value]] = {}
        self.held: dict[ir.Value, int] = {}
        odd = next((condition for condition in self.group.conditions if condition.kind not in _HANDLED), None)
        if odd is not None:
            raise Refusal(f"nothing is known that new channels could hold: {odd.text}", code=odd.kind)
        for value, axis, _, use in self.group.entries:
            if use is not None or self._coupled.is_constant(value):
                continue
            if self.held.setdefault(value, axis) != axis:
                raise Refusal(f"'{value.name}' holds the channels on two axes", code="two-axes")
        functions = {function.identifier(): function for function in self._coupled.model.functions.values()}
        self._calls: set[ir.Node] = set()
        for value in self.held:
            node = value.producer()
            if node is not None and node.op_identifier() in functions:
                self._calls.add(node)
                for output, inner in zip(node.outputs, functions[node.op_identifier()].outputs, strict=False):
                    if output in self.held:
                        self._returned.setdefault(inner, [])
                        if output not in self._returned[inner]:
                            self._returned[inner].append(output)
        for value in reversed(list(self.held)):
            self._visit(value)
        for member in self.group.stored:
            key = (member.value, member.use)
            feeds = not member.roles or member.roles - {"contracted", "index", "quantisation"}
            if feeds and key not in self.fed:
                raise Refusal(f"what '{member.value.name}' feeds is not followed", code="not-followed")

    @property
    def centred(self) -> bool:
        """Whether any new channel holds a mean, rather than 0 or anything."""
        return any(a is not None and a.any() for a in self.of.values())

    def reads_zeros(self, key: Key) -> bool:
        """Whether the new channels that a stored tensor reads are all 0, so that it may read them with any weight."""
        wanted = [self.of[value] for value in self.reads.get(key, ())]
        return bool(wanted) and all(a is not None and not a.any() for a in wanted)

    # ---- the walk -------------------------------------------------------------------------------------------------

    def _visit(self, value: ir.Value) -> None:
        found: Functional | None = None
        asked: ir.Node | None = None
        # All outputs of a recurrent layer are its units: what one of them must hold, all do. They are visited in a row.
        together = [one for one in siblings(value) if one in self.held]
        known = next((one for one in together if one in self.of), None)
        if known is not None:
            self.of[value] = self._provide(value, self.of[known])
            return
        wanted = [(node, self._need(node, position, one)) for one in together for node, position in one.uses()]
        wanted += [(None, self.of.get(formal)) for formal in self._coupled.formals.get(value, ())]  # type: ignore[misc]
        wanted += [(None, self.of.get(output)) for output in self._returned.get(value, ())]  # type: ignore[misc]
        for node, need in wanted:
            if need is None:
                continue
            if found is not None and not np.allclose(found, need, rtol=_SAME, atol=0):
                one, two = (_name(each) if each is not None else "a function" for each in (asked, node))
                raise Refusal(
                    f"{one} and {two} need different things of the new channels of '{value.name}'", code="no-scheme"
                )
            found, asked = need, asked or node
        self.of[value] = self._provide(value, found)

    def _zeros(self) -> Functional:
        return np.zeros(self.group.size)

    def _mean(self, node: ir.Node, value: ir.Value) -> Functional:
        axes = self._coupled.axes(value)
        if axes is None or self._factors.factors(axes[self.held[value]]) != [self._atom]:
            raise Refusal(
                f"{_name(node)} takes the mean over more than the channels that grow", code="mean-over-several"
            )
        return np.full(self.group.size, 1 / self.group.size)

    def _ratio(self, value: ir.Value) -> float:
        """What becomes of a mean over the channels when all that is added is 0: old size, copied, over new size."""
        axes = self._coupled.axes(value)
        assert axes is not None
        expr = axes[self.held[value]]
        before, after = self._factors.size(expr), self._factors.size(expr, {self._atom: self.size})
        if not before or not after or (self.copies > 1 and self._factors.factors(expr) != [self._atom]):
            raise Refusal(f"the channels of '{value.name}' are a part of an axis", code="mean-over-several")
        return self.copies * before / after

    def _need(self, node: ir.Node, position: int, value: ir.Value) -> Functional | None:
        """What one reader asks of the new channels of ``value``; ``None``: nothing."""
        domain, op = ("" if node.domain == "ai.onnx" else node.domain), node.op_type
        outputs = [output for output in node.outputs if output in self.held]
        if node in self._calls or op in {"Shape", "Size"} or self._coupled.content(value) is not None:
            return None
        norm = NORMALISATIONS.get((domain, op))
        if norm is not None and self._normalises(node, value):
            return self._need_of_norm(node, norm, position, value)
        if is_recurrent(node) and position in STATES:
            return next((self.of[output] for output in outputs if self.of.get(output) is not None), None)
        readers = self._readers(node, position, value)
        if readers:
            # A tensor that also feeds the channels reads the new ones with what it feeds them: they must be 0.
            return self._zeros() if self._tied.intersection(readers) else None
        if (domain, op) in _ATTENTION and position < 2 and value not in self.silenced:
            return self._need_of_attention(node, position, value)
        if op in _CONTRACT and self._contracts(node, position, value):
            self._no_copies(node)
            if position != self.side and self._holds(node, self.side):
                return None
            self.silenced.append(value)
            return self._zeros()
        if op.startswith("Reduce") and not outputs:
            return self._need_of_reduction(node, value)
        if op == "LpNormalization":
            self._no_copies(node)
            return self._zeros()
        if not outputs:
            raise Refusal(f"{_name(node)} reads the channels in a way that is not followed", code="not-followed")
        asked = [self.of[output] for output in outputs if self.of.get(output) is not None]
        if not asked:
            return None
        wanted = asked[0]
        assert wanted is not None
        if any(one is not None and not np.allclose(one, wanted, rtol=_SAME, atol=0) for one in asked[1:]):
            raise Refusal(f"the outputs of {_name(node)} need different things", code="no-scheme")
        return self._through(node, position, value, wanted)

    def _need_of_norm(self, node: ir.Node, norm: Normalisation, position: int, value: ir.Value) -> Functional:
        if position not in norm.data:
            raise Refusal(f"a parameter of {_name(node)} is computed", code="no-scheme")
        for place, output in enumerate(node.outputs):
            if place not in (0, norm.sum_output) and output.uses():
                raise Refusal(f"the statistics that {_name(node)} gives are read", code="no-scheme")
        wanted = self._mean(node, value) if norm.centred else self._zeros()
        if not norm.centred:
            self._no_copies(node)
        if norm.centred and not norm.last and self._normalised_from(node, value) != self._rank(value) - 1:
            raise Refusal(f"{_name(node)} normalises several axes together", code="mean-over-several")
        summed = None if norm.sum_output is None or len(node.outputs) <= norm.sum_output else node.outputs[3]
        asked = None if summed is None else self.of.get(summed)
        if asked is not None and not np.allclose(asked, wanted, rtol=_SAME, atol=0):
            raise Refusal(f"the sum that {_name(node)} gives needs other new channels", code="no-scheme")
        return wanted

    def _need_of_attention(self, node: ir.Node, position: int, value: ir.Value) -> Functional | None:
        """Scores are products of queries and keys: new keys are 0, and the scale stays what it was."""
        if not self._is_head_size(node, value):
            return self._common(node)
        self._no_copies(node)
        if all(rescale.node is not node for rescale in self.rescales):
            given = node.attributes.get("scale")
            if given is None or not given.as_float():
                self.rescales.append(Rescale(node, self.group.size**-0.5, "attention"))
        if position != 1:
            return None
        self.silenced.append(value)
        return self._zeros()

    def _common(self, node: ir.Node) -> Functional | None:
        asked = next((self.of[one] for one in node.outputs if self.of.get(one) is not None), None)
        if asked is not None and asked.any():
            raise Refusal(f"{_name(node)} stands between the weights and a mean over the channels", code="no-scheme")
        return None

    def _is_head_size(self, node: ir.Node, value: ir.Value) -> bool:
        label = node.name or ""
        return any(one.kind == "attention" and one.node == label for one in self.group.conditions) and self.held[
            value
        ] == (self._rank(value) - 1)

    def _need_of_reduction(self, node: ir.Node, value: ir.Value) -> Functional:
        if node.op_type == "ReduceMean":
            if _centres(node, value):
                if self._reduced(node, value) != {self.held[value]}:
                    raise Refusal(f"{_name(node)} takes the mean over several axes", code="mean-over-several")
                return self._mean(node, value)
            self.rescales.append(Rescale(node, self._ratio(value), "mean"))
            return self._zeros()
        if node.op_type in _SUMS:
            self._no_copies(node)
            return self._zeros()
        raise Refusal(f"new channels would change what {_name(node)} gives", code="no-scheme")

    def _no_copies(self, node: ir.Node) -> None:
        if self.copies > 1:
            raise Refusal(f"copies of channels change what {_name(node)} gives", code="no-scheme")

    def _through(self, node: ir.Node, position: int, value: ir.Value, wanted: Functional) -> Functional | None:
        """What an operator must be given for its output's new channels to be ``wanted``."""
        op = node.op_type
        zero = not wanted.any()
        if op in _CARRY:
            if op == "Cast" and int(node.attributes["to"].as_int()) not in _FLOATS and not zero:
                raise self._refusal(node, value)
            return wanted
        if op in {"Add", "Sub", "Sum", "Mean", "Where"}:
            if op == "Where" and position == 0:
                raise self._refusal(node, value)
            if op == "Sub" and position == 0 and _subtracts_mean(node) and zero:
                return self._mean(node, value)
            self._constants_kept(node, position, wanted)
            return wanted
        if op in {"Mul", "Div"}:
            return self._through_product(node, position, value, wanted)
        if op == "Pow":
            exponent = constant(node.inputs[1]) if position == 0 else None
            if zero and exponent is not None and bool((exponent > 0).all()):
                return wanted
        if op == "BatchNormalization" and position == 0:
            return None if zero else wanted * self._batch_scale(node)
        if op == "Clip" and zero and position == 0 and _clips_around_zero(node):
            return wanted
        if op in _CONTRACT:
            return self._through_contraction(node, position, value, wanted)
        if zero and position == 0 and op in _KEEP_ZERO and (op != "Pad" or _pads_with_zero(node)):
            return wanted
        raise self._refusal(node, value)

    def _through_product(self, node: ir.Node, position: int, value: ir.Value, wanted: Functional) -> Functional | None:
        zero, other = not wanted.any(), 1 - position
        if not self._holds(node, other):
            if node.op_type == "Mul" or position == 0:
                return wanted
            raise self._refusal(node, value)
        if self._coupled.is_constant(_input(node, other)):
            factor = self._vector(node, other) if not zero else None
            if node.op_type == "Mul":
                return None if factor is None else wanted * factor
            if position == 0:
                return wanted if factor is None else wanted / factor
            raise self._refusal(node, value)
        if not zero or node.op_type == "Div":
            raise self._refusal(node, value)
        return self._zeros() if self._silenced_factor(node) == position else None

    def _silenced_factor(self, node: ir.Node) -> int:
        """Which of two factors is 0 where the product is to be: the one that can be."""
        first, second = (self._zeroable(_input(node, place), 0) for place in (0, 1))
        return 1 if second and not first else 0

    def _zeroable(self, value: ir.Value, depth: int) -> bool:
        node = value.producer()
        if node is None or depth > _DEEPEST or node.op_type in _GATES:
            return False
        if node.op_type in _CONTRACT or (node.domain, node.op_type) in NORMALISATIONS:
            return True
        if node.op_type in _CARRY | _KEEP_ZERO | {"Div", "BatchNormalization", "Clip", "Pow"}:
            return self._zeroable(_input(node, 0), depth + 1)
        if node.op_type in {"Add", "Sub"}:
            return all(
                self._coupled.is_constant(_input(node, place)) or self._zeroable(_input(node, place), depth + 1)
                for place in (0, 1)
            )
        if node.op_type == "Mul":
            return any(self._holds(node, place) and self._zeroable(_input(node, place), depth + 1) for place in (0, 1))
        return False

    def _through_contraction(
        self, node: ir.Node, position: int, value: ir.Value, wanted: Functional
    ) -> Functional | None:
        """The channels are carried: depthwise, or on an axis that is not contracted."""
        zero = not wanted.any()
        for other in range(len(node.inputs)):
            if other == position or not self._holds(node, other):
                continue
            if not zero:
                raise self._refusal(node, value)
            if self._coupled.is_constant(_input(node, other)):
                return None  # a weight per channel, which is 0 for the new ones
            return wanted if position == 0 else None
        self._constants_kept(node, position, wanted, operands=range(2, len(node.inputs)))
        return wanted

    def _constants_kept(self, node: ir.Node, position: int, wanted: Functional, operands: range | None = None) -> None:
        """Something that is the same for all channels is added: the functional must keep it."""
        if abs(wanted.sum() - 1) < 1e-9:
            return
        for other in operands if operands is not None else range(len(node.inputs)):
            if other == position or (node.op_type == "Where" and other == 0) or self._holds(node, other):
                continue
            read = node.inputs[other]
            array = None if read is None else constant(read)
            if read is not None and (array is None or np.any(array)):
                raise Refusal(f"{_name(node)} adds the same to all channels", code="no-scheme")

    def _refusal(self, node: ir.Node, value: ir.Value) -> Refusal:
        return Refusal(
            f"{_name(node)} stands between the weights and what mixes the channels of '{value.name}'", code="no-scheme"
        )

    # ---- what feeds -----------------------------------------------------------------------------------------------

    def _provide(self, value: ir.Value, wanted: Functional | None) -> Functional | None:
        """Note what the stored operands behind ``value`` must hold; what its new channels then are."""
        node = value.producer()
        if node is None:
            if wanted is not None and value not in self._actual:
                raise Refusal(f"new channels of the input '{value.name}' come from outside", code="graph-input")
            return wanted
        if node in self._calls:
            return wanted
        domain = "" if node.domain == "ai.onnx" else node.domain
        norm = NORMALISATIONS.get((domain, node.op_type))
        if norm is not None:
            return self._provide_norm(node, norm, value, wanted)
        if is_recurrent(node):
            if wanted is not None and (wanted.any() or not keeps_zero(node)):
                raise Refusal(f"the new units of {_name(node)} cannot be made to hold what is needed", code="no-scheme")
            for key in self._roots(node, RECURRENCE, wanted):
                self.reads.setdefault(key, []).append(value)
        if wanted is not None and node.op_type in _SPREAD and not self._holds(node, 0):
            self._spread_kept(node, wanted)
            return wanted
        if wanted is not None and any(_bodies(node)):
            raise Refusal(f"{_name(node)} stands between the weights and what mixes the channels", code="no-scheme")
        for position, read in enumerate(node.inputs):
            if read is None or not self._holds(node, position) or not self._coupled.is_constant(read):
                continue
            if self._only_reads(node, position):
                continue
            for key in self._roots(node, position, wanted):
                self._give(key, self._entry(node, position, wanted), value)
        if wanted is not None and not self._known_giver(node):
            raise Refusal(f"{_name(node)} stands between the weights and what mixes the channels", code="no-scheme")
        if wanted is not None and node.op_type in _CONTRACT and self._feeds(node):
            self._constants_kept(node, -1, wanted, operands=range(2, len(node.inputs)))
        return wanted

    def _known_giver(self, node: ir.Node) -> bool:
        known = _CARRY | _KEEP_ZERO | _CONTRACT | {"Add", "Sub", "Sum", "Mean", "Where", "Mul", "Div", "Pow", "Clip"}
        others = {"BatchNormalization", "LpNormalization", *(op for _, op in _ATTENTION)}
        return node.op_type in known | others or is_recurrent(node)

    def _spread_kept(self, node: ir.Node, wanted: Functional) -> None:
        """Every channel is given the same: a mean of it is the same again, and 0 is if it is 0."""
        zeros = zero_filled(node) or (node.op_type == "Expand" and is_zero(_input(node, 0)))
        if not zeros and abs(wanted.sum() - 1) > _SAME:
            raise Refusal(f"{_name(node)} gives the same to all channels", code="no-scheme")

    def _provide_norm(
        self, node: ir.Node, norm: Normalisation, value: ir.Value, wanted: Functional | None
    ) -> Functional | None:
        place = value.index() or 0
        if norm.bias is not None and len(node.inputs) > norm.bias and node.inputs[norm.bias] is not None:
            asked = self._zeros() if not norm.centred else np.full(self.group.size, 1 / self.group.size)
            for key in self._roots(node, norm.bias, asked):
                self._give(key, asked, value)
        if place == norm.sum_output:
            return wanted
        if not self._normalises(node, _input(node, norm.data[0])):
            if wanted is not None:
                raise Refusal(f"{_name(node)} normalises another axis in between", code="no-scheme")
            for position in range(1, len(node.inputs)):
                if self._holds(node, position):
                    for key in self._roots(node, position, None):
                        self._give(key, None, value)
            return None
        if wanted is not None and wanted.any():
            raise Refusal(
                f"what {_name(node)} gives is added to a stream that is normalised again (post-norm): its new channels "
                "cannot hold the mean",
                code="post-norm",
            )
        ratio = self._ratio(_input(node, norm.data[0]))
        self.rescales.append(Rescale(node, ratio, "normalisation"))
        if norm.scale is not None:
            for key in self._roots(node, norm.scale, None):
                self._give(key, None, value)
                self.scaled[key] = ratio**0.5
        if norm.shift is not None and len(node.inputs) > norm.shift and node.inputs[norm.shift] is not None:
            for key in self._roots(node, norm.shift, self._zeros()):
                self._give(key, self._zeros(), value)
        return self._zeros()

    def _entry(self, node: ir.Node, position: int, wanted: Functional | None) -> Functional | float | None:
        """What new entries of a stored operand hold, for its node's output to have ``wanted`` new channels."""
        if wanted is None:
            return None
        zero, op = not wanted.any(), node.op_type
        if op == "Mul":
            return wanted if zero else 1.0
        if op == "Div":
            return None if zero and position == 1 else 1.0
        if op == "BatchNormalization":
            if zero:
                return (0.0, 0.0, 0.0, 0.0, 1.0)[position]
            scale = self._batch_scale(node)
            shift, mean = (self._vector(node, place) for place in (2, 3))
            shifted = float(wanted @ (shift - mean * scale))
            return (0.0, float(np.sqrt(1 + _epsilon(node, 1e-5))), shifted, 0.0, 1.0)[position]
        if op == "PRelu":
            return None
        return wanted

    def _give(self, key: Key, entry: Functional | float | None, value: ir.Value) -> None:
        if key in self.fed:
            held = self.fed[key]
            same = (held is None and entry is None) or (
                held is not None and entry is not None and np.allclose(np.asarray(held), np.asarray(entry), rtol=_SAME)
            )
            if not same:
                raise Refusal(
                    f"'{key[0].name}' is read in several places, whose new channels must hold different things",
                    way_out="--untie gives each its own",
                    code="tied",
                )
        self.fed[key] = entry
        self.givers.setdefault(key, value)

    # ---- reading the graph ----------------------------------------------------------------------------------------

    def _rank(self, value: ir.Value) -> int:
        return len(self._coupled.axes(value) or ())

    def _holds(self, node: ir.Node, position: int) -> bool:
        read = node.inputs[position] if position < len(node.inputs) else None
        axes = None if read is None else self._coupled.operand(read, node, position)
        return axes is not None and any(self._factors.holds(expr, self._atom) for expr in axes)

    def _roles(self, node: ir.Node, position: int) -> set[str]:
        read = node.inputs[position] if position < len(node.inputs) else None
        axes = None if read is None else self._coupled.operand(read, node, position)
        found = set()
        for place, role, part in self._coupled.roles.get((node, position), ()):
            if axes is not None and self._factors.holds(axes[place] if part is None else part, self._atom):
                found.add(role)
        return found

    def _only_reads(self, node: ir.Node, position: int) -> bool:
        roles = self._roles(node, position)
        return bool(roles) and roles <= {"contracted", "index"}

    def _feeds(self, node: ir.Node) -> bool:
        return any(self._roles(node, position) & {"produced"} for position in range(len(node.inputs)))

    def _readers(self, node: ir.Node, position: int, value: ir.Value) -> list[Key]:
        """The stored weights that contract the channels here; notes them."""
        found: list[Key] = []
        for other, read in enumerate(node.inputs):
            if other == position or read is None or not self._coupled.is_constant(read):
                continue
            if is_recurrent(node) and other == RECURRENCE:
                continue  # it reads what the layer gave one step before; see `_provide`
            if "contracted" in self._roles(node, other) and self._is_contracted_axis(node, position, value):
                for key in self._roots(node, other, None):
                    self.reads.setdefault(key, []).append(value)
                    found.append(key)
        return found

    def _is_contracted_axis(self, node: ir.Node, position: int, value: ir.Value) -> bool:
        if is_recurrent(node):
            return position == 0 and self.held[value] == self._rank(value) - 1
        return node.op_type not in {"MatMul", "Gemm"} or self._contracts(node, position, value)

    def _contracts(self, node: ir.Node, position: int, value: ir.Value) -> bool:
        """Whether the axis of ``value`` that holds the channels is contracted by a product."""
        axis, rank = self.held[value], self._rank(value)
        if node.op_type == "MatMul":
            return axis == (rank - 1 if position == 0 else max(rank - 2, 0))
        if node.op_type in {"Gemm", "FusedMatMul"}:
            if position > 1:
                return False
            flag = node.attributes.get("transA" if position == 0 else "transB")
            transposed = bool(flag is not None and flag.as_int())
            return axis == rank - (2 if transposed else 1) if position == 0 else axis == rank - (1 if transposed else 2)
        if node.op_type == "Einsum":
            return node.outputs[0] not in self.held
        named = (node.name or "", value.name or "")
        return any(
            one.kind == "bilinear" and one.node == named[0] and named[1] in one.operands
            for one in self.group.conditions
        )

    def _normalised_from(self, node: ir.Node, value: ir.Value) -> int:
        given = node.attributes.get("axis")
        axis = -1 if given is None else given.as_int()
        return axis % max(self._rank(value), 1)

    def _normalises(self, node: ir.Node, value: ir.Value) -> bool:
        if value not in self.held:
            return False
        norm = NORMALISATIONS["" if node.domain == "ai.onnx" else node.domain, node.op_type]
        return self.held[value] >= (self._rank(value) - 1 if norm.last else self._normalised_from(node, value))

    def _reduced(self, node: ir.Node, value: ir.Value) -> set[int]:
        rank = self._rank(value)
        given = node.attributes.get("axes")
        axes = list(given.as_ints()) if given is not None else None
        if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
            array = constant(node.inputs[1])
            axes = None if array is None else [int(one) for one in array.reshape(-1)]
        return set(range(rank)) if not axes else {axis % rank for axis in axes}

    def _batch_scale(self, node: ir.Node) -> Functional:
        scale, variance = self._vector(node, 1), self._vector(node, 4)
        return np.asarray(scale / np.sqrt(variance + _epsilon(node, 1e-5)))

    def _vector(self, node: ir.Node, position: int) -> Functional:
        """A stored per-channel parameter."""
        read = _input(node, position)
        array = constant(read)
        if array is None or array.size != self.group.size:
            raise Refusal(f"'{read.name}' holds more than one number per channel", code="no-scheme")
        return np.asarray(array, dtype=np.float64).reshape(-1)

    def _roots(self, node: ir.Node, position: int, wanted: Functional | None) -> list[Key]:
        """The stored tensors that hold the channels behind a constant operand."""
        out: list[Key] = []
        waiting: list[Operand] = [(node, position)]
        while waiting:
            here, place = waiting.pop()
            read = here.inputs[place]
            if read is None or not self._holds(here, place):
                continue
            if (here, place) in self._coupled.own_copy:
                out.append((read, (here, place)))
                continue
            read = self._actual.get(read, read)
            if self._coupled.is_root(read):
                out.append((read, None))
                continue
            producer = read.producer()
            if producer is None or (
                producer.op_type not in _CARRY | {"DequantizeLinear"}
                or (producer.op_type == "DequantizeLinear" and wanted is not None and wanted.any())
            ):
                raise Refusal(f"'{read.name}' is computed from weights in a way that is not followed", code="no-scheme")
            waiting.extend(
                (producer, at)
                for at in range(1 if producer.op_type == "DequantizeLinear" else 99)
                if at < len(producer.inputs)
            )
        if any(key not in self._members for key in out):
            raise Refusal(f"what {_name(node)} reads is not followed", code="not-followed")
        return out


def is_tied(member: Member) -> bool:
    """Whether one axis of a stored tensor both feeds the channels and reads them, as an embedding that is the head."""
    return "contracted" in member.roles and len(member.roles - {"index", "quantisation"}) > 1


def _name(node: ir.Node) -> str:
    return f"{node.op_type} '{node.name or next((one.name for one in node.outputs if one.name), '')}'"


def _input(node: ir.Node, position: int) -> ir.Value:
    value = node.inputs[position] if position < len(node.inputs) else None
    if value is None:
        raise Refusal(f"{_name(node)} lacks its input {position}", code="malformed")
    return value


def _epsilon(node: ir.Node, default: float) -> float:
    given = node.attributes.get("epsilon")
    return default if given is None else float(given.as_float())


def _centres(mean: ir.Node, value: ir.Value) -> bool:
    """Whether a mean is subtracted from what it is the mean of."""
    return any(
        node.op_type == "Sub" and position == 1 and node.inputs[0] is value for node, position in mean.outputs[0].uses()
    )


def _subtracts_mean(node: ir.Node) -> bool:
    producer = _input(node, 1).producer()
    return producer is not None and producer.op_type == "ReduceMean" and producer.inputs[0] is node.inputs[0]


def _clips_around_zero(node: ir.Node) -> bool:
    bounds = [-np.inf, np.inf]
    for place, name in enumerate(("min", "max")):
        given = node.attributes.get(name)
        read = node.inputs[place + 1] if len(node.inputs) > place + 1 else None
        if given is not None:
            bounds[place] = float(given.as_float())
        elif read is not None:
            array = constant(read)
            if array is None:
                return False
            bounds[place] = float(array.reshape(-1)[0])
    return bounds[0] <= 0 <= bounds[1]


def _pads_with_zero(node: ir.Node) -> bool:
    read = node.inputs[2] if len(node.inputs) > 2 else None
    array = None if read is None else constant(read)
    given = node.attributes.get("value")
    return (read is None or (array is not None and not np.any(array))) and (given is None or given.as_float() == 0)


def _bodies(node: ir.Node) -> Iterator[bool]:
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            yield True
