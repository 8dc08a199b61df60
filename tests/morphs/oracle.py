"""What the morph tests measure children with: ONNX Runtime alone, none of the project's own verification."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from tests.zoo_graphs import example_inputs


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """The model as the rooms below files see it."""
    return ir.from_proto(proto)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs by name, graph optimisations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _checks(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def assert_same(
    parent: onnx.ModelProto,
    child: ir.Model,
    *,
    tolerance: float | None = None,
    roundings: int = 64,
    floor: float = 0.0,
) -> None:
    """Both compute the same on signed inputs at two scales and two sizes of every dynamic dim.

    Differences are judged by the largest output, or by ``floor`` where that is larger: an output of nothing but zeros,
    as behind dead units, leaves no room for the rounding of what cancels out.
    """
    proto = ir.to_proto(child)
    if _checks(parent):
        onnx.checker.check_model(proto)
    for seed, size, scale in ((0, 9, 1.0), (1, 13, 8.0)):
        feeds = example_inputs(parent, seed=seed, size=size)
        feeds = {k: (v * scale).astype(v.dtype) if v.dtype.kind == "f" else v for k, v in feeds.items()}
        expected, got = run(parent, feeds), run(proto, feeds)
        assert list(expected) == list(got)
        for name in expected:
            value, other = (
                np.concatenate([part.ravel() for part in given]) if isinstance(given, list) else given
                for given in (expected[name], got[name])
            )
            assert (value.dtype, value.shape) == (other.dtype, other.shape)
            if value.dtype.kind != "f":
                assert np.array_equal(value, other), name
                continue
            limit = tolerance if tolerance is not None else roundings * float(np.finfo(value.dtype).eps)
            spread = max(floor, np.abs(value.astype(np.float64)).max(initial=0.0))
            assert np.abs(value.astype(np.float64) - other.astype(np.float64)).max(initial=0.0) <= limit * spread, name
