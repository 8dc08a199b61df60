"""One trial of a sweep: layers of a model by one variant of a morph, from plans to a certificate.

Layers are tried together where the morph allows: each is planned on the parent, all plans are carried out in one child,
and that is verified once. A plan that another one stands in the way of (two layers that write into one sum) waits for
the next child. Where a child of several layers is not found right, each of them is verified by itself.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.variants import MORPHS

if TYPE_CHECKING:
    import onnx_ir as ir

    from benchmarks.sweep import Settings
    from onnxmorph.errors import Refusal, SelectionError
    from onnxmorph.graph.layers import LinearLayer
    from onnxmorph.plan import Child, Plan

__all__ = ["Bench", "complaint"]

CHECKED_UP_TO = 32 << 20
"""Children of models beyond this size are not put through the ONNX checker, which wants them in one piece."""

Result = dict[str, Any]


class Bench:
    """Tries out morphs on one model.

    Args:
        model: The parent.
        settings: Of the sweep.
        check: Whether children must pass the ONNX checker, as their parent does.
    """

    def __init__(self, model: ir.Model, settings: Settings, *, check: bool) -> None:
        self.model = model
        self.settings = settings
        self.morph = MORPHS[settings.morph]
        self.check = check
        self._size = _size(model)
        self._proven: set[int] = set()

    def try_out(
        self, layers: Sequence[LinearLayer], variant: str, *, alive: Callable[[], None] = lambda: None
    ) -> list[Result]:
        """What becomes of each layer by one variant.

        Args:
            layers: Of the parent.
            variant: Of the sweep's morph.
            alive: Called now and then, so that nobody thinks this has stopped.
        """
        from onnxmorph.errors import Refusal, SelectionError

        results: dict[int, Result] = {}
        waiting: list[tuple[LinearLayer, list[Plan]]] = []
        for layer in layers:
            alive()
            try:
                waiting.append((layer, self.morph.plan(self.model, layer, variant)))
            except (Refusal, SelectionError) as refusal:
                results[layer.index] = _refused(refusal)
            except Exception:
                results[layer.index] = {"outcome": "crash", "reason": traceback.format_exc()}
        while waiting:
            waiting, members, child = self._carry_out(waiting, results, alive)
            if child is not None:
                results |= self._judge(members, child, variant, alive)
        return [results[layer.index] for layer in layers]

    def _carry_out(
        self,
        waiting: list[tuple[LinearLayer, list[Plan]]],
        results: dict[int, Result],
        alive: Callable[[], None],
    ) -> tuple[list[tuple[LinearLayer, list[Plan]]], list[tuple[LinearLayer, list[Plan]]], Child | None]:
        """As many plans as go into one child; what is left, what went in, and the child."""
        from onnxmorph.errors import Refusal
        from onnxmorph.plan import apply

        child: Child | None = None
        members: list[tuple[LinearLayer, list[Plan]]] = []
        later: list[tuple[LinearLayer, list[Plan]]] = []
        for layer, plans in waiting:
            alive()
            try:
                grown = apply(self.model if child is None else child.model, plans)
            except Exception as error:
                if child is not None:
                    later.append((layer, plans))
                elif isinstance(error, Refusal):
                    results[layer.index] = _refused(error)
                else:
                    results[layer.index] = {"outcome": "crash", "reason": traceback.format_exc()}
                continue
            child = grown if child is None else child.then(grown)
            members.append((layer, plans))
        return later, members, child

    def _judge(
        self, members: list[tuple[LinearLayer, list[Plan]]], child: Child, variant: str, alive: Callable[[], None]
    ) -> dict[int, Result]:

        results: dict[int, Result] = {}
        told = {layer.index: "; ".join(plan.describe() for plan in plans) for layer, plans in members}
        layers = [layer for layer, _ in members]
        if self.morph.back is not None:
            try:
                child, refused = self.morph.back(child, layers, variant)
            except Exception:
                if len(members) == 1:
                    return {layers[0].index: {"outcome": "crash", "reason": traceback.format_exc()}}
                return self._one_by_one(members, variant, alive)
            results = {index: _refused(refusal) for index, refusal in refused.items()}
        left = [layer for layer in layers if layer.index not in results]
        if not left:
            return results
        found = self._verified(child, left, variant)
        alive()
        if found["outcome"] == "done" or len(members) == 1:
            return results | {layer.index: {**found, "plan": told[layer.index]} for layer in left}
        return self._one_by_one(members, variant, alive)

    def _one_by_one(
        self, members: list[tuple[LinearLayer, list[Plan]]], variant: str, alive: Callable[[], None]
    ) -> dict[int, Result]:
        from onnxmorph.plan import apply

        results: dict[int, Result] = {}
        for member in members:
            results |= self._judge([member], apply(self.model, member[1]), variant, alive)
        return results

    def _verified(self, child: Child, layers: Sequence[LinearLayer], variant: str) -> Result:
        from onnxmorph import model as files
        from onnxmorph.errors import RuntimeFailure
        from onnxmorph.projection import at_the_parents_size
        from onnxmorph.verify import verify

        model, settings = self.model, self.settings
        made: Result = {
            "method": str(child.plans[-1].record().get("method", variant)),
            "together": len(layers),
            "residual": float(child.residual),
            "occupancy": min((factor.occupancy for factor in child.factors), default=None),
            "scale_ratios": [round(float(factor.scale_ratio), 4) for factor in child.factors],
            "notes": list(child.notes),
            "size": [self._size, _size(child.model)],
        }
        if self.check and (fault := complaint(child.model)):
            return {**made, "outcome": "wrong", "code": "checker", "reason": f"the ONNX checker: {fault}"}
        # ONNX Runtime gives no values from inside a body, so only the border in the main graph can be looked at; and
        # the border of one plan may lie in what another one changes.
        computed = {value.name for node in model.graph for value in node.outputs}
        computed &= {value.name for node in child.model.graph for value in node.outputs}
        alone = len(child.plans) == 1
        shown = child.model
        if child.longer:  # as asked for: compared by what the parent has of it
            shown = files.clone(child.model)
            at_the_parents_size(model, shown, child.longer)
        try:
            certificate = verify(
                model,
                shown,
                provider=settings.provider,  # type: ignore[arg-type]
                frontier=[(name, name) for name in child.frontier if name in computed] if alone else None,
                time_budget=settings.budget,
                # Whether faults are seen is a question of where a layer lies: the first child of each answers it. In
                # what is multiplied by zero, as in the copy of a block, none could be.
                faults=settings.faults and not self._proven.issuperset(layer.index for layer in layers),
            )
        except RuntimeFailure as failure:
            return {**made, "outcome": "unverifiable", "code": "runtime", "reason": str(failure)}
        except Exception:
            return {**made, "outcome": "crash", "reason": traceback.format_exc()}
        if alone and not layers[0].scope and (lost := [name for name in child.frontier if name not in computed]):
            made["frontier_lost"] = lost
        compared = [*certificate.outputs, *certificate.inner]
        made |= {
            "provider": certificate.provider,
            "ratio": max((float(c.ratio) for c in compared), default=0.0),
            "max_abs": max((float(c.max_abs) for c in compared), default=0.0),
            "inputs": certificate.inputs,
            "detectable_fault": certificate.detectable_fault,
        }
        if not certificate.equivalent:
            return {**made, "outcome": "wrong", "code": "differs", "reason": "; ".join(certificate.failures)}
        if certificate.faults and not any(fault["seen"] for fault in certificate.faults):
            return {**made, "outcome": "blind", "code": "blind", "reason": "; ".join(certificate.warnings)}
        self._proven.update(layer.index for layer in layers)
        return {**made, "outcome": "done"}


def _refused(refusal: Refusal | SelectionError | Exception) -> Result:
    return {
        "outcome": "refused",
        "code": getattr(refusal, "code", "selection"),
        "reason": getattr(refusal, "reason", str(refusal)),
        "way_out": getattr(refusal, "way_out", None),
    }


def _size(model: ir.Model) -> int:
    """Floating-point numbers that the main graph stores."""
    stored = [value.const_value for value in model.graph.initializers.values()]
    constants = (node for node in model.graph if node.op_type == "Constant" and "value" in node.attributes)
    stored += [node.attributes["value"].value for node in constants]
    return sum(tensor.size for tensor in stored if tensor is not None and tensor.dtype.is_floating_point())


def complaint(model: ir.Model) -> str:
    """What the ONNX checker, with strict shape inference, has against a model; empty when nothing."""
    import onnx
    import onnx_ir

    if sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value) > CHECKED_UP_TO:
        return ""
    try:
        onnx.checker.check_model(onnx_ir.to_proto(model), full_check=True)
    except Exception as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ""
