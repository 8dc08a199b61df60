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
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnxmorph.errors import RuntimeFailure
from onnxmorph.runtime_form import NOWHERE

if TYPE_CHECKING:
    import numpy as np

    from onnxmorph._ir import ir
    from onnxmorph.model import RuntimeForm

__all__ = [
    "Prepared",
    "Provider",
    "ProviderChoice",
    "Session",
    "choose_provider",
    "choose_providers",
    "open_session",
    "prepare",
    "providers_by_node",
    "runtime_version",
    "settings",
    "threads",
]

Provider = Literal["auto", "cuda", "cpu", "both"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_MOST_THREADS = 8
_FIRST_IR_WITH_FREE_INITIALIZERS = 4
_CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


@dataclass(frozen=True)
class ProviderChoice:
    """The execution provider sessions are made on, and why this one."""

    name: str
    reason: str


@functools.cache
def _onnxruntime() -> Any:
    """ONNX Runtime, imported once, with TF32 forbidden before the CUDA libraries can read the environment."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    with _silence:
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


class _Silence:
    """File descriptors 1 and 2 lead nowhere: C code prints there, past ``sys.stdout``, and would break ``--json``.

    They belong to the whole process. Of several threads the first to come turns them away and the last to go turns them
    back; each by itself would take another's nowhere for what was there before, and leave it so.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._turn_away()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._turn_back()

    def _turn_away(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            for descriptor in (1, 2):
                try:
                    self._saved.append((descriptor, os.dup(descriptor)))
                except OSError:  # closed by the caller: nothing to protect
                    continue
                os.dup2(sink, descriptor)
        except BaseException:
            self._turn_back()
            raise
        finally:
            os.close(sink)

    def _turn_back(self) -> None:
        while self._saved:
            descriptor, copy = self._saved.pop()
            os.dup2(copy, descriptor)
            os.close(copy)


_silence = _Silence()


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
        return [(_CUDA, dict(_CUDA_OPTIONS)), _CPU]
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
        profile: Prefix of the trace to write.
        exchangeable: Names of initializers to hold as copies of the session's own, which `exchanged` can overwrite.
            Only the reference tier on the CPU reads weights where they lie: elsewhere there are none.

    Raises:
        RuntimeFailure: ONNX Runtime cannot load the model here, or gave another provider than was asked for.
    """

    def __init__(
        self,
        form: RuntimeForm,
        provider: str,
        *,
        optimise: bool = False,
        profile: str | None = None,
        exchangeable: Collection[str] = (),
    ) -> None:
        ort = _onnxruntime()
        options = _options(ort, optimise)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        self._kept: list[Any] = [form]
        in_place = provider == _CPU and not optimise
        self._own: dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
        arrays = dict(form.initializers)
        for name in exchangeable if in_place else ():
            if name in arrays:
                self._own[name] = (arrays[name].copy(), arrays[name])
                arrays[name] = self._own[name][0]
        values = {name: _external_value(ort, array) for name, array in arrays.items()}
        self._kept.append(values)
        try:
            self._session = _create(ort, form.proto, options, provider, values, in_place)
        except Exception as error:
            raise RuntimeFailure(f"not verifiable here: ONNX Runtime {ort.__version__}: {_one_line(error)}") from error
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

    @property
    def exchangeable(self) -> Collection[str]:
        """Names of the initializers that `exchanged` takes."""
        return self._own.keys()

    @contextlib.contextmanager
    def exchanged(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Iterator[None]:
        """Runs inside go with these numbers in the place of the weights of these names.

        The session reads its initializers where they lie, so that no other session is needed to try other numbers.
        """
        import numpy as np

        try:
            for name, array in arrays.items():
                np.copyto(self._own[name][0], array, casting="unsafe")
            yield
        finally:
            for name in arrays:
                own, original = self._own[name]
                np.copyto(own, original)

    def end_profiling(self) -> str:
        """Stops profiling and returns the path of the trace."""
        return str(self._session.end_profiling())


@dataclass(frozen=True)
class Prepared:
    """A model in the form ONNX Runtime takes, made once for all its sessions.

    Attributes:
        form: With the model's own outputs. Weights that could be exchanged are outside the proto, however small.
        infos: What to append to the serialized form for one more output, by name of a value of the main graph.
        weights: Names of the initializers of the main graph that are weights.
    """

    form: RuntimeForm
    infos: Mapping[str, bytes]
    weights: frozenset[str]

    def with_outputs(self, names: Sequence[str]) -> RuntimeForm:
        """The form with more outputs; serialized messages that follow each other are merged by every reader."""
        from onnxmorph.model import RuntimeForm

        return RuntimeForm(self.form.proto + b"".join(self.infos[name] for name in names), self.form.initializers)


def prepare(model: ir.Model) -> Prepared:
    """Writes a model for ONNX Runtime, its weights used where they lie.

    Raises:
        ModelError: The model is over 2 GiB without its initializers.
    """
    from onnxmorph.model import RuntimeForm, runtime_form
    from onnxmorph.verify.noise import movable

    model = _with_defaults(model)
    weights = frozenset(
        str(value.name)
        for value in model.graph.initializers.values()
        if value.const_value is not None and not value.is_graph_input() and movable(value, value.const_value)
    )
    form = runtime_form(model, apart=weights)
    # ONNX Runtime drops initializers nobody uses before it looks for those it was handed, and fails to find them.
    used = {
        name: array
        for name, array in form.initializers.items()
        if model.graph.initializers[name].uses() or model.graph.initializers[name].is_graph_output()
    }
    values = [value for node in model.graph for value in node.outputs if value.name]
    infos = _Infos({str(value.name): value for value in [*model.graph.inputs, *values]})
    return Prepared(RuntimeForm(form.proto, used), infos, weights & used.keys())


def _with_defaults(model: ir.Model) -> ir.Model:
    """The model without the inputs that have defaults: nothing is fed to them here.

    A weight that could be fed is not packed and no node is fused with it, so that the same model with its weights as
    constants would be rounded differently.
    """
    given = [value for value in model.graph.inputs if value.is_initializer()]
    if not given or model.ir_version < _FIRST_IR_WITH_FREE_INITIALIZERS:
        return model
    from onnxmorph.model import clone

    names = {value.name for value in given}
    copy = clone(model)
    kept = [value for value in copy.graph.inputs if value.name not in names]
    copy.graph.inputs.clear()
    copy.graph.inputs.extend(kept)
    return copy


class _Infos(Mapping[str, bytes]):
    """Declarations of outputs, serialized when they are asked for."""

    def __init__(self, values: Mapping[str, ir.Value]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> bytes:
        import onnx

        from onnxmorph._ir import ir

        model = onnx.ModelProto()
        info = model.graph.output.add(name=name)
        kind = self._values[name].type
        if kind is not None:
            ir.serde.serialize_type_into(info.type, kind)
        return bytes(model.SerializeToString())

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _options(ort: Any, optimise: bool) -> Any:
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
    # What is fused for 4-bit weights rounds the activations to 8 bits at the default level (4). Whether it is fused
    # depends on what follows the layer, so one of two equal models may get the rounding and the other none.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return options


def _create(ort: Any, proto: bytes, options: Any, provider: str, values: Mapping[str, Any], in_place: bool) -> Any:
    """The session, its initializers where they lie where that can be, else as copies of ONNX Runtime's own."""
    if values and in_place:
        for name, value in values.items():
            options.add_initializer(name, value)
        # The proto says that they are in a file. ONNX Runtime looks whether it is there, and never into it: empty, it
        # can give no numbers. Handing them over as external initializers copies every one first.
        with tempfile.TemporaryDirectory(prefix="onnxmorph-") as folder:
            (Path(folder) / NOWHERE).touch()
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            with contextlib.suppress(Exception), _silence:
                return ort.InferenceSession(proto, sess_options=options, providers=_provider_options(provider))
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    with _silence:
        return ort.InferenceSession(proto, sess_options=options, providers=_provider_options(provider))


def open_session(
    model: ir.Model | Prepared,
    provider: str,
    extra_outputs: Sequence[str] = (),
    *,
    optimise: bool = False,
    exchangeable: Collection[str] = (),
) -> Session:
    """A session of ``model`` whose outputs are the graph's and ``extra_outputs``, its weights used where they lie.

    Raises:
        RuntimeFailure: ONNX Runtime cannot load the model here.
    """
    prepared = model if isinstance(model, Prepared) else prepare(model)
    form = prepared.with_outputs(extra_outputs)
    return Session(form, provider, optimise=optimise, exchangeable=exchangeable)


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
    with _silence:
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


def choose_providers(wanted: Provider = "auto") -> list[ProviderChoice]:
    """The providers to verify on, one after the other: CUDA and the CPU for ``both``, else one.

    Raises:
        RuntimeFailure: CUDA was asked for, alone or with the CPU, and does not work here.
        ValueError: ``wanted`` is none of ``auto``, ``cuda``, ``cpu``, ``both``.
    """
    if wanted == "both":
        return [choose_provider("cuda"), choose_provider("cpu")]
    return [choose_provider(wanted)]


def settings(provider: str) -> dict[str, Any]:
    """How every session on this provider is set up, as it stands in a certificate."""
    common = {"deterministic": True, "optimisations": ["off", "on"]}
    if provider != _CUDA:
        return common
    return {**common, "tf32": False, "cudnn_conv_algo_search": _CUDA_OPTIONS["cudnn_conv_algo_search"]}


def choose_provider(wanted: Literal["auto", "cuda", "cpu"] = "auto") -> ProviderChoice:
    """The provider to verify on.

    Raises:
        RuntimeFailure: ``"cuda"`` was asked for and does not work here; there is no silent fall-back.
        ValueError: ``wanted`` is none of ``auto``, ``cuda``, ``cpu``.
    """
    if wanted not in ("auto", "cuda", "cpu"):
        raise ValueError(f"provider {wanted!r} is not one of auto, cuda, cpu, both")
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
