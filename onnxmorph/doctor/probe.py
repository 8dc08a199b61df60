"""ONNX Runtime at work: what it says of itself, and what it then really does. Runs in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["main", "probe"]


def main() -> None:
    """Prints what :func:`probe` finds as JSON on stdout, and what libraries print there on stderr instead."""
    answer = os.dup(1)
    os.dup2(2, 1)
    text = json.dumps(probe())
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        stream.write(text)
    # Libraries of a provider that failed half way may crash when they are unloaded; all is said by now.
    os._exit(0)


def probe() -> dict[str, Any]:
    """What ONNX Runtime says and does in this process.

    Returns:
        ``error`` where it cannot be imported, else ``version``, ``file``, ``listed`` (providers it names), ``usable``
        (those that a session really ran on), ``why`` (what the others answered), ``libraries`` (CUDA libraries the CUDA
        provider needs, each with whether it loads), ``opset`` and ``ir`` (the largest it takes), ``tf32``.
    """
    tf32 = os.environ.get("NVIDIA_TF32_OVERRIDE")
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    try:
        import onnxruntime
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    if not hasattr(onnxruntime, "InferenceSession"):
        return {"error": f"{getattr(onnxruntime, '__path__', '?')}: a folder without a runtime in it"}
    said: dict[str, Any] = {
        "version": onnxruntime.__version__,
        "file": onnxruntime.__file__,
        "listed": list(onnxruntime.get_available_providers()),
        "tf32_override": tf32,
    }
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.suppress(Exception):
            onnxruntime.preload_dlls()
    with contextlib.suppress(Exception):
        onnxruntime.set_default_logger_severity(4)
    said["libraries"] = _cuda_libraries(Path(onnxruntime.__file__).parent / "capi")
    try:
        import onnx

        newest = onnx.defs.onnx_opset_version(), int(onnx.IR_VERSION)
    except Exception as error:
        return {**said, "usable": [], "why": {}, "error_onnx": f"{type(error).__name__}: {error}"}
    usable, why = [], {}
    for provider in said["listed"]:
        answer = _try(onnxruntime, _tiny(13, 7), provider)
        if answer is None:
            usable.append(provider)
        else:
            why[provider] = answer
    cpu = "CPUExecutionProvider"
    said |= {"usable": usable, "why": why}
    said["opset"] = next((n for n in range(newest[0], 6, -1) if _try(onnxruntime, _tiny(n, 7), cpu) is None), None)
    said["ir"] = next((n for n in range(newest[1], 2, -1) if _try(onnxruntime, _tiny(13, n), cpu) is None), None)
    return said


def _tiny(opset: int, ir_version: int) -> bytes:
    """A convolution of ``x`` with itself and a product of the result with itself: makes CUDA load cuDNN and cuBLAS."""
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1])
    nodes = [helper.make_node("Conv", ["x", "x"], ["z"]), helper.make_node("MatMul", ["z", "z"], ["y"])]
    graph = helper.make_graph(nodes, "tiny", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    data: bytes = model.SerializeToString()
    return data


def _try(onnxruntime: Any, model: bytes, provider: str) -> str | None:
    """``None`` when a session on ``provider`` ran ``model``, else why not.

    A session asked for a provider that fails to load silently becomes one on the CPU, so what counts is the provider
    that the session names afterwards.
    """
    import numpy as np

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[provider])
        if provider not in session.get_providers():
            return f"a session asked for it ran on {', '.join(session.get_providers())} instead"
        session.run(None, {"x": np.ones((1, 1, 2, 2), dtype=np.float32)})
    except Exception as error:
        return " ".join(str(error).split())
    return None


def _cuda_libraries(folder: Path) -> dict[str, bool]:
    """The CUDA libraries that the CUDA provider was linked with, each with whether it can be loaded now."""
    provider = folder / "libonnxruntime_providers_cuda.so"
    if not provider.is_file():
        return {}
    import ctypes

    loadable = {}
    # cuDNN is not linked but opened by name at the first convolution.
    for name in [*_needed(provider), "libcudnn.so.9"]:
        if not name.startswith(("libcu", "libnv")):
            continue
        try:
            ctypes.CDLL(name)
            loadable[name] = True
        except OSError:
            loadable[name] = False
    return loadable


def _needed(library: Path) -> list[str]:
    """``DT_NEEDED`` of a 64-bit ELF file: names of the libraries it is linked with; ``[]`` for other files."""
    import struct

    with library.open("rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":
            return []
        (table,) = struct.unpack_from("<Q", head, 0x28)
        size, count = struct.unpack_from("<HH", head, 0x3A)
        file.seek(table)
        # name, type, flags, address, offset, size, link, info, alignment, entry size of each section
        sections = [struct.unpack("<IIQQQQIIQQ", file.read(size)[:64]) for _ in range(count)]
        dynamic = next((section for section in sections if section[1] == 6), None)  # SHT_DYNAMIC
        if dynamic is None:
            return []
        strings = sections[dynamic[6]]
        file.seek(strings[4])
        text = file.read(strings[5])
        file.seek(dynamic[4])
        entries = struct.iter_unpack("<QQ", file.read(dynamic[5] // 16 * 16))
        return [text[at : text.index(b"\0", at)].decode() for tag, at in entries if tag == 1]  # DT_NEEDED
