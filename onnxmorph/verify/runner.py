"""Parent and child as they are run: opened, fed, and their values flattened under the parent's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxmorph._ir import ir
from onnxmorph.verify.compare import flatten
from onnxmorph.verify.inputs import Feeds
from onnxmorph.verify.noise import is_floating
from onnxmorph.verify.runtime import Session, open_session
from onnxmorph.verify.stochastic import cut
from onnxmorph.verify.upcast import upcast

__all__ = ["Running", "Stage", "Values"]

Array = np.ndarray[Any, Any]
Values = dict[str, Array | None]


@dataclass
class Stage:
    """How both models are run.

    Attributes:
        provider: ONNX Runtime's name of the execution provider.
        outputs: Names of the graph outputs, the same in both models.
        pairs: Inner values to look at: name in the parent to name in the child.
        wide: Run 16-bit floating-point models as float32.
        drawn: Random values that are fed rather than drawn.
    """

    provider: str
    outputs: list[str]
    pairs: dict[str, str] = field(default_factory=dict)
    wide: bool = False
    drawn: list[str] = field(default_factory=list)

    def open(self, model: ir.Model, *, child: bool = False, optimise: bool = False, drawing: bool = False) -> Running:
        """A session of the model; with ``optimise`` it gives graph outputs only, so that nothing hinders a fusion.

        Args:
            drawing: Keep the nodes that draw random numbers and give what they draw too.

        Raises:
            RuntimeFailure: ONNX Runtime cannot load it here.
        """
        prepared = model if drawing else cut(model, self.drawn)
        prepared = upcast(prepared) if self.wide else prepared
        names = {name: name for name in self.outputs}
        if drawing:
            names |= {name: name for name in self.drawn}
        elif not optimise:
            names |= self.pairs if child else {name: name for name in self.pairs}
        extra = list(dict.fromkeys(name for name in names.values() if name not in self.outputs))
        return Running(open_session(prepared, self.provider, extra, optimise=optimise), names, self.wide)


class Running:
    """An open session that answers by the parent's names."""

    def __init__(self, session: Session, names: Mapping[str, str], wide: bool) -> None:
        self._session = session
        self._names = dict(names)
        self._wide = wide

    def values(self, feeds: Feeds, names: Sequence[str] | None = None) -> Values:
        """Values by the parent's names, members of sequences and maps each under its own; ``names`` limits them.

        Raises:
            RuntimeFailure: The run failed.
        """
        asked = [name for name in (self._names if names is None else names) if name in self._names]
        if not asked:
            return {}
        raw = self._session.run(self._fed(feeds), list(dict.fromkeys(self._names[name] for name in asked)))
        values: Values = {}
        for name in asked:
            values.update(flatten(raw[self._names[name]], name))
        return values

    def _fed(self, feeds: Feeds) -> Feeds:
        if not self._wide:
            return feeds
        return {name: _widened(value) for name, value in feeds.items()}


def _widened(value: Any) -> Any:
    if isinstance(value, list):
        return [_widened(item) for item in value]
    if isinstance(value, np.ndarray) and is_floating(value) and value.dtype.itemsize == 2:
        return value.astype(np.float32)
    return value
