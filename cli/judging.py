"""Options of ``verify`` alone: what is judged, by what measure, and what is kept of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from .options import Checking

if TYPE_CHECKING:
    from onnxmorph.verify import Certificate, Tolerances

__all__ = ["Judging", "judging_options"]

Verb = TypeVar("Verb", bound=Callable[..., Any])

_INNER: dict[str, bool | Literal["all"]] = {"frontier": True, "all": "all", "none": False}


@dataclass(frozen=True)
class Judging:
    """How `verify` judges, and what it writes.

    Attributes:
        inner: Which inner values are compared.
        absolute: Absolute tolerance of every output; ``None``: the parent's noise is the measure.
        relative: Likewise, relative.
        outputs: Absolute and relative tolerances of single outputs.
        save_failing: Where the inputs go that show a difference.
        certificate: Where the certificate goes.
        sidecar: The certificate goes beside the child.
        time_budget: Seconds after which no more inputs are tried.
    """

    inner: bool | Literal["all"]
    absolute: float | None
    relative: float | None
    outputs: tuple[tuple[str, float, float], ...]
    save_failing: Path | None
    certificate: Path | None
    sidecar: bool
    time_budget: float

    def one_pair_only(self) -> None:
        """Says that files of one pair cannot be those of many.

        Raises:
            click.UsageError: One was asked for.
        """
        for option, path in (("--save-failing", self.save_failing), ("--certificate", self.certificate)):
            if path is not None:
                raise click.UsageError(f"{option} is for one pair of models", click.get_current_context(silent=True))

    def tolerances(self) -> Tolerances | None:
        """The tolerances that were asked for."""
        from onnxmorph.verify import Tolerance, Tolerances

        default = None
        if self.absolute is not None or self.relative is not None:
            default = Tolerance(self.absolute or 0.0, self.relative or 0.0)
        own = {name: Tolerance(absolute, relative) for name, absolute, relative in self.outputs}
        return Tolerances(default, own) if default is not None or own else None

    def verify(self, parent: Path, child: Path, checking: Checking, seed: int) -> Certificate:
        """Compares two models and writes what was asked for of it.

        Raises:
            OnnxMorphError: They cannot be compared, or something cannot be written.
        """
        from onnxmorph.errors import ModelError
        from onnxmorph.verify import sidecar_path, verify, write_certificate, write_inputs

        if self.save_failing is not None and self.save_failing.exists():
            raise ModelError(f"{self.save_failing}: is there already and is not overwritten")
        certificate = verify(
            parent,
            child,
            provider=checking.provider,
            inputs=checking.inputs,
            shapes=checking.shapes or None,
            seed=seed,
            inner=self.inner,
            tolerances=self.tolerances(),
            time_budget=self.time_budget,
        )
        if self.certificate is not None:
            write_certificate(self.certificate, certificate.to_json())
        if self.sidecar:
            write_certificate(sidecar_path(child), certificate.to_json())
        if self.save_failing is not None and certificate.failing_inputs is not None:
            write_inputs(self.save_failing, certificate.failing_inputs)
        return certificate


def _tolerance(text: str) -> tuple[str, float, float]:
    """``OUTPUT=ATOL`` or ``OUTPUT=ATOL,RTOL``; the name may hold equals signs itself."""
    name, equals, numbers = text.rpartition("=")
    parts = numbers.split(",")
    try:
        absolute, relative = (float(parts[0]), float(parts[1]) if len(parts) > 1 else 0.0)
    except ValueError:
        absolute = relative = math.nan
    if not (equals and name) or len(parts) > 2 or not (0 <= absolute < math.inf and 0 <= relative < math.inf):
        raise click.BadParameter(f"{text!r} is no tolerance; write OUTPUT=ATOL or OUTPUT=ATOL,RTOL: y=1e-3,1e-4")
    return name, absolute, relative


def judging_options(verb: Verb) -> Verb:
    """``--inner``, tolerances, ``--time``, ``--save-failing``, ``--certificate``, ``--sidecar``, as ``judging``."""

    @click.option(
        "--inner",
        type=click.Choice(list(_INNER)),
        default="frontier",
        show_default=True,
        help="Inner values of the same name to compare: at the borders of what changed, all, or none.",
    )
    @click.option("--atol", type=click.FloatRange(min=0), help="Judge outputs by this absolute tolerance.")
    @click.option("--rtol", type=click.FloatRange(min=0), help="Judge outputs by this relative tolerance.")
    @click.option(
        "--tolerance",
        "outputs",
        type=_tolerance,
        metavar="OUTPUT=ATOL[,RTOL]",
        multiple=True,
        help="Tolerance of one output; repeatable.",
    )
    @click.option(
        "--time",
        "time_budget",
        type=click.FloatRange(min=0),
        default=20.0,
        show_default=True,
        metavar="SECONDS",
        help="After this no more inputs are tried; two sets always are.",
    )
    @click.option(
        "--save-failing",
        type=click.Path(path_type=Path),
        metavar="FILE.npz",
        help="Write the inputs that show a difference; --inputs reads them.",
    )
    @click.option(
        "--certificate", type=click.Path(path_type=Path), metavar="FILE", help="Write the certificate as JSON."
    )
    @click.option("--sidecar", is_flag=True, help="Write the certificate beside the child: CHILD.certificate.json.")
    @functools.wraps(verb)
    def with_judging(
        *args: Any,
        inner: str,
        atol: float | None,
        rtol: float | None,
        outputs: tuple[tuple[str, float, float], ...],
        time_budget: float,
        save_failing: Path | None,
        certificate: Path | None,
        sidecar: bool,
        **kwargs: Any,
    ) -> Any:
        judging = Judging(_INNER[inner], atol, rtol, outputs, save_failing, certificate, sidecar, time_budget)
        return verb(*args, judging=judging, **kwargs)

    return with_judging  # type: ignore[return-value]
