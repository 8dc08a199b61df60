"""The process that grows models, one after the other; whatever kills it costs the model it was at.

It is started by :mod:`onnxmorph.zoo.slot`, takes one JSON object a line on stdin (a model to grow), and answers with
JSON lines on what was its stdout: ``{"event": "stage", ...}`` as it goes, then ``{"event": "result", ...}``. Anything
else that anybody prints goes to stderr.

It never outlives who started it. Its stdin is a pipe, and a thread that reads it ends the process at once when the
other end is gone, however that came about; on Linux the system is asked for a kill besides, for the case that a library
holds the interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from onnxmorph.delivery import Check
    from onnxmorph.errors import OnnxMorphError
    from onnxmorph.plan import Child

__all__ = ["grow_model", "main"]

_PR_SET_PDEATHSIG = 1


def main(grow: Callable[[Mapping[str, Any], Callable[[str], None]], dict[str, Any]] | None = None) -> None:
    """Serve until stdin ends."""
    grow = grow_model if grow is None else grow
    channel = os.dup(1)
    os.dup2(2, 1)
    _die_with_parent(int(sys.argv[1]))
    _be_the_first_to_go()
    tasks: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()

    def say(document: Mapping[str, Any]) -> None:
        line = json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(channel, rest) :]

    if grow is grow_model:
        from onnxmorph import delivery, recipe, verify  # noqa: F401 - so that no model's seconds count what all need
    while True:
        task = json.loads(tasks.get())
        started = time.perf_counter()
        result = grow(task, lambda stage: say({"event": "stage", "stage": stage}))
        seconds = round(time.perf_counter() - started, 3)
        say({"event": "result", "result": {**result, "seconds": seconds}})
        gc.collect()


def _listen(stdin: BinaryIO, tasks: queue.Queue[bytes]) -> None:
    for line in stdin:
        tasks.put(line)
    os._exit(0)


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it went before the system was asked
            os._exit(0)


def _be_the_first_to_go() -> None:
    """Where the machine runs out of memory, it is to be this process that is ended, not the batch."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def grow_model(task: Mapping[str, Any], stage: Callable[[str], None]) -> dict[str, Any]:
    """Carry a recipe out on one model, and write its child.

    Args:
        task: ``model`` and ``child`` (paths), ``recipe`` (text), ``recipe_name``, and ``check``: the arguments of
            :class:`onnxmorph.delivery.Check`, or ``None``.
        stage: Told what begins.

    Returns:
        The result as JSON: ``outcome`` (``done``, ``refused``, ``not-equivalent``, ``failed``), ``code``, ``reason``,
        and what is known of the child.
    """
    from onnxmorph.errors import ModelError, OnnxMorphError, Refusal, SelectionError

    known: dict[str, Any] = {}
    try:
        return _grown(task, stage, known)
    except (Refusal, SelectionError) as error:
        # A recipe was read before anything began: what it selects, and what a layer takes, is a matter of the model.
        return {**known, "outcome": "refused", "code": _code(error), "reason": str(error)}
    except ModelError as error:
        return {**known, "outcome": "failed", "code": type(error).__name__, "reason": str(error)}
    except OnnxMorphError as error:
        return {**known, "outcome": "failed", "code": "error", "reason": str(error)}
    except MemoryError:
        return {**known, "outcome": "failed", "code": "memory", "reason": "out of memory"}
    except Exception as error:
        print(traceback.format_exc(), file=sys.stderr, flush=True)
        said = " ".join(str(error).split())
        return {
            **known,
            "outcome": "failed",
            "code": "internal",
            "reason": f"internal error: {type(error).__name__}: {said}",
        }


def _code(error: OnnxMorphError) -> str:
    return str(getattr(error, "code", "selection"))


def _grown(task: Mapping[str, Any], stage: Callable[[str], None], known: dict[str, Any]) -> dict[str, Any]:
    from onnxmorph import delivery, model
    from onnxmorph.recipe import carry_out, parse_recipe

    stage("loading")
    parent = model.load(task["model"])
    known["parameters"] = {"before": _parameters(parent), "after": None}
    stage("growing")
    child = carry_out(parent, parse_recipe(task["recipe"], name=task["recipe_name"]))
    known["parameters"]["after"] = _parameters(child.model)
    known["plans"] = [plan.describe() for plan in child.plans]
    known["notes"] = list(child.notes)
    known["residual"] = float(child.residual)
    known["morphism"] = child.is_morph
    check = None if task["check"] is None else _check(task["check"])
    stage("writing" if check is None else "verifying")
    path = Path(task["child"])
    delivered = delivery.deliver(parent, child, path, check=check)
    if delivered.certificate is not None:
        known["certificate"] = delivery.travelling(delivered.certificate)
        compared = [*delivered.certificate.outputs, *delivered.certificate.inner]
        known["ratio"] = max((float(max(c.ratio, c.channel_ratio)) for c in compared), default=0.0)
    known = _finite(known)
    if delivered.path is None:
        assert delivered.certificate is not None and check is not None
        stage("looking for the step that broke it")
        reason = "; ".join(delivered.certificate.reasons) or "the child does not compute what its parent does"
        known["broken_by"] = _broken_by(parent, child, check)
        return {**known, "outcome": "not-equivalent", "code": "not-equivalent", "reason": reason}
    files = [path.name] if delivered.data_path is None else [delivered.data_path.name, path.name]
    return {
        **known,
        "outcome": "done",
        "code": None,
        "reason": None,
        "content_hash": model.content_hash(child.model),
        "files": files,
    }


def _check(told: Mapping[str, Any]) -> Check:
    from onnxmorph.delivery import Check

    return Check(**{**told, "inputs": None if told["inputs"] is None else Path(told["inputs"])})


def _parameters(model: Any) -> int:
    from onnxmorph.graph.cost import total

    return int(total((), (), model).stored or 0)


def _broken_by(parent: Any, child: Child, check: Check) -> str | None:
    from onnxmorph.delivery import broken_by

    plan = broken_by(parent, child.plans, check)
    return None if plan is None else plan.describe()


def _finite(known: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinities: they become the strings that certificates spell them with."""
    for key in ("ratio", "residual"):
        value = known.get(key)
        if value is not None and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124
            known[key] = str(value)
    return known


if __name__ == "__main__":
    main()
