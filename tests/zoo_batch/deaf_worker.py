"""The faulty worker on a system that does not tell it of its parent's death: only its pipe can."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from onnxmorph.zoo import worker
    from tests.zoo_batch.faulty_worker import grow

    worker._die_with_parent = lambda parent: None
    worker.main(grow)
