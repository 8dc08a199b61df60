"""What of growing does not train works where torch is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[2] / "models" / "digits_cnn.onnx"


def test_a_slim_net_is_cut_and_verified_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from onnxmorph import train\nfrom onnxmorph.delivery import Check\nfrom onnxmorph.model import load\n"
        f"cut = train.slim(load({str(SAMPLE)!r}), share=0.5)\n"
        "done = train.deliver_slim(cut, Path('slim.onnx'), check=Check('cpu', None, {}, 0))\n"
        "print(done.certificate.equivalent, len(cut.split.slices))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.stdout == "True 3\n", ran.stderr
    assert (tmp_path / "slim.onnx").exists()
