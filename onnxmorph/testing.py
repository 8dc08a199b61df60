"""For test suites: two models must compute the same.

::

    from onnxmorph.testing import assert_equivalent

    def test_the_optimised_model_is_the_model():
        assert_equivalent("model.onnx", "model.optimised.onnx")

Works with any test runner; under pytest a failure shows the verdict instead of this module's frames.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import onnx

    from onnxmorph._ir import ir
    from onnxmorph.verify import Certificate

__all__ = ["assert_equivalent"]


def assert_equivalent(
    parent: str | os.PathLike[str] | onnx.ModelProto | ir.Model,
    child: str | os.PathLike[str] | onnx.ModelProto | ir.Model,
    *,
    provider: Literal["auto", "cuda", "cpu", "both"] = "auto",
    inputs: Path | str | Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    inner: bool = True,
    limit: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    time_budget: float = 20.0,
) -> Certificate:
    """Assert that two models compute the same, to rounding.

    Args:
        parent: The model as it was: a path, an ``onnx.ModelProto`` (with its weights in it), or an ``onnx_ir.Model``.
        child: The model that must compute the same.
        provider: Where to run; ``auto`` takes CUDA where it works, ``both`` asks for CUDA and CPU.
        inputs: Real data, used besides made-up inputs: arrays by input name, or a path.
        shapes: Full shape of some inputs, by name, where the model leaves dimensions open.
        seed: Seeds the inputs.
        inner: Whether inner values of the same name must agree too; ``False`` judges by outputs alone.
        limit: Largest quotient of difference and the parent's own noise that counts as rounding; default: the
            verifier's.
        atol: Judge outputs by this absolute tolerance (and ``rtol``) in the place of noise; inner values do not count
            then.
        rtol: Likewise, relative to the parent's values.
        time_budget: Seconds after which no more inputs are tried.

    Returns:
        The certificate, for further assertions (``certificate.provider``, ``certificate.detectable_fault``).

    Raises:
        AssertionError: They do not; the message is the verdict, beginning with the first value that differs.
        ModelError: One of them is no usable model.
        RuntimeFailure: It cannot be verified here.
        SelectionError: ``inputs`` or ``shapes`` name what is not there.
    """
    __tracebackhide__ = True
    from onnxmorph.verify import Tolerance, Tolerances, verify

    options: dict[str, Any] = {} if limit is None else {"limit": limit}
    if atol is not None or rtol is not None:
        options["tolerances"] = Tolerances(Tolerance(atol or 0.0, rtol or 0.0))
    with tempfile.TemporaryDirectory(prefix="onnxmorph-", ignore_cleanup_errors=True) as scratch:
        certificate = verify(
            _readable(parent, Path(scratch) / "parent.onnx"),
            _readable(child, Path(scratch) / "child.onnx"),
            provider=provider,
            inputs=inputs,
            shapes=shapes,
            seed=seed,
            inner=inner,
            time_budget=time_budget,
            **options,
        )
    if not certificate.equivalent:
        raise AssertionError(_verdict(certificate, _name(parent, "parent"), _name(child, "child")))
    return certificate


def _readable(
    model: str | os.PathLike[str] | onnx.ModelProto | ir.Model, scratch: Path
) -> str | os.PathLike[str] | ir.Model:
    """What the verifier takes; a proto goes through a file, so that it is checked and read as any other model is."""
    from onnxmorph._ir import ir
    from onnxmorph.errors import ModelError

    if isinstance(model, str | os.PathLike | ir.Model):
        return model
    import onnx
    from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"a path, an onnx.ModelProto or an onnx_ir.Model is compared, not {type(model).__name__}")
    try:
        scratch.write_bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ModelError(f"the {scratch.stem} is too large for one protobuf; save it, and give its path") from error
    return scratch


def _name(model: object, otherwise: str) -> str:
    return os.fspath(model) if isinstance(model, str | os.PathLike) else otherwise


def _verdict(certificate: Certificate, parent: str, child: str) -> str:
    first = certificate.reasons[0] if certificate.reasons else "no failure was given"
    return f"{child} does not compute what {parent} computes: {first}\n\n{certificate.describe()}"
