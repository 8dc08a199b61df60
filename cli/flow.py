"""What every morph verb does: load, plan, apply, write, verify, put in place, tell."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxmorph.special_files import is_special
from onnxmorph.visible import visible, visible_lines

from .options import Growth, Output
from .table import Table

if TYPE_CHECKING:
    from onnxmorph._ir import ir
    from onnxmorph.delivery import Delivery
    from onnxmorph.graph.layers import LinearLayer
    from onnxmorph.plan import Child, Plan

__all__ = ["Besides", "child_path", "chosen_layers", "failed_path", "grow"]


@dataclass
class Besides:
    """What a verb has to tell besides plans and certificate; it fills this in while it plans.

    Attributes:
        document: Goes into the JSON document.
        show: Prints it, for a person.
    """

    document: dict[str, Any] = field(default_factory=dict)
    show: Callable[[], None] | None = None


def chosen_layers(layers: Sequence[LinearLayer], selectors: Sequence[str], *, each: bool) -> list[LinearLayer]:
    """The layers that were typed, in the order of the model and each once.

    Args:
        layers: Of the parent.
        selectors: What was typed.
        each: Whether one selector may name several layers.

    Raises:
        SelectionError: A selector names none, or several without ``each``.
    """
    from onnxmorph.errors import SelectionError
    from onnxmorph.graph.select import select, select_one

    chosen: dict[int, LinearLayer] = {}
    for selector in selectors:
        matches = select(layers, selector)
        if not each:
            try:
                matches = [select_one(layers, selector)]
            except SelectionError as error:
                raise SelectionError(f"{error}, or add --each to take all of them") from error
        chosen.update((layer.index, layer) for layer in matches)
    return [chosen[index] for index in sorted(chosen)]


def child_path(parent: Path, verb: str, output: Output) -> Path:
    """Where the child goes: what ``-o`` says, else ``STEM.VERB.onnx`` beside the parent.

    Raises:
        click.UsageError: Something is there and ``--force`` is not given. Said before any work is done.
    """
    context = click.get_current_context(silent=True)
    path = output.path if output.path is not None else parent.with_name(f"{parent.stem}.{verb}.onnx")
    if path.is_dir():
        raise click.UsageError(f"{path} is a folder; name the child's file", context)
    if is_special(path):
        raise click.UsageError(f"{path} is no regular file, and no model takes its place", context)
    if str(path) == "-":
        raise click.UsageError("a model is not written to stdout; name the child's file", context)
    if not path.parent.is_dir():
        raise click.UsageError(f"{path}: there is no folder {path.parent} to write it in", context)
    if output.force:
        return path
    if _same_file(path, parent):
        raise click.UsageError(f"the child would overwrite its parent {parent}; --force allows it", context)
    if os.path.lexists(path):
        raise click.UsageError(f"{path} exists; choose another with -o, or --force to overwrite it", context)
    return path


def failed_path(path: Path) -> Path:
    """Where a child that fails verification is kept: ``STEM.failed.onnx`` beside where it would have gone."""
    return path.with_name(f"{path.stem}.failed{path.suffix or '.onnx'}")


def _same_file(path: Path, parent: Path) -> bool:
    try:
        return path.samefile(parent)
    except OSError:
        return False


def grow(
    parent_path: Path,
    verb: str,
    plan: Callable[[ir.Model], Sequence[Plan] | Child],
    growth: Growth,
    *,
    besides: Besides | None = None,
) -> None:
    """Carries out the plans of one verb, from the parent's file to the child's.

    Args:
        parent_path: The model to grow.
        verb: Names the child where ``-o`` does not.
        plan: From the parent to what is to be done, in order; or to the child where planning has made it already.
        growth: Where the child goes, and how it is verified and told.
        besides: What there is to tell besides.

    Raises:
        click.exceptions.Exit: With code 1, after telling: the child is not equivalent and was not written.
    """
    output, checking, talk = growth.output, growth.checking, growth.talk
    path = child_path(parent_path, verb, output) if not growth.dry_run else None
    if growth.report is not None:
        from onnxmorph.report.files import may_write

        may_write(growth.report, "html")
    with talk.step("loading"):
        from onnxmorph import delivery, model
        from onnxmorph.ahead import CopyAhead, copy_ahead
        from onnxmorph.plan import Child, apply

        parent = model.load(parent_path)
    copying: contextlib.AbstractContextManager[CopyAhead | None] = contextlib.nullcontext()
    if path is not None and not output.share_weights:
        copying = copy_ahead(parent, path, overwrite=output.force)
    with copying as ahead:
        with talk.step("planning"):
            planned = plan(parent)
        plans = planned.plans if isinstance(planned, Child) else planned
        document: dict[str, Any] = {"plan": _record(verb, plans)}
        if path is None:
            talk.result(
                {"child": None, **document},
                lambda: click.echo("\n".join(visible_lines(plan.describe()) for plan in plans)),
            )
            return
        with talk.step("solving"):
            child = planned if isinstance(planned, Child) else apply(parent, plans)
        check = (
            delivery.Check(checking.provider, checking.inputs, checking.shapes, growth.seed)
            if checking.verify
            else None
        )
        with talk.step("writing and verifying" if check else "writing"):
            delivered = delivery.deliver(
                parent,
                child,
                path,
                check=check,
                overwrite=output.force,
                share_weights=output.share_weights,
                keep_failed=failed_path(path) if output.keep_failed else None,
                ahead=ahead,
            )
    document = {
        "child": delivered.path,
        **document,
        "factors": [factor.to_json() for factor in child.factors],
        "residual": child.residual,
        "certificate": None if delivered.certificate is None else delivered.certificate.to_json(),
        "notes": list(child.notes),
        "morphism": child.is_morph,
        **({} if besides is None else besides.document),
    }
    if delivered.kept is not None:
        document["kept"] = delivered.kept
    if growth.report is not None:
        with talk.step("drawing"):
            _write_page(growth.report, parent_path, delivered, parent, child)
        document["report"] = growth.report
    broken = None
    if delivered.path is None and check is not None and len(plans) > 1:
        with talk.step("looking for the step that broke it"):
            broken = delivery.broken_by(parent, plans, check)
        document["broken_by"] = None if broken is None else broken.record()
    talk.result(document, lambda: _show(plans, child, delivered, besides), short=_short(delivered))
    if broken is not None:
        talk.note(f"the first step after which the child differs: {visible(broken.describe())}")
    if delivered.path is None:
        if talk.quiet and delivered.certificate is not None:
            told = delivered.certificate
            reason = next(iter([*told.failures, *told.unproven]), "no reason given")
            click.echo(f"onnxmorph: {told.verdict}, not put in place: {visible(reason)}", err=True)
        raise click.exceptions.Exit(1)


def _write_page(report: Path, parent_path: Path, delivered: Delivery, parent: ir.Model, child: Child) -> None:
    """Writes the page about a child, also of one that failed."""
    from onnxmorph.report.files import write_report
    from onnxmorph.report.morph import Told, morph_page

    certificate = None if delivered.certificate is None else delivered.certificate.to_json()
    if certificate is not None and not child.is_morph:
        certificate["morphism"] = False
    name = next((path.name for path in (delivered.path, delivered.kept) if path is not None), "child (not written)")
    told = Told((parent_path.name, name), certificate, child.factors, child.residual, child.notes)
    write_report(report, morph_page(parent, child.model, told), "html")


def _record(verb: str, plans: Sequence[Plan]) -> dict[str, Any]:
    """One plan as its record; several as the steps of one."""
    if len(plans) == 1:
        return plans[0].record()
    return {"morph": verb, "steps": [plan.record() for plan in plans]}


def _short(delivered: Delivery) -> str | None:
    return None if delivered.path is None else str(delivered.path)


def _show(plans: Sequence[Plan], child: Child, delivered: Delivery, besides: Besides | None) -> None:
    from .certificate import show

    for plan in plans:
        click.echo(visible_lines(plan.describe()))
    if besides is not None and besides.show is not None:
        click.echo()
        besides.show()
    for note in child.notes:
        click.echo(f"note: {visible(note)}")
    if child.factors:
        click.echo()
        table = Table(["new factor", ">shape", ">occupancy", ">scale ratio"])
        for factor in child.factors:
            shape = "x".join(map(str, factor.shape))
            table.add(factor.name, shape, f"{factor.occupancy:.1%}", f"{factor.scale_ratio:.2f}")
        table.show()
        click.echo(f"residual of the morphism equation: {child.residual:.2g}")
    click.echo()
    if delivered.certificate is None:
        click.echo("not verified (--no-verify), as the child's metadata say")
    else:
        show(delivered.certificate)
        if not child.is_morph:
            click.echo("this is no morphism, as was asked for: what is told above is how far the child is off")
    if delivered.path is not None:
        beside = f" and {delivered.data_path.name}" if delivered.data_path is not None else ""
        click.echo(f"written: {delivered.path}{beside}")
    elif delivered.kept is not None:
        click.echo(f"not written; the failed child is kept as {delivered.kept}")
    else:
        click.echo("not written, since it is not equivalent (--keep-failed keeps it under another name)")
