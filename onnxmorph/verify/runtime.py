"""ONNX Runtime sessions whose numbers can be trusted: the provider that really ran, TF32 off, nothing printed.

Four facts shape this module. ``get_available_providers()`` lists CUDA on any machine and a session that asked for CUDA
silently becomes a CPU session, so only ``session.get_providers()`` and a run are believed. The CUDA provider uses TF32
unless told otherwise twice (environment and provider option). Provider failures are printed by C code, straight to the
file descriptors. And with optimisations off, prepacking off and initializers handed over by reference, a session of a
large model costs next to no memory of its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxmorph.errors import RuntimeFailure

if TYPE_CHECKING:
    import numpy as np

    from onnxmorph._ir import ir
    from onnxmorph.model import RuntimeForm

__all__ = [
    "Provider",
    "ProviderChoice",
    "Session",
    "choose_provider",
    "open_session",
    "providers_by_node",
    "runtime_version",
    "threads",
]

Provider = Literal["auto", "cuda", "cpu"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_MOST_THREADS = 8


@dataclass(frozen=True)
class ProviderChoice:
    """The execution provider sessions are made on, and why this one."""

    name: str
    reason: str


@functools.cache
def _onnxruntime() -> Any:
    """ONNX Runtime, imported once, with TF32 forbidden before the CUDA libraries can read the environment."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    with _silenced():
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeFailure(
                f"ONNX Runtime cannot be imported: {_one_line(error)}; run `onnxmorph doctor`"
            ) from error
        if not hasattr(onnxruntime, "InferenceSession"):
            raise RuntimeFailure(
                "the installed onnxruntime is broken (two builds share one folder); run `onnxmorph doctor`"
            )
        onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def runtime_version() -> str:
    """Version of the ONNX Runtime in use, such as ``"1.31.0"``."""
    return str(_onnxruntime().__version__)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """File descriptors 1 and 2 lead nowhere: C code prints there, past ``sys.stdout``, and would break ``--json``."""
    saved: list[tuple[int, int]] = []
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in (1, 2):
            try:
                saved.append((descriptor, os.dup(descriptor)))
            except OSError:  # closed by the caller: nothing to protect
                continue
            os.dup2(sink, descriptor)
        yield
    finally:
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(sink)


def _one_line(error: BaseException) -> str:
    """The sentence in an ONNX Runtime error, without error codes, source paths and C++ signatures."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"/?\S*/(?:onnxruntime|orttraining)\S*\.(?:cc|h|cu)(?::\d+)? ", "", text)
    text = re.sub(r"\S*onnxruntime::[^:]*?\(.*?\)(?: const)? ", "", text)
    text = re.sub(r"Stacktrace:.*", "", text).strip()
    return text[:400] or type(error).__name__


def _provider_options(name: str) -> list[Any]:
    if name == _CUDA:
        options = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
        return [(_CUDA, options), _CPU]
    return [_CPU]


def threads() -> int:
    """Intra-op threads of every session: the same number on one machine each time, since sums depend on it."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    wanted = int(limit) if limit.isdigit() and int(limit) > 0 else _MOST_THREADS
    return max(1, min(wanted, _MOST_THREADS, os.cpu_count() or 1))


class Session:
    """One model loaded in ONNX Runtime on one provider.

    Args:
        form: What to load; the arrays of its initializers are used in place, not copied, and are kept alive here.
        provider: Name of the execution provider; a session that ends up elsewhere is an error.
        optimise: ``False`` for the reference tier (every graph optimisation and prepacking off), ``True`` for all on.

    Raises:
        RuntimeFailure: ONNX Runtime cannot load the model here, or gave another provider than was asked for.
    """

    def __init__(self, form: RuntimeForm, provider: str, *, optimise: bool = False, profile: str | None = None) -> None:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.use_deterministic_compute = True
        options.intra_op_num_threads = threads()
        options.inter_op_num_threads = 1
        # Sizes change from run to run: planned memory patterns and a growing arena would only cost memory.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        if not optimise:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        self._kept: list[Any] = [form]
        names = list(form.initializers)
        if names:
            values = [_external_value(ort, form.initializers[name]) for name in names]
            self._kept.append(values)
            options.add_external_initializers(names, values)
            if provider == _CPU and not optimise:
                # The first call alone makes the session copy them all; the second lets it use them where they lie.
                for name, value in zip(names, values, strict=True):
                    options.add_initializer(name, value)
        with _silenced():
            try:
                self._session = ort.InferenceSession(
                    form.proto, sess_options=options, providers=_provider_options(provider)
                )
            except Exception as error:
                raise RuntimeFailure(
                    f"not verifiable here: ONNX Runtime {ort.__version__}: {_one_line(error)}"
                ) from error
        self._session.disable_fallback()
        ran = list(self._session.get_providers())
        if not ran or ran[0] != provider:
            raise RuntimeFailure(f"{provider} was asked for, but the session runs on {', '.join(ran) or 'nothing'}")
        self.provider = provider
        self.output_names: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Values of ``outputs`` (all graph outputs by default) for one set of inputs.

        Returns:
            By name: an array, or a list or dict for sequences and maps, or ``None`` for an empty optional.

        Raises:
            RuntimeFailure: The run failed; the message is ONNX Runtime's, in one line.
        """
        names = list(outputs) if outputs is not None else list(self.output_names)
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:
            raise RuntimeFailure(_one_line(error)) from error
        return dict(zip(names, values, strict=True))

    def end_profiling(self) -> str:
        """Stops profiling and returns the path of the trace."""
        return str(self._session.end_profiling())


def open_session(
    model: ir.Model, provider: str, extra_outputs: Sequence[str] = (), *, optimise: bool = False
) -> Session:
    """A session of ``model`` whose outputs are the graph's and ``extra_outputs``, its weights used where they lie.

    Raises:
        RuntimeFailure: ONNX Runtime cannot load the model here.
    """
    from onnxmorph.model import RuntimeForm, runtime_form

    form = runtime_form(model, tuple(extra_outputs))
    # ONNX Runtime drops initializers nobody uses before it looks for those it was handed, and fails to find them.
    used = {
        name: array
        for name, array in form.initializers.items()
        if model.graph.initializers[name].uses() or model.graph.initializers[name].is_graph_output()
    }
    return Session(RuntimeForm(form.proto, used), provider, optimise=optimise)


def _external_value(ort: Any, array: np.ndarray[Any, Any]) -> Any:
    """An ``OrtValue`` over the array's own memory; types numpy lacks travel as their bits with their ONNX type."""
    from onnxmorph._ir import ir

    dtype = ir.DataType.from_numpy(array.dtype)
    if dtype in (ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2):
        bits = array.view("uint16" if array.dtype.itemsize == 2 else "uint8")
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, int(dtype))
    return ort.OrtValue.ortvalue_from_numpy(array)


@functools.cache
def _probe_cuda() -> str | None:
    """``None`` when a small convolution and product really ran on CUDA and gave the right numbers, else why not."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    ort = _onnxruntime()
    if _CUDA not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider"
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("MatMul", ["c", "c"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4])],
        [onnx.numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with _silenced():
        with contextlib.suppress(Exception):
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()
        try:
            session = ort.InferenceSession(
                model.SerializeToString(), sess_options=options, providers=_provider_options(_CUDA)
            )
            session.disable_fallback()
            if _CUDA not in session.get_providers():
                return "CUDA cannot be used on this machine (no usable device or CUDA/cuDNN libraries missing)"
            (result,) = session.run(None, {"x": np.ones((1, 1, 6, 6), np.float32)})
        except Exception as error:
            return f"a trial run on CUDA failed: {_one_line(error)}"
    if not np.array_equal(result, np.full((1, 1, 4, 4), 324.0, np.float32)):
        return "a trial run on CUDA gave wrong numbers"
    return None


def choose_provider(wanted: Provider = "auto") -> ProviderChoice:
    """The provider to verify on.

    Raises:
        RuntimeFailure: ``"cuda"`` was asked for and does not work here; there is no silent fall-back.
        ValueError: ``wanted`` is none of ``auto``, ``cuda``, ``cpu``.
    """
    if wanted not in ("auto", "cuda", "cpu"):
        raise ValueError(f"provider {wanted!r} is not one of auto, cuda, cpu")
    if wanted == "cpu":
        return ProviderChoice(_CPU, "asked for")
    why_not = _probe_cuda()
    if why_not is None:
        return ProviderChoice(_CUDA, "asked for" if wanted == "cuda" else "a trial run on CUDA worked")
    if wanted == "cuda":
        raise RuntimeFailure(f"CUDA was asked for, but {why_not}")
    return ProviderChoice(_CPU, why_not)


def providers_by_node(
    form: RuntimeForm, feeds: Mapping[str, Any], provider: str, *, optimise: bool = False
) -> dict[str, str]:
    """Which provider ran each node, from a profile of one run.

    Returns:
        Node name (or ``"op#index"`` where the node has none) to execution provider name.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = Session(form, provider, optimise=optimise, profile=str(Path(folder) / "trace"))
        session.run(feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran: dict[str, str] = {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and arguments.get("provider"):
            name = str(event["name"]).removesuffix("_kernel_time")
            ran[name or f"{arguments.get('op_name', 'node')}#{arguments.get('node_index', len(ran))}"] = str(
                arguments["provider"]
            )
    return ran
