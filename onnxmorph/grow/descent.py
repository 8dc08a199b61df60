"""Steps of AdamW and SGD, on lists of tensors.

The same arithmetic as torch's own optimizers, in the same order, so the same bits. Those import torch's compiler when
they are made, which takes longer than many a training of a small network.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["SGD", "AdamW", "Descent"]

Tensor = torch.Tensor
Group = dict[str, Any]
"""``params``, ``lr``, ``weight_decay``, and what else whoever made it keeps there."""


class Descent:
    """Groups of parameters, each with a rate of its own, and what is remembered of each parameter.

    Attributes:
        param_groups: See :data:`Group`; the rates may be set at any time.
        state: By parameter.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.param_groups: list[Group] = list(groups)
        self.state: dict[Tensor, dict[str, Any]] = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; ``set_to_none`` as torch's optimizers take it."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if set_to_none:
                    tensor.grad = None
                elif tensor.grad is not None:
                    tensor.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients that are there; parameters without one stay, and remember nothing."""
        for group in self.param_groups:
            moved = [tensor for tensor in group["params"] if tensor.grad is not None]
            if moved:
                self._move(group, moved, [tensor.grad for tensor in moved])

    def _move(self, group: Group, tensors: list[Tensor], slopes: Sequence[Tensor]) -> None:
        raise NotImplementedError


class AdamW(Descent):
    """Adam with decoupled weight decay (Loshchilov & Hutter, *Decoupled Weight Decay Regularization*, 2019).

    ``p -= lr * decay * p``, then ``p -= lr * m^ / (sqrt(v^) + eps)`` with running means ``m`` of slopes and ``v`` of
    their squares, corrected for their start at zero.
    """

    def __init__(
        self, groups: Sequence[Group], *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(groups)
        self.betas, self.eps = betas, eps

    def _move(self, group: Group, tensors: list[Tensor], slopes: Sequence[Tensor]) -> None:
        first, second = self.betas
        by_step: dict[float, list[int]] = {}
        for place, tensor in enumerate(tensors):
            state = self.state.setdefault(tensor, {})
            if not state:
                state |= {"step": torch.tensor(0.0)}
                state |= {name: torch.zeros_like(tensor) for name in ("exp_avg", "exp_avg_sq")}
            state["step"] = state["step"] + 1
            by_step.setdefault(float(state["step"]), []).append(place)
        for step, places in by_step.items():
            moved, along = [tensors[place] for place in places], [slopes[place] for place in places]
            means = [self.state[tensor]["exp_avg"] for tensor in moved]
            squares = [self.state[tensor]["exp_avg_sq"] for tensor in moved]
            torch._foreach_mul_(moved, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_lerp_(means, along, 1.0 - first)
            torch._foreach_mul_(squares, second)
            torch._foreach_addcmul_(squares, along, along, 1.0 - second)
            size = torch._foreach_sqrt(squares)
            torch._foreach_div_(size, (1.0 - second**step) ** 0.5)
            torch._foreach_add_(size, self.eps)
            torch._foreach_addcdiv_(moved, means, size, -(group["lr"] / (1.0 - first**step)))


class SGD(Descent):
    """Stochastic gradient descent with Nesterov's momentum, as torch has it (Sutskever et al., 2013).

    ``b = momentum * b + g``, ``p -= lr * (g + momentum * b)``, weight decay being part of ``g``.
    """

    def __init__(self, groups: Sequence[Group], *, momentum: float = 0.9) -> None:
        super().__init__(groups)
        self.momentum = momentum

    def _move(self, group: Group, tensors: list[Tensor], slopes: Sequence[Tensor]) -> None:
        if group["weight_decay"]:
            slopes = torch._foreach_add(list(slopes), tensors, alpha=group["weight_decay"])
        if self.momentum:
            # A buffer begins as the first slope, not as its share of it.
            held = [bool(self.state.get(tensor)) for tensor in tensors]
            for tensor, slope, is_held in zip(tensors, slopes, held, strict=True):
                if not is_held:
                    self.state[tensor] = {"momentum_buffer": slope.detach().clone()}
            buffers = [self.state[tensor]["momentum_buffer"] for tensor in tensors]
            going = list(itertools.compress(buffers, held))
            if going:
                torch._foreach_mul_(going, self.momentum)
                torch._foreach_add_(going, list(itertools.compress(slopes, held)))
            slopes = torch._foreach_add(list(slopes), buffers, alpha=self.momentum)
        torch._foreach_add_(tensors, list(slopes), alpha=-group["lr"])
