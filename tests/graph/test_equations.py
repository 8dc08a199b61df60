"""Equations of Einsum as those of linear layers: kernels, and factors that compose to the whole."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmorph.graph.equations import Equation, read

SIZES = {"b": 2, "t": 5, "c": 6, "i": 6, "d": 6, "h": 2, "k": 4, "j": 8, "o": 8, "e": 3, "f": 4}

LINEAR = [
    "bti,ij->btj",
    "...i,ji->...j",
    "bct,oc->bot",
    "bct,co->bto",
    "btd,dhk->bthk",
    "btd,dhk->bhtk",
    "btd,hdk->bhkt",
    "bthk,hkd->btd",
    "bhtk,khd->btd",
    "btd,edf->betf",
    "bth,hd",
]


def drawn(labels: str) -> np.ndarray:
    return np.random.default_rng(len(labels)).standard_normal([SIZES[label] for label in labels])


def understood(text: str, weight_position: int = 1) -> Equation:
    weight = text.partition("->")[0].split(",")[weight_position]
    found = read(text, weight_position, tuple(SIZES[label] for label in weight))
    assert isinstance(found, Equation), found
    return found


@pytest.mark.parametrize("text", LINEAR)
def test_factors_compose_to_the_whole(text: str) -> None:
    data, weight = text.partition("->")[0].split(",")
    equation = understood(text)
    x, w = drawn(data.replace("...", "bt")), drawn(weight)
    parent = np.einsum(text, x, w)
    kernel = equation.kernel(w)
    assert kernel.shape == (equation.out_channels, equation.in_channels)
    whole, again = equation.factor(kernel, first=True, last=True)
    assert again.shape == w.shape
    np.testing.assert_allclose(np.einsum(whole, x, again), parent)
    last = np.random.default_rng(1).standard_normal((kernel.shape[0], 9))
    factors = [np.linalg.pinv(last) @ kernel, np.eye(9), last]
    if kernel.shape[0] > 9:
        factors = [kernel, np.eye(kernel.shape[0]), np.eye(kernel.shape[0])]
    value = x
    for index, factor in enumerate(factors):
        step, numbers = equation.factor(factor, first=index == 0, last=index == 2)
        value = np.einsum(step, value, numbers)
        if index < 2:
            assert value.shape[equation.output_axis] == factor.shape[0]
    if kernel.shape[0] <= 9:
        np.testing.assert_allclose(value, parent, atol=1e-9)


@pytest.mark.parametrize("text", [text for text in LINEAR if "->" in text])
def test_the_weight_may_come_first(text: str) -> None:
    left, _, output = text.partition("->")
    data, weight = left.split(",")
    turned = understood(f"{weight},{data}->{output}", 0)
    plain = understood(text)
    assert (turned.taken, turned.made, turned.data_position) == (plain.taken, plain.made, 1)
    np.testing.assert_array_equal(turned.kernel(drawn(weight)), plain.kernel(drawn(weight)))


def test_channels_in_place_and_on_several_axes_are_told_apart() -> None:
    assert understood("bct,oc->bot").in_place
    assert understood("...i,ji->...j").in_place
    moved = understood("bct,co->bto")
    assert moved.plain and not moved.in_place
    assert (moved.input_axis, moved.output_axis) == (-2, -1)
    assert not understood("btd,dhk->bthk").plain


@pytest.mark.parametrize(
    ("text", "dims", "why"),
    [
        ("bii,ij->bij", (6, 8), "diagonal"),
        ("bti,tij->btj", (5, 6, 8), "matrix of its own for every 't'"),
        ("bti,ij->bj", (6, 8), "sums over 't'"),
        ("bti,ijk->btj", (6, 8, 4), "sums over 'k'"),
        ("bti,i->bt", (6,), "no channels out"),
        ("bti,j->btij", (8,), "no channels in"),
        ("bti,...j->btij", (1, 8), "ellipsis|fit"),
        ("bi...,ij->bj...", (6, 8), "ellipsis"),
        ("bti,ij,jk->btk", (6, 8), "two operands"),
        ("bti,ijk->btj", (6, 8), "does not fit"),
    ],
)
def test_what_is_no_linear_layer_says_why(text: str, dims: tuple[int, ...], why: str) -> None:
    import re

    found = read(text, 1, dims)
    assert isinstance(found, str) and re.search(why, found), found
