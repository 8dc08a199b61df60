"""Other numbers in stored tensors, wherever they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.edit import set_initializer
from onnxmorph.errors import Refusal
from onnxmorph.grow.sites import Site, sites

__all__ = ["matching_site", "with_values"]

Array = np.ndarray[Any, Any]


def with_values(model: ir.Model, values: Mapping[str, Array]) -> ir.Model:
    """A copy of ``model`` with other numbers in the tensors of these keys, rounded to their stored types.

    Graph, names, types and metadata stay; what does not change is shared. A certificate goes, being of other weights.

    Args:
        model: Left as it is.
        values: By the keys of `onnxmorph.grow.sites.sites`, in the stored shapes.

    Raises:
        Refusal: The model has no such tensor, or it has another shape (``other-model``).
    """
    child = files.clone(model)
    by_key = {site.key: site for site in sites(child).values()}
    for key, array in values.items():
        site = matching_site(by_key, key, array.shape)
        rounded = np.asarray(array).astype(site.tensor.dtype.numpy())
        node = site.value.producer()
        if node is None:
            set_initializer(site.value, rounded, site.tensor.dtype)
        else:
            _set_constant(node, rounded, site.tensor.dtype)
    if values:
        files.drop_certificate(child)
    return child


def matching_site(by_key: Mapping[str, Site], key: str, shape: Sequence[int]) -> Site:
    """Where a model stores the tensor of this key and shape.

    Raises:
        Refusal: Nowhere, or in another shape (``other-model``).
    """
    site = by_key.get(key)
    if site is None or tuple(shape) != tuple(site.tensor.shape.numpy()):
        what = "is not in the model" if site is None else "has another shape in the model"
        raise Refusal(f"the tensor '{key}' {what}", code="other-model")
    return site


def _set_constant(node: ir.Node, array: Array, dtype: ir.DataType) -> None:
    """Give a Constant node other numbers, in the attribute that it has."""
    ((name, old),) = node.attributes.items()
    if name == "value":
        node.attributes[name] = ir.AttrTensor(name, ir.Tensor(array, dtype=dtype, name=old.as_tensor().name))
    elif name == "value_float":
        node.attributes[name] = ir.AttrFloat32(name, float(array.reshape(())))
    else:
        node.attributes[name] = ir.AttrFloat32s(name, [float(one) for one in array.reshape(-1)])
