"""Random networks of layout operators between dense layers: whatever meets whatever, nothing may change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onnxmorph._ir import ir
from tests.graph.axes import nets

SIZES = (6, 8, 12, 16, 24)


class Grown:
    """A network on values of shape (N, width), grown by random steps."""

    def __init__(self, seed: int, dynamic: bool) -> None:
        self.random = np.random.default_rng(seed)
        self.net = nets.Net(int(self.random.choice([13, 17, 20])), seed)
        self.batch = self.net.input(["N" if dynamic else 2, 5])
        self.values: list[tuple[str, int]] = []
        for _ in range(2):
            width = int(self.random.choice(SIZES))
            self.values.append((self.net.dense(self.batch, 5, width), width))

    def pick(self) -> tuple[str, int]:
        return self.values[int(self.random.integers(max(0, len(self.values) - 4), len(self.values)))]

    def factor(self, width: int) -> int:
        choices = [one for one in range(2, width) if width % one == 0]
        return int(self.random.choice(choices)) if choices else 1

    def step(self) -> None:
        steps = [
            self.dense,
            self.activation,
            self.parameter,
            self.add,
            self.shuffle,
            self.halves,
            self.cut,
            self.concat,
            self.columns,
            self.grouped,
            self.heads,
            self.gather,
            self.norm,
            self.pad,
            self.tile,
            self.conv,
        ]
        self.values.append(steps[int(self.random.integers(len(steps)))]())

    def dense(self) -> tuple[str, int]:
        x, width = self.pick()
        to = int(self.random.choice(SIZES))
        return self.net.dense(x, width, to), to

    def activation(self) -> tuple[str, int]:
        x, width = self.pick()
        return self.net.op(str(self.random.choice(["Relu", "Tanh", "Sigmoid", "Softplus", "Neg"])), x), width

    def parameter(self) -> tuple[str, int]:
        x, width = self.pick()
        shape = (1, width) if self.random.integers(2) else (width,)
        return self.net.op(str(self.random.choice(["Add", "Mul", "Max"])), x, self.net.weight(*shape)), width

    def add(self) -> tuple[str, int]:
        x, width = self.pick()
        same = [value for value, size in self.values if size == width]
        return self.net.op(str(self.random.choice(["Add", "Mul"])), x, str(self.random.choice(same))), width

    def shuffle(self) -> tuple[str, int]:
        x, width = self.pick()
        rows = self.factor(width)
        target = self.net.ints(*((0, rows, -1), (-1, rows, width // rows))[int(self.random.integers(2))])
        y = self.net.op("Transpose", self.net.op("Reshape", x, target), perm=[0, 2, 1])
        back = self.net.ints(0, width) if self.random.integers(2) else self.net.ints(0, -1)
        return self.net.op("Reshape", y, back), width

    def halves(self) -> tuple[str, int]:
        x, width = self.pick()
        if width % 2:
            return self.activation()
        one, two = self.net.op("Split", x, self.net.ints(width // 2, width // 2), outputs=2, axis=1)
        return self.net.op("Mul", one, self.net.op("Sigmoid", two)), width // 2

    def cut(self) -> tuple[str, int]:
        x, width = self.pick()
        start = int(self.random.integers(0, width - 1))
        end = int(self.random.integers(start + 1, width + 1))
        ends = self.net.ints(end - width) if end < width and self.random.integers(2) else self.net.ints(end)
        return self.net.op("Slice", x, self.net.ints(start), ends, self.net.ints(1)), end - start

    def concat(self) -> tuple[str, int]:
        x, width = self.pick()
        y, other = self.pick()
        return self.net.op("Concat", x, self.net.op("Tanh", y), axis=-1), width + other

    def columns(self) -> tuple[str, int]:
        x, width = self.pick()
        step = self.factor(width)
        start = self.net.ints(int(self.random.integers(step)))
        y = self.net.op("Slice", x, start, self.net.ints(2**60), self.net.ints(1), self.net.ints(step))
        return y, width // step

    def grouped(self) -> tuple[str, int]:
        x, width = self.pick()
        groups = int(self.random.choice([one for one in range(1, width + 1) if width % one == 0]))
        per = int(self.random.integers(1, 4))
        weight = self.net.weight(groups * per, width // groups, 1)
        y = self.net.op("Conv", self.net.op("Unsqueeze", x, self.net.ints(2)), weight, group=groups)
        return self.net.op("Squeeze", y, self.net.ints(2)), groups * per

    def heads(self) -> tuple[str, int]:
        x, width = self.pick()
        rows = self.factor(width)
        y = self.net.op("Reshape", x, self.net.ints(-1, rows, width // rows))
        y = self.net.op("MatMul", y, self.net.weight(width // rows, 3))
        return self.net.op("Flatten", y), rows * 3

    def gather(self) -> tuple[str, int]:
        x, width = self.pick()
        count = int(self.random.integers(2, width + 1))
        indices = self.random.integers(-width, width, count)
        return self.net.op("Gather", x, self.net.const(indices), axis=1), count

    def norm(self) -> tuple[str, int]:
        x, width = self.pick()
        kind = int(self.random.integers(3))
        if kind == 0:
            return self.net.op("Softmax", x, axis=-1), width
        if kind == 1:
            return self.net.op("Sub", x, self.net.op("ReduceMean", x, axes=[1]) if self.net.opset < 18 else x), width
        return self.net.op("Mul", x, self.net.op("Sigmoid", self.net.dense(x, width, 1))), width

    def pad(self) -> tuple[str, int]:
        x, width = self.pick()
        before, after = (int(one) for one in self.random.integers(0, 3, 2))
        return self.net.op("Pad", x, self.net.ints(0, before, 0, after)), width + before + after

    def tile(self) -> tuple[str, int]:
        x, width = self.pick()
        return self.net.op("Tile", x, self.net.ints(1, 2)), 2 * width

    def conv(self) -> tuple[str, int]:
        x, width = self.pick()
        y = self.net.op("Unsqueeze", x, self.net.ints(1))  # (N, 1, width): a convolution along what were channels
        y = self.net.op("Conv", y, self.net.weight(1, 1, 3), pads=[1, 1])
        return self.net.op("Squeeze", y, self.net.ints(1)), width

    def model(self) -> ir.Model:
        outputs = [self.net.dense(value, width, 2) for value, width in self.values[-2:]]
        return self.net.model(*outputs)


def grown(seed: int, steps: int, dynamic: bool) -> ir.Model:
    net = Grown(seed, dynamic)
    for _ in range(steps):
        net.step()
        if net.values[-1][1] > 200 or net.values[-1][1] < 2:
            net.values.pop()
    return net.model()


def check(seed: int, steps: int, dynamic: bool) -> None:
    parent = grown(seed, steps, dynamic)
    feeds = nets.feeds_of(parent, dynamic=3)
    before = nets.run(parent, feeds)
    if not all(np.isfinite(array).all() for array in before):
        return
    for change in (nets.permuted, nets.widened, nets.duplicated):
        child, _ = change(parent, seed)
        assert nets.difference(before, nets.run(child, feeds)) <= 1e-4, change.__name__


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.integers(0, 2**31), st.integers(2, 14), st.booleans())
@example(1870, 12, False)  # shuffles that make an axis a product of one group with itself
@example(572, 14, False)
@example(4557, 19, True)  # a part whose size only the weight tells
def test_random_nets(seed: int, steps: int, dynamic: bool) -> None:
    check(seed, steps, dynamic)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**31), st.integers(2, 25), st.booleans())
def test_many_random_nets(seed: int, steps: int, dynamic: bool) -> None:
    check(seed, steps, dynamic)
