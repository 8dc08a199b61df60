"""Parent and child as they are run: opened, fed, and their values flattened under the parent's names."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.verify.compare import flatten
from onnxmorph.verify.feeds import Feeds
from onnxmorph.verify.noise import is_floating, with_tensors
from onnxmorph.verify.runtime import Prepared, Session, open_session, prepare, providers_by_node
from onnxmorph.verify.stochastic import cut
from onnxmorph.verify.upcast import upcast

__all__ = ["Runnable", "Running", "Stage", "Values"]

Array = np.ndarray[Any, Any]
Values = dict[str, Array | None]

_LARGE = 1 << 24
_MOST_EXCHANGED = 1 << 26
"""Bytes of weights up to which a session holds copies of its own, so that other numbers need no other session."""


@dataclass
class Stage:
    """How both models are run.

    Attributes:
        provider: ONNX Runtime's name of the execution provider.
        outputs: Names of the graph outputs, the same in both models.
        pairs: Inner values to look at: name in the parent to name in the child.
        watched: Values to look at besides, of the parent and of the child, that are compared with nothing.
        wide: Run 16-bit floating-point models as float32.
        drawn: Random values that are fed rather than drawn.
    """

    provider: str
    outputs: list[str]
    pairs: dict[str, str] = field(default_factory=dict)
    watched: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    wide: bool = False
    drawn: list[str] = field(default_factory=list)
    _prepared: dict[tuple[int, bool], tuple[ir.Model, Prepared]] = field(default_factory=dict)

    def open(self, model: ir.Model, *, child: bool = False, optimise: bool = False, drawing: bool = False) -> Running:
        """A session of the model; with ``optimise`` it gives graph outputs only, so that nothing hinders a fusion.

        Args:
            drawing: Keep the nodes that draw random numbers and give what they draw too.

        Raises:
            RuntimeFailure: ONNX Runtime cannot load it here.
        """
        prepared = self._prepare(model, drawing)
        names = {name: name for name in self.outputs}
        if drawing:
            names |= {name: name for name in self.drawn}
        elif not optimise:
            names |= self.pairs if child else {name: name for name in self.pairs}
        watched = [] if optimise or drawing else self.watched[child]
        extra = [name for name in dict.fromkeys([*names.values(), *watched]) if name not in self.outputs]
        size = sum(prepared.form.initializers[name].nbytes for name in prepared.weights)
        session = open_session(
            prepared,
            self.provider,
            extra,
            optimise=optimise,
            exchangeable=prepared.weights if size <= _MOST_EXCHANGED else (),
        )
        return Running(session, names, self.wide)

    def _prepare(self, model: ir.Model, drawing: bool) -> Prepared:
        key = (id(model), drawing)
        if key not in self._prepared:
            made = model if drawing else cut(model, self.drawn)
            # The model is kept beside, so that its id is nobody else's.
            self._prepared[key] = (model, prepare(upcast(made) if self.wide else made))
        return self._prepared[key][1]

    def providers(self, model: ir.Model, feeds: Feeds) -> dict[str, str]:
        """Which execution provider ran each node of a model on these inputs, from a profile of one run.

        Raises:
            RuntimeFailure: It cannot be loaded or run.
        """
        form = self._prepare(model, drawing=False).form
        fed = {name: _widened(value) for name, value in feeds.items()} if self.wide else feeds
        return providers_by_node(form, fed, self.provider)

    def varied(
        self,
        running: Running,
        model: ir.Model,
        tensors: Mapping[ir.Value, ir.TensorProtocol],
        *,
        child: bool = False,
    ) -> Runnable:
        """The model with other numbers in some of its constants, in the open session where that can take them.

        Raises:
            RuntimeFailure: It needs a session of its own, and ONNX Runtime cannot load it here.
        """
        arrays = {str(value.name): np.asarray(tensor.numpy()) for value, tensor in tensors.items()}
        if all(value.graph is model.graph and value.name in running.exchangeable for value in tensors):
            return _Varied(running, arrays)
        varied = with_tensors(model, tensors)
        try:
            return self.open(varied, child=child)
        finally:
            self._prepared.pop((id(varied), False), None)
            del varied
            if sum(array.nbytes for array in arrays.values()) > _LARGE:
                gc.collect()  # graphs refer to themselves, and would keep the numbers of variations gone by


class Runnable:
    """What answers by the parent's names."""

    def values(self, feeds: Feeds, names: Sequence[str] | None = None) -> Values:
        """Values by the parent's names, members of sequences and maps each under its own; ``names`` limits them.

        Raises:
            RuntimeFailure: The run failed.
        """
        raise NotImplementedError


class Running(Runnable):
    """An open session."""

    def __init__(self, session: Session, names: Mapping[str, str], wide: bool) -> None:
        self._session = session
        self._names = dict(names)
        self._wide = wide

    @property
    def exchangeable(self) -> Collection[str]:
        """Names of the weights that `exchanged` takes."""
        return self._session.exchangeable

    def exchanged(self, arrays: Mapping[str, Array]) -> contextlib.AbstractContextManager[None]:
        """Runs inside go with these numbers in these weights."""
        return self._session.exchanged(arrays)

    def values(self, feeds: Feeds, names: Sequence[str] | None = None) -> Values:
        return self.watch(feeds, names, ())[0]

    def watch(
        self, feeds: Feeds, names: Sequence[str] | None, watched: Sequence[str]
    ) -> tuple[Values, dict[str, Array]]:
        """The values, and from the same run arrays by the model's own names.

        Raises:
            RuntimeFailure: The run failed.
        """
        asked = [name for name in (self._names if names is None else names) if name in self._names]
        if not asked and not watched:
            return {}, {}
        own = list(dict.fromkeys([*(self._names[name] for name in asked), *watched]))
        raw = self._session.run(self._fed(feeds), own)
        values: Values = {}
        for name in asked:
            values.update(flatten(raw[self._names[name]], name))
        return values, {name: raw[name] for name in watched if isinstance(raw[name], np.ndarray)}

    def _fed(self, feeds: Feeds) -> Feeds:
        if not self._wide:
            return feeds
        return {name: _widened(value) for name, value in feeds.items()}


class _Varied(Runnable):
    """An open session, with other numbers in some of its weights for as long as it is asked."""

    def __init__(self, running: Running, arrays: Mapping[str, Array]) -> None:
        self._running = running
        self._arrays = arrays

    def values(self, feeds: Feeds, names: Sequence[str] | None = None) -> Values:
        with self._running.exchanged(self._arrays):
            return self._running.values(feeds, names)


def _widened(value: Any) -> Any:
    if isinstance(value, list):
        return [_widened(item) for item in value]
    if isinstance(value, np.ndarray) and is_floating(value) and value.dtype.itemsize == 2:
        return value.astype(np.float32)
    return value
