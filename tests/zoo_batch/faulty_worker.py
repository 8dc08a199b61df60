"""A worker that does to each model what the model's name says, and else makes a copy the child."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def grow(task: Mapping[str, Any], stage: Callable[[str], None]) -> dict[str, Any]:
    model, child = Path(task["model"]), Path(task["child"])
    stage("growing")
    what = model.stem.partition("-")[0]
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "leave":
        print("something is wrong", file=sys.stderr, flush=True)
        os._exit(7)
    elif what == "hang":
        time.sleep(600)
    elif what == "eat":
        kept = []
        while True:
            kept.append(bytearray(b"x") * (16 << 20))
            time.sleep(0.02)
    elif what == "refuse":
        return {"outcome": "refused", "code": "some-reason", "reason": f"{model}: it will not"}
    elif what == "wrong":
        return {"outcome": "not-equivalent", "code": "not-equivalent", "reason": "y differs", "ratio": 99.5}
    elif what == "chatter":
        print("to stdout", flush=True)
    elif what == "half":
        child.write_bytes(b"half")
        os._exit(1)
    shutil.copyfile(model, child)
    files = [child.name]
    if what == "data":
        data = child.with_name(f"{child.name}.data")
        data.write_bytes(b"weights of " + model.read_bytes())
        files = [data.name, child.name]
    return {"outcome": "done", "code": None, "reason": None, "ratio": 0.5, "files": files, "worker": os.getpid()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from onnxmorph.zoo.worker import main

    main(grow)
