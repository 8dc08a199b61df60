"""Sessions: the provider that really ran, readable errors, nothing on stdout."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from onnxmorph.errors import RuntimeFailure
from onnxmorph.model import runtime_form
from onnxmorph.verify.runtime import choose_provider, open_session, prepare, providers_by_node, runtime_version
from tests.verify.graphs import small_model, weights

CPU = "CPUExecutionProvider"
MODEL = small_model("(float[N,4] x) => (float[N,3] y)", "h = MatMul(x, w)\n y = Relu(h)", {"w": weights(4, 3)})


def cuda_works() -> bool:
    return choose_provider("auto").name != CPU


def test_auto_says_which_provider_and_why() -> None:
    choice = choose_provider("auto")
    assert choice.name in (CPU, "CUDAExecutionProvider")
    assert choice.reason


@pytest.mark.skipif(cuda_works(), reason="CUDA works here")
def test_cuda_where_there_is_none_is_an_error() -> None:
    with pytest.raises(RuntimeFailure, match="CUDA was asked for"):
        choose_provider("cuda")


def test_unknown_provider() -> None:
    with pytest.raises(ValueError, match="auto, cuda, cpu"):
        choose_provider("tpu")  # type: ignore[arg-type]


def test_inner_values_and_outputs_by_name() -> None:
    x = weights(2, 4, seed=1)
    session = open_session(MODEL, CPU, ["h"])
    values = session.run({"x": x})
    assert set(values) == {"h", "y"}
    np.testing.assert_allclose(values["h"], x @ weights(4, 3), rtol=1e-5)
    assert list(session.run({"x": x}, ["y"])) == ["y"]


def test_initializers_nobody_uses_do_not_matter() -> None:
    big = weights(64, 64)
    model = small_model("(float[N,4] x) => (float[N,4] y)", "y = Relu(x)", {"unused": big})
    assert open_session(model, CPU).run({"x": weights(1, 4)})["y"].shape == (1, 4)


def test_errors_are_one_line_without_source_paths() -> None:
    model = small_model("(float[N,4] x) => (float[N,4] y)", "y = com.example.Mystery(x)", more=', "com.example" : 1')
    with pytest.raises(RuntimeFailure) as caught:
        open_session(model, CPU)
    text = str(caught.value)
    assert text.startswith("not verifiable here: ONNX Runtime " + runtime_version())
    assert "\n" not in text and "onnxruntime_src" not in text and "[ONNXRuntimeError]" not in text
    assert "Mystery" in text


def test_opset_from_the_future() -> None:
    model = small_model("(float[N,4] x) => (float[N,4] y)", "y = Relu(x)")
    model.opset_imports[""] = 99
    with pytest.raises(RuntimeFailure, match="not verifiable here"):
        open_session(model, CPU)


def test_which_provider_ran_each_node() -> None:
    ran = providers_by_node(runtime_form(MODEL), {"x": weights(2, 4)}, CPU)
    assert len(ran) == 2
    assert set(ran.values()) == {CPU}


def test_nothing_is_printed_and_tf32_is_forbidden() -> None:
    code = (
        "import os\n"
        "from onnxmorph.verify.runtime import choose_provider, runtime_version\n"
        "runtime_version(); choose_provider('auto')\n"
        "assert os.environ['NVIDIA_TF32_OVERRIDE'] == '0'\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NVIDIA_TF32_OVERRIDE"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_weights_that_could_be_fed_run_as_the_constants_they_are_by_default() -> None:
    model = small_model("(float[N,4] x, float[4,3] w) => (float[N,3] y)", "y = MatMul(x, w)", {"w": weights(4, 3)})
    ready = prepare(model)
    assert [value.name for value in onnx.load_from_string(ready.form.proto).graph.input] == ["x"]
    assert ready.weights == {"w"}
    assert [value.name for value in model.graph.inputs] == ["x", "w"]
    x = weights(2, 4, seed=1)
    np.testing.assert_allclose(open_session(model, CPU).run({"x": x})["y"], x @ weights(4, 3), rtol=1e-5)


def test_threads_that_open_sessions_leave_stdout_where_it_was() -> None:
    """The first to come turns it away and the last to go turns it back, in whatever order they go."""
    from onnxmorph.verify.runtime import _Silence

    def where() -> list[tuple[int, int]]:
        return [(status.st_dev, status.st_ino) for status in map(os.fstat, (1, 2))]

    before = where()
    silence = _Silence()
    silence.__enter__()
    silence.__enter__()
    away = where()
    silence.__exit__(None)
    assert where() == away != before
    silence.__exit__(None)
    assert where() == before
