"""The notation of NM: what it reads, and errors that point into the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmorph.morphs.template import TemplateError, parse_template


def sizes(text: str) -> list[list[tuple[tuple[int, ...], int]]]:
    return [[(factor.kernel, factor.width) for factor in path] for path in parse_template(text).paths]


def test_the_papers_networks_are_read() -> None:
    assert sizes("(5:32)(5:32)(5:64)") == [[((5,), 32), ((5,), 32), ((5,), 64)]]
    assert sizes("[(5:32x4)(1:32)]x2[(5:64x4)(1:64)]") == [
        [((5,), 128), ((1,), 32), ((5,), 128), ((1,), 32), ((5,), 256), ((1,), 64)]
    ]


def test_paths_options_and_kernels_per_axis_are_read() -> None:
    template = parse_template(" (3x5:64, relu, bn, mirror) (1:64,none) | (1:64) ")
    first, second = template.paths[0]
    assert (first.kernel, first.width, first.activation, first.batch_norm, first.gap) == (
        (3, 5),
        64,
        "relu",
        True,
        "mirror",
    )
    assert (second.activation, second.batch_norm, second.gap) == ("none", False, None)
    assert len(template.paths) == 2


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("", 0),
        ("3:64", 0),
        ("(3:64", 5),
        ("(3-64)", 2),
        ("(3:)", 3),
        ("(0:64)", 1),
        ("(3:64)x2", 6),
        ("[(3:64)x2", 7),
        ("(3:64)||(1:64)", 7),
        ("(3:64,relu,gelu)", 11),
        ("(3:64,)", 6),
        ("(3:64,mirror,netmorph)", 13),
        ("[(1:1)]x999", 0),
    ],
)
def test_errors_point_into_the_text(text: str, at: int) -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template(text)
    assert caught.value.at == at
    assert caught.value.pointed.splitlines()[-1] == "  " + " " * at + "^"
    assert f"at character {at + 1}" in str(caught.value)


@given(st.text(alphabet="()[]x|:,0123456789 relubn", max_size=40))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        assert parse_template(text).paths
    except TemplateError as error:
        assert 0 <= error.at <= len(text)
