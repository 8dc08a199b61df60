"""What a person may type for sizes and shapes."""

from __future__ import annotations

import click
import pytest

from onnxmorph_cli.options import input_shape, kernel


@pytest.mark.parametrize(("text", "sizes"), [("3", 3), ("1", 1), ("3x5", (3, 5)), ("3x3x3", (3, 3, 3))])
def test_kernels(text: str, sizes: int | tuple[int, ...]) -> None:
    assert kernel(text) == sizes


@pytest.mark.parametrize("text", ["", "0", "3x", "x3", "3x0", "-1", "3,5", "3.5", "٣"])
def test_what_is_no_kernel_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter):
        kernel(text)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("x:2,3,64,64", ("x", (2, 3, 64, 64))),
        ("serving:input:0:1,8", ("serving:input:0", (1, 8))),
        ("scalar:", ("scalar", ())),
        ("past:1,0,4", ("past", (1, 0, 4))),
    ],
)
def test_shapes(text: str, shape: tuple[str, tuple[int, ...]]) -> None:
    assert input_shape(text) == shape


@pytest.mark.parametrize("text", ["", "x", ":1,2", "x:1,", "x:1;2", "x:a", "x:-1"])
def test_what_is_no_shape_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.BadParameter):
        input_shape(text)
