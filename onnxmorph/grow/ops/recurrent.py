"""LSTM, GRU and RNN. What torch has a kernel for goes there; everything else is run step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from onnxmorph.grow.call import Call
from onnxmorph.grow.ops.reading import chunks
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""ONNX stacks gates as i o f c, z r h; torch as i f g o, r z n."""


def _activation(call: Call, name: str, alpha: float | None, beta: float | None) -> Callable[[Tensor], Tensor]:
    def first(default: float) -> float:
        return default if alpha is None else alpha

    def second(default: float) -> float:
        return default if beta is None else beta

    made: dict[str, Callable[[Tensor], Tensor]] = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "affine": lambda x: first(1.0) * x + second(0.0),
        "leakyrelu": lambda x: torch.where(x > 0, x, first(0.01) * x),
        "thresholdedrelu": lambda x: torch.where(x > first(1.0), x, torch.zeros_like(x)),
        "scaledtanh": lambda x: first(1.0) * torch.tanh(second(1.0) * x),
        "hardsigmoid": lambda x: (first(0.2) * x + second(0.5)).clamp(0, 1),
        "elu": lambda x: torch.where(x > 0, x, first(1.0) * torch.expm1(x)),
        "softsign": lambda x: x / (1 + x.abs()),
        "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    }
    if name.lower() not in made:
        raise call.refuse(f"activation {name!r}")
    return made[name.lower()]


def _activations(call: Call, directions: int) -> list[list[Callable[[Tensor], Tensor]]]:
    each = len(_DEFAULTS[call.op])
    names = call.texts("activations") or _DEFAULTS[call.op] * directions
    alphas, betas = call.numbers("activation_alpha"), call.numbers("activation_beta")
    made = []
    takes_alpha = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
    takes_beta = {"affine", "scaledtanh", "hardsigmoid"}
    for name in names:
        low = name.lower()
        alpha = alphas.pop(0) if low in takes_alpha and alphas else None
        beta = betas.pop(0) if low in takes_beta and betas else None
        made.append(_activation(call, name, alpha, beta))
    return [made[each * d : each * (d + 1)] for d in range(directions)]


def _has_kernel(call: Call, lengths: Tensor | None, peepholes: Tensor | None, directions: int) -> bool:
    names = call.texts("activations") or _DEFAULTS[call.op] * directions
    usual = [name.lower() for name in names] == [name.lower() for name in _DEFAULTS[call.op] * directions]
    return (
        usual
        and lengths is None
        and peepholes is None
        and not call.attributes.get("clip")
        and not call.flag("input_forget")
        and (call.op != "GRU" or call.flag("linear_before_reset"))
    )


@operator("LSTM", "GRU", "RNN")
def recurrent(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """All outputs ``(time, direction, batch, hidden)``, the last of each direction, and the last cells of an LSTM."""
    hidden, directions = r.shape[-1], w.shape[0]
    by_batch = call.flag("layout")
    if by_batch:
        x = x.transpose(0, 1)
        initial_h = None if initial_h is None else initial_h.transpose(0, 1)
        initial_c = None if initial_c is None else initial_c.transpose(0, 1)
    batch = x.shape[1]
    zeros = x.new_zeros(directions, batch, hidden)
    h0 = zeros if initial_h is None else initial_h
    c0 = zeros if initial_c is None else initial_c
    if lengths is not None and bool((lengths == x.shape[0]).all()):
        lengths = None
    if _has_kernel(call, lengths, peepholes, directions):
        y, h, c = _by_kernel(call, x, w, r, bias, h0, c0)
    else:
        y, h, c = _by_steps(call, x, w, r, bias, lengths, h0, c0, peepholes)
    if by_batch:
        y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
    return (y, h, c) if call.op == "LSTM" else (y, h)


def _by_kernel(
    call: Call, x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None, h0: Tensor, c0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    hidden, directions, order = r.shape[-1], w.shape[0], _ORDER[call.op]

    def arranged(part: Tensor) -> Tensor:
        gates = chunks(part, hidden, 0)
        return torch.cat([gates[place] for place in order], 0) if len(order) > 1 else part

    weights: list[Tensor] = []
    for d in range(directions):
        weights += [arranged(w[d]), arranged(r[d])]
        if bias is not None:
            halves = chunks(bias[d], len(order) * hidden, 0)
            weights += [arranged(halves[0]), arranged(halves[1])]
    backwards = directions == 1 and call.text("direction", "forward") == "reverse"
    x = x.flip(0) if backwards else x
    settings = (bias is not None, 1, 0.0, False, directions == 2, False)
    c = c0
    if call.op == "LSTM":
        y, h, c = torch.lstm(x, (h0.contiguous(), c0.contiguous()), weights, *settings)
    elif call.op == "GRU":
        y, h = torch.gru(x, h0.contiguous(), weights, *settings)
    else:
        y, h = torch.rnn_tanh(x, h0.contiguous(), weights, *settings)
    y = y.flip(0) if backwards else y
    return y.reshape(*y.shape[:2], directions, hidden).transpose(1, 2), h, c


def _by_steps(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    peepholes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    results = []
    for d, functions in enumerate(_activations(call, w.shape[0])):
        wb, rb = (None, None) if bias is None else chunks(bias[d], w.shape[1], 0)
        drawn = torch.matmul(x, w[d].t()) if wb is None else torch.matmul(x, w[d].t()) + wb
        cell = _Cell(call, r[d], rb, None if peepholes is None else peepholes[d], functions)
        backwards = d == 1 or call.text("direction", "forward") == "reverse"
        results.append(_one_direction(cell, drawn, lengths, h0[d], c0[d], backwards=backwards))
    return (
        torch.stack([y for y, _, _ in results], 1),
        torch.stack([h for _, h, _ in results]),
        torch.stack([c for _, _, c in results]),
    )


@dataclass(frozen=True, eq=False)
class _Cell:
    """What the steps of one direction share.

    Attributes:
        call: The node.
        r: Recurrent weights ``(gates * hidden, hidden)``.
        bias: Of the recurrent part, ``(gates * hidden,)``.
        peepholes: Of an LSTM, ``(3 * hidden,)``.
        functions: f, g and h of the standard, as many as the operator has.
    """

    call: Call
    r: Tensor
    bias: Tensor | None
    peepholes: Tensor | None
    functions: Sequence[Callable[[Tensor], Tensor]]

    @property
    def hidden(self) -> int:
        return int(self.r.shape[-1])

    def clipped(self, x: Tensor) -> Tensor:
        limit = self.call.floating("clip", 0.0)
        return x.clamp(-limit, limit) if limit else x

    def recurred(self, h: Tensor) -> Tensor:
        """All gates' share of the state before, ``(batch, gates * hidden)``."""
        return torch.matmul(h, self.r.t()) + (0 if self.bias is None else self.bias)


def _one_direction(
    cell: _Cell, drawn: Tensor, lengths: Tensor | None, h: Tensor, c: Tensor, *, backwards: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """All outputs, the last one and the last cell; ``drawn`` is the inputs' share of the gates at all times."""
    outputs: list[Tensor] = [h] * drawn.shape[0]
    order = range(drawn.shape[0] - 1, -1, -1) if backwards else range(drawn.shape[0])
    step = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}[cell.call.op]
    for t in order:
        new_h, new_c = step(cell, drawn[t], h, c)
        if lengths is None:
            h, c, outputs[t] = new_h, new_c, new_h
        else:
            inside = (t < lengths).reshape(-1, 1)
            h, c = torch.where(inside, new_h, h), torch.where(inside, new_c, c)
            outputs[t] = torch.where(inside, new_h, torch.zeros_like(new_h))
    return torch.stack(outputs), h, c


def _lstm_step(cell: _Cell, drawn: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    peepholes, (f_of, g_of, h_of), clipped = cell.peepholes, cell.functions, cell.clipped
    i, o, f, g = chunks(drawn + cell.recurred(h), cell.hidden, 1)
    pi, po, pf = (None, None, None) if peepholes is None else chunks(peepholes, cell.hidden, 0)
    i = f_of(clipped(i if pi is None else i + pi * c))
    f = 1 - i if cell.call.flag("input_forget") else f_of(clipped(f if pf is None else f + pf * c))
    c = f * c + i * g_of(clipped(g))
    o = f_of(clipped(o if po is None else o + po * c))
    return o * h_of(c), c


def _gru_step(cell: _Cell, drawn: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    (f_of, g_of), clipped, hidden = cell.functions, cell.clipped, cell.hidden
    xz, xr, xh = chunks(drawn, hidden, 1)
    rz, rr, rh = chunks(cell.r, hidden, 0)
    bz, br, bh = (0, 0, 0) if cell.bias is None else chunks(cell.bias, hidden, 0)
    z = f_of(clipped(xz + torch.matmul(h, rz.t()) + bz))
    reset = f_of(clipped(xr + torch.matmul(h, rr.t()) + br))
    if cell.call.flag("linear_before_reset"):
        candidate = xh + reset * (torch.matmul(h, rh.t()) + bh)
    else:
        candidate = xh + torch.matmul(reset * h, rh.t()) + bh
    return (1 - z) * g_of(clipped(candidate)) + z * h, c


def _rnn_step(cell: _Cell, drawn: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return cell.functions[0](cell.clipped(drawn + cell.recurred(h))), c
