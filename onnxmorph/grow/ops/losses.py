"""Losses that are part of a graph."""

from __future__ import annotations

import torch

from onnxmorph.grow.call import Call
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor


def _likelihood(call: Call, logarithms: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Minus the logarithms at the targets, weighted by class; what is ignored counts for nothing."""
    ignored = call.attributes.get("ignore_index")
    places = target.to(torch.int64)
    counted = torch.ones_like(places, dtype=torch.bool) if ignored is None else places != ignored
    safe = torch.where(counted, places, torch.zeros_like(places))
    losses = -torch.gather(logarithms, 1, safe.unsqueeze(1)).squeeze(1)
    share = counted.to(losses.dtype) if weight is None else weight[safe] * counted
    losses = losses * share
    reduction = call.text("reduction", "mean")
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / share.sum()


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(call: Call, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Of logarithms of probabilities."""
    return _likelihood(call, x, target, weight)


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(call: Call, x: Tensor, target: Tensor, weight: Tensor | None = None) -> object:
    """Of scores; the logarithms are a further output."""
    logarithms = torch.log_softmax(x, 1)
    loss = _likelihood(call, logarithms, target, weight)
    return loss if call.outputs == 1 else (loss, logarithms)
