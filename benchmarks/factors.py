"""The new factors of deepened models: how dense, of which scale, and the error beside the parent's own noise.

    python benchmarks/factors.py                   # a VGG-like, a ResNet-like and a transformer of models/
    python benchmarks/factors.py MODEL ...         # these

Layers from the middle of each model are deepened, one child per method asked. The factors are those of the child; the
error is the largest difference between parent and child over the parent's own noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxmorph.model as files
from onnxmorph.errors import Refusal
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import plan_deepen
from onnxmorph.verify import verify

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ("digits_cnn.onnx", "digits_resnet.onnx", "digits_transformer.onnx")


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=[ROOT / "models" / name for name in DEFAULT])
    parser.add_argument("--methods", default="mirror,netmorph")
    parser.add_argument("--layers", type=int, default=1, help="how many layers of each model, from the middle")
    options = parser.parse_args()
    print("| model | layer | method | factor | shape | occupancy | scale ratio | residual | error / noise floor |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in options.models:
        parent = files.load(path)
        able = [layer for layer in layers(parent) if layer.blocked is None]
        start = max(0, (len(able) - options.layers) // 2)
        for layer in able[start : start + options.layers]:
            for method in options.methods.split(","):
                try:
                    child = plan_deepen(parent, layer, method=method).apply(parent)
                except Refusal as refusal:
                    print(f"| {path.stem} | {layer.name} | {method} | refused: {refusal} | | | | | |")
                    continue
                certificate = verify(parent, child.model)
                worst = max(value.ratio for value in (*certificate.outputs, *certificate.inner))
                verdict = "" if certificate.equivalent else " NOT EQUIVALENT"
                for factor in child.factors:
                    shape = "x".join(map(str, factor.shape))
                    print(
                        f"| {path.stem} | {layer.name} | {method} | {factor.name} | {shape} | {factor.occupancy:.1%}"
                        f" | {factor.scale_ratio:.2f} | {child.residual:.1e} | {worst:.2f}{verdict} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
