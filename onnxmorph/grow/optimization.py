"""Optimizers over the parameters of a graph: groups by role, rates by schedule, state by name."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from onnxmorph.errors import Refusal, SelectionError
from onnxmorph.grow.descent import SGD, AdamW, Descent
from onnxmorph.grow.graph_module import GraphModule

__all__ = ["OPTIMIZERS", "SCHEDULES", "Rates", "load_state", "make_optimizer", "set_rates", "state_by_name"]

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "constant")
_DECAYED = frozenset({"kernel", "recurrent", "embedding"})
"""Roles that weight decay pulls to zero; for the others zero is no better a place than any."""


@dataclass(frozen=True)
class Rates:
    """How fast each parameter moves at each step.

    Attributes:
        rate: The base rate.
        a_rate: Times the base, for the parameters of parametric activations: near the linear point their gradient is
            small, and with the base rate they stay there.
        factors: Further factors by role, name or glob.
        schedule: ``"cosine"`` falls to zero over all steps (Loshchilov & Hutter, 2017); ``"constant"`` stays.
        steps: All steps of the training.
        warmup: Steps over which the rate of what is warmed up rises from zero: fresh moments make the first steps of
            Adam as large as they get.
        warmed: Names of what is warmed up; ``None``: everything.
    """

    rate: float
    a_rate: float = 100.0
    factors: Mapping[str, float] | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    steps: int = 1
    warmup: int = 0
    warmed: frozenset[str] | None = None

    def factor(self, name: str, role: str) -> float:
        """Of one parameter, whatever the step."""
        found = self.a_rate if role == "a" else 1.0
        for pattern, factor in (self.factors or {}).items():
            if pattern in (role, name) or fnmatch.fnmatchcase(name, pattern):
                found *= factor
        return found

    def at(self, step: int, *, warmed: bool) -> float:
        """Times a parameter's own factor, at a step counted from 0."""
        rate = self.rate
        if self.schedule == "cosine":
            rate *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(1, self.steps))))
        if warmed and step < self.warmup:
            rate *= (step + 1) / self.warmup
        return rate


def make_optimizer(
    module: GraphModule,
    kind: str,
    rates: Rates,
    *,
    weight_decay: float,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Descent:
    """An optimizer whose groups each have one factor, one decay, and are warmed up or not.

    Raises:
        SelectionError: No optimizer is called so, or a factor is for nothing that is trained.
        Refusal: Nothing is trained.
    """
    if kind not in OPTIMIZERS:
        raise SelectionError(f"no optimizer is called {kind!r}; there are {', '.join(OPTIMIZERS)}")
    trained = {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
    if not trained:
        raise Refusal("nothing of the model is trained", way_out="freeze less", code="no-gradient")
    for pattern in rates.factors or {}:
        if not any(
            pattern in (name, module.roles[name]) or fnmatch.fnmatchcase(name, pattern) for name in module.roles
        ):
            raise SelectionError(f"no tensor and no role is called {pattern!r}")
    groups: dict[tuple[float, float, bool], list[tuple[str, torch.nn.Parameter]]] = {}
    for name, tensor in trained.items():
        role = module.roles[name]
        warmed = rates.warmup > 0 and (rates.warmed is None or name in rates.warmed)
        decay = weight_decay if role in _DECAYED else 0.0
        groups.setdefault((rates.factor(name, role), decay, warmed), []).append((name, tensor))
    settings: list[dict[str, Any]] = [
        {
            "params": [tensor for _, tensor in members],
            "names": [name for name, _ in members],
            "weight_decay": decay,
            "factor": factor,
            "warmed": warmed,
            "lr": rates.rate * factor,
        }
        for (factor, decay, warmed), members in groups.items()
    ]
    if kind == "adamw":
        return AdamW(settings, betas=betas)
    return SGD(settings, momentum=momentum)


def set_rates(optimizer: Descent, rates: Rates, step: int) -> float:
    """Set the rate of every group for a step; gives the base rate."""
    for group in optimizer.param_groups:
        group["lr"] = rates.at(step, warmed=group["warmed"]) * group["factor"]
    return rates.at(step, warmed=False)


def state_by_name(optimizer: Descent) -> dict[str, dict[str, Any]]:
    """The state of an optimizer made by `make_optimizer`, by the names of the parameters."""
    found = {}
    for group in optimizer.param_groups:
        for name, tensor in zip(group["names"], group["params"], strict=True):
            state = optimizer.state.get(tensor)
            if state:
                found[name] = {
                    key: value.detach().clone() if isinstance(value, torch.Tensor) else value
                    for key, value in state.items()
                }
    return found


def load_state(
    optimizer: Descent, state: Mapping[str, Mapping[str, Any]], *, only: Collection[str] | None = None
) -> None:
    """Put a state by name into an optimizer; what it has nothing of starts anew.

    Raises:
        Refusal: A moment has another shape than its parameter (``other-model``).
    """
    for group in optimizer.param_groups:
        for name, tensor in zip(group["names"], group["params"], strict=True):
            given = state.get(name)
            if given is None or (only is not None and name not in only):
                continue
            placed: dict[str, Any] = {}
            for key, value in given.items():
                if not isinstance(value, torch.Tensor):
                    placed[key] = value
                elif key == "step":
                    placed[key] = value.clone()
                elif value.shape != tensor.shape:
                    raise Refusal(
                        f"the optimizer's state of '{name}' has shape {tuple(value.shape)}, not {tuple(tensor.shape)}",
                        way_out="carry it over with transfer_optimizer",
                        code="other-model",
                    )
                else:
                    placed[key] = value.to(device=tensor.device, dtype=tensor.dtype, copy=True)
            optimizer.state[tensor] = placed
