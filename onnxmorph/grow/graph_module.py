"""An ONNX graph as a ``torch.nn.Module`` over the graph's own tensors, and the way back.

The graph stays the source of truth: its floating-point tensors become parameters and buffers under their own names, the
nodes are run as they stand, and `write_back` puts the values where they came from. Graph, names, types and metadata
stay as they were.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

import onnxmorph
from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.grow.call import Mode
from onnxmorph.grow.compiling import Obstacle, compile_graph
from onnxmorph.grow.program import Program
from onnxmorph.grow.registry import load_operators
from onnxmorph.grow.roles import NATURALLY_TRAINED, roles
from onnxmorph.grow.sites import sites
from onnxmorph.grow.stored import matching_site, with_values
from onnxmorph.grow.types import from_torch, to_torch, torch_type
from onnxmorph.records import as_json

__all__ = ["TRAINED_KEY", "GraphModule", "Trainable", "module", "trainings", "write_back"]

Tensor = torch.Tensor

Trainable = Sequence[str] | Callable[[str, str], bool]
"""What is trained: names, globs or roles; or a function of name and role."""

TRAINED_KEY = "onnxmorph.trained"
"""Metadata of a model: a JSON list with one entry per training since its records."""

_QUANTISED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "ConvInteger",
        "QLinearConv",
        "QLinearMatMul",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MatMulBnb4",
        "QAttention",
        "QGemm",
        "QLinearAdd",
        "QLinearMul",
        "QEmbedLayerNormalization",
        "QMoE",
        "QOrderedMatMul",
    }
)
_RUNNING = frozenset({"running_mean", "running_var"})


def module(
    model: ir.Model | str | os.PathLike[str],
    *,
    trainable: Trainable | None = None,
    mode: Literal["train", "eval"] = "train",
    outputs: Sequence[str] | None = None,
    precision: Literal["stored", "float32", "float64"] | None = None,
) -> GraphModule:
    """A model as a ``torch.nn.Module`` over its own tensors.

    Args:
        model: Left as it is; the module has copies of its tensors.
        trainable: What gets a gradient: names of tensors, globs, roles (`GraphModule.roles`), or a function of name and
            role. Default: every weight, bias, scale of a norm, embedding and activation parameter that the wanted
            outputs have a gradient of.
        mode: ``"train"`` makes a module in training mode, and refuses what cannot be trained; ``"eval"`` only runs.
        outputs: Wanted values of the main graph, inner ones too; only what they need is compiled. Default: the graph's
            outputs.
        precision: ``"float32"`` computes 16-bit floats in float32, without which small steps of training are lost;
            ``"float64"`` computes all in double, to check gradients; ``"stored"`` each in its own. Default: float32
            to train, stored to run.

    Raises:
        ModelError: It is not a usable model.
        Refusal: An operator cannot be run here (``unsupported-operator``), by name; or, to train: the model is
            quantised (``quantised``), a named tensor has no gradient (``no-gradient``, with the operator at which it
            ends), or nothing has.
        SelectionError: ``trainable`` or ``outputs`` name nothing in the model.
    """
    given = model if isinstance(model, ir.Model) else files.load(model)
    return GraphModule(given, trainable=trainable, mode=mode, outputs=outputs, precision=precision)


class GraphModule(torch.nn.Module):
    """A graph that runs in torch; made by `module`.

    Parameters and buffers have the names of the model's tensors (``dict(module.named_parameters())["conv1.weight"]``).
    Tensors in bodies and functions have the path of their scope and ``::`` before their names.

    Attributes:
        roles: Role of each tensor that the module holds: ``kernel``, ``bias``, ``norm_scale``, ``norm_bias``,
            ``scale``, ``slope``, ``a`` (of activations that a morph made parametric), ``embedding``, ``recurrent``,
            ``running_mean``, ``running_var``.
        input_names: Of the graph, those that have to be given.
        output_names: What a call gives.
        without_gradient: Tensors that would be trained but have no gradient, with the operator at which it ends.
        batch_statistics: Whether batch norms use and follow the statistics of the batch in training.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        trainable: Trainable | None = None,
        mode: Literal["train", "eval"] = "train",
        outputs: Sequence[str] | None = None,
        precision: Literal["stored", "float32", "float64"] | None = None,
    ) -> None:
        super().__init__()
        load_operators()
        stored = sites(model)
        kinds = roles(model)
        overridable = {value for value in model.graph.inputs if value.name in model.graph.initializers}
        inputs = [value for value in model.graph.inputs if value not in overridable]
        wanted = _outputs(model, outputs)
        training = mode == "train"
        wide = {"float32": torch.float32, "float64": torch.float64, "stored": None}[
            precision or ("float32" if training else "stored")
        ]
        chosen = _chosen(trainable, kinds)
        if training:
            _check_quantised(model)
        tensors = {
            site.key: to_torch(site.tensor)
            for site in stored.values()
            if kinds[site.key] != "constant" or site.key in chosen or site.value in overridable
        }
        self._mode = Mode(training, wide=wide)
        tensors = {key: tensor.to(self._mode.widened(tensor.dtype)) for key, tensor in tensors.items()}
        self._program, unreached = compile_graph(
            model,
            mode=self._mode,
            sites=stored,
            tensors=tensors,
            trainable=chosen,
            inputs=inputs,
            outputs=wanted,
        )
        used = _weights_of(self._program)
        self.roles: dict[str, str] = {key: kinds[key] for key in tensors if key in used}
        self.input_names: tuple[str, ...] = tuple(value.name or "" for value in inputs)
        self.output_names: tuple[str, ...] = tuple(value.name or "" for value in wanted)
        self.without_gradient: dict[str, Obstacle] = {
            key: obstacle for key, obstacle in unreached.items() if obstacle is not None
        }
        self.batch_statistics = True
        self._optional = {value.name or "": stored[value].key for value in overridable if value in stored}
        self._input_types = {value.name or "": _torch_type_of(value, self._mode) for value in model.graph.inputs}
        self._in_inference = False
        self._check_gradients(trainable, chosen, unreached, training=training)
        for key, tensor in tensors.items():
            if key not in used:
                continue
            if kinds[key] in _RUNNING and key not in chosen:
                self._buffers[key] = tensor
            else:
                learns = training and key in chosen and key not in unreached
                self._parameters[key] = torch.nn.Parameter(tensor, requires_grad=learns)
        self.train(training)

    def _check_gradients(
        self,
        trainable: Trainable | None,
        chosen: set[str],
        unreached: Mapping[str, Obstacle | None],
        *,
        training: bool,
    ) -> None:
        if not training:
            return
        explicit = trainable is not None and not callable(trainable)
        first = next(((key, found) for key, found in unreached.items() if found is not None), None)
        if first is not None and (explicit or len(unreached) == len(chosen)):
            key, obstacle = first
            raise Refusal(
                f"'{key}' cannot be trained: its gradient ends at {obstacle.label} ({obstacle.op})",
                way_out="train on an output before it (outputs=, --output), or freeze the tensor",
                code="no-gradient",
            )
        if len(unreached) == len(chosen):
            raise Refusal("the wanted outputs depend on no tensor that could be trained", code="no-gradient")

    # --- running ----------------------------------------------------------------------------------------------------

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The outputs for inputs by position or by name: a tensor, or a tuple of several.

        Arrays are taken as tensors. Values of inputs that the model has a default for may be given by name.

        Raises:
            Refusal: Inputs are missing, unknown, or of another type (``input-name``, ``input-type``).
            RuntimeFailure: An operator failed, such as for sizes that do not fit.
        """
        results = self._run(arguments, named)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        """The outputs by name; see `forward`."""
        return dict(zip(self.output_names, self._run(arguments, named), strict=True))

    def _run(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        mode = self._mode
        mode.training = self.training
        mode.batch_statistics = self.training and self.batch_statistics
        mode.followed = frozenset(id(buffer) for buffer in self._buffers.values())
        weights: dict[str, Any] = {**self._buffers, **self._parameters}
        first = next(iter(weights.values()), None)
        if isinstance(first, Tensor):
            mode.device = first.device
        if torch.is_inference_mode_enabled() != self._in_inference:
            # What is remembered from inference mode cannot be used where gradients are computed.
            self._in_inference = not self._in_inference
            self._program.forget()
        values = self._arguments(arguments, named, weights)
        mode.weights = weights
        try:
            return self._program.run(values)
        finally:
            mode.weights = {}

    def _arguments(self, arguments: Sequence[Any], named: Mapping[str, Any], weights: dict[str, Any]) -> list[Any]:
        names = self.input_names
        if len(arguments) > len(names):
            raise Refusal(f"{len(arguments)} inputs were given to a model that has {len(names)}", code="input-name")
        given = dict(zip(names, arguments, strict=False))
        for name, value in named.items():
            if name in self._optional:
                weights[self._optional[name]] = self._taken(name, value)
            elif name not in names:
                raise Refusal(
                    f"the model has no input '{name}'", way_out=f"its inputs are {', '.join(names)}", code="input-name"
                )
            else:
                given[name] = value
        missing = [name for name in names if name not in given]
        if missing:
            raise Refusal(f"the input '{missing[0]}' is missing", code="input-name")
        return [self._taken(name, given[name]) for name in names]

    def _taken(self, name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.kind in "OSU":
                raise Refusal(f"the input '{name}' is of strings, which cannot be computed with", code="input-type")
            value = torch.from_numpy(np.array(value))
        wanted = self._input_types.get(name)
        if wanted is None or not isinstance(value, Tensor):
            return value
        if value.is_floating_point():
            value = value.to(self._mode.widened(value.dtype))
        if value.dtype != wanted:
            raise Refusal(
                f"the input '{name}' is {str(wanted).removeprefix('torch.')},"
                f" not {str(value.dtype).removeprefix('torch.')}",
                code="input-type",
            )
        device = self._mode.device
        return value if value.device == device else value.to(device)

    # --- tensors by name --------------------------------------------------------------------------------------------

    def group(self, *what: str) -> dict[str, torch.nn.Parameter]:
        """Parameters by role, name or glob.

        Raises:
            SelectionError: Nothing is called so.
        """
        found = {key: tensor for key, tensor in self._parameters.items() if tensor is not None}
        names = _matching(what, {key: self.roles[key] for key in found})
        return {key: found[key] for key in found if key in names}

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        _local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # torch's own takes a dot for the name of a submodule.
        own = {**self._parameters, **self._buffers}
        for key, tensor in own.items():
            new = state_dict.get(prefix + key)
            if tensor is None:
                continue
            if new is None:
                missing_keys.append(prefix + key)
            elif tuple(new.shape) != tuple(tensor.shape):
                error_msgs.append(f"'{key}' has shape {tuple(tensor.shape)}, not {tuple(new.shape)}")
            else:
                with torch.no_grad():
                    tensor.copy_(new)
        if strict:
            unexpected_keys += [
                key for key in state_dict if key.startswith(prefix) and key.removeprefix(prefix) not in own
            ]


def _weights_of(program: Program) -> set[str]:
    keys = {key for _, key in program.weights}
    for step in program.steps:
        for body, _ in step.call.bodies.values():
            keys |= _weights_of(body)
    return keys


def _torch_type_of(value: ir.Value, mode: Mode) -> torch.dtype | None:
    if not isinstance(value.type, ir.TensorType):
        return None
    if value.dtype is ir.DataType.STRING:
        return None
    return mode.widened(torch_type(value.type.dtype))


def _outputs(model: ir.Model, names: Sequence[str] | None) -> list[ir.Value]:
    if names is None:
        return list(model.graph.outputs)
    known = {value.name: value for value in (*model.graph.inputs, *model.graph.initializers.values())}
    known |= {value.name: value for node in model.graph for value in node.outputs}
    wanted = []
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, [text for text in known if text], n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise SelectionError(f"the model has no value {name!r}{hint}")
        wanted.append(known[name])
    return wanted


def _matching(what: Iterable[str], kinds: Mapping[str, str]) -> set[str]:
    """Keys that names, globs or roles stand for."""
    every = set(kinds.values())
    found: set[str] = set()
    for text in what:
        if text in kinds:
            found.add(text)
            continue
        hits = {key for key, kind in kinds.items() if kind == text} if text in every | NATURALLY_TRAINED else set()
        hits |= {key for key in kinds if fnmatch.fnmatchcase(key, text)}
        if not hits and text not in NATURALLY_TRAINED:
            import difflib

            near = difflib.get_close_matches(text, kinds, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise SelectionError(f"no tensor is called {text!r}{hint}")
        found |= hits
    return found


def _chosen(trainable: Trainable | None, kinds: Mapping[str, str]) -> set[str]:
    if trainable is None:
        return {key for key, kind in kinds.items() if kind in NATURALLY_TRAINED}
    if callable(trainable):
        return {key for key, kind in kinds.items() if trainable(key, kind)}
    if isinstance(trainable, str):
        trainable = [trainable]
    return _matching(trainable, kinds)


def _check_quantised(model: ir.Model) -> None:
    from onnxmorph.graph.scopes import node_label, nodes

    for _, node in nodes(model):
        if node.op_type in _QUANTISED:
            raise Refusal(
                f"the model is quantised ({node.op_type} at {node_label(node)}), and rounding has no gradient",
                way_out="train the floating-point model that it was made from, and quantise that again",
                code="quantised",
            )


def write_back(
    trained: torch.nn.Module | Mapping[str, Tensor], model: ir.Model, *, note: Mapping[str, Any] | None = None
) -> ir.Model:
    """A copy of ``model`` that has the tensors of a module made from it.

    Values go back by name, rounded to the stored type where that is narrower; what did not change is shared. Graph,
    names, types and metadata stay, the records of morphs too. A certificate goes: it spoke of other weights.

    Args:
        trained: A `GraphModule` of ``model``, or its state dict.
        model: Left as it is.
        note: What to say of the training in the metadata.

    Raises:
        Refusal: A tensor is not the model's, or has another shape (``other-model``).
    """
    values = trained.state_dict() if isinstance(trained, torch.nn.Module) else trained
    by_key = {site.key: site for site in sites(model).values()}
    changed: dict[str, np.ndarray[Any, Any]] = {}
    for key, tensor in values.items():
        site = matching_site(by_key, key, tensor.shape)
        array = from_torch(tensor, site.tensor.dtype)
        if array.tobytes() != site.tensor.tobytes():
            changed[key] = array
    child = with_values(model, changed)
    if changed:
        entry = {"onnxmorph": onnxmorph.__version__, "tensors": len(changed), **(note or {})}
        child.metadata_props[TRAINED_KEY] = as_json([*trainings(model), entry])
    return child


def trainings(model: ir.Model) -> list[dict[str, Any]]:
    """What the metadata say of trainings, oldest first."""
    text = model.metadata_props.get(TRAINED_KEY)
    try:
        found = json.loads(text) if text else []
    except ValueError:
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
