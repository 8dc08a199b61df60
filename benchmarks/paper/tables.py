"""What each table compares: its parent, its stages, its lines; and the loop that fills it.

A line is one way to grow. At every stage its child is made from what its own earlier stage has learned, and trained for
as many steps as everybody else's. Runs that several lines share are done once, because a run is known by its content.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.paper.datasets import Images
from benchmarks.paper.growth import (
    Growth,
    deepen,
    evenly_replicated,
    from_scratch,
    grow_kernel,
    stay,
    subnet,
    then,
    widen,
)
from benchmarks.paper.parents import Convolution, convolutional, drawn_anew, perceptron
from benchmarks.paper.runs import Certified, Lab, Run
from onnxmorph._ir import ir

__all__ = ["TABLES", "Line", "Outcome", "Sizes", "Table", "fill"]

A_ONE = {"a_rate": 1.0}
"""One learning rate for all, as in NM."""
PLAIN = {"a_rate": 1.0, "warmup": 0}
"""Of what is trained from scratch: nothing in it is newer than the rest, and slopes are learned like any weight."""
NOISE = 0.01
"""Of Net2Net's copies, relative to the weights."""
CLASSES = 10


@dataclass(frozen=True)
class Sizes:
    """What may be reduced.

    Attributes:
        hidden: Units of the hidden layer.
        channels: Times the papers' channels.
        stages: How many of a table's stages.
    """

    hidden: int = 64
    channels: float = 1.0
    stages: int = 99

    def of(self, channels: int) -> int:
        """Channels where the paper has so many."""
        return max(2, round(channels * self.channels))


@dataclass(frozen=True)
class Line:
    """One way to grow.

    Attributes:
        name: For people.
        growths: One per stage.
        settings: Of the training, other than everybody's.
        state: Whether the optimizer's state goes on: ``""``, ``"zero"`` or ``"mean"`` (how new entries begin).
        length: Times everybody's epochs, by stage from 0.
        kind: ``"ours"``, ``"theirs"`` or ``"reference"``.
    """

    name: str
    growths: tuple[Growth, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    state: str = ""
    length: Callable[[int], int] = lambda _stage: 1
    kind: str = "ours"


@dataclass(frozen=True)
class Table:
    """What is compared.

    Attributes:
        name: As typed.
        title: For the page.
        says: What the paper has, and what is different here.
        parent: Untrained.
        parent_name: For people.
        stages: Names of the children.
        lines: See `Line`.
    """

    name: str
    title: str
    says: str
    parent: Callable[[Images, Sizes], ir.Model]
    parent_name: str
    stages: tuple[str, ...]
    lines: Callable[[Sizes], list[Line]]


@dataclass(frozen=True)
class Outcome:
    """What came of one line.

    Attributes:
        line: The line.
        runs: By seed, by stage.
        certificates: By stage, of the first seed; ``None`` for references.
    """

    line: Line
    runs: tuple[tuple[Run, ...], ...]
    certificates: tuple[Certified | None, ...]


def fill(
    table: Table,
    lab: Lab,
    sizes: Sizes,
    settings: Mapping[str, Any],
    seeds: Sequence[int],
    only: str = "",
    skip: Sequence[str] = (),
) -> tuple[list[Run], list[Outcome]]:
    """Train everything that a table needs.

    Args:
        table: One of :data:`TABLES`.
        lab: Where it is done.
        sizes: See `Sizes`.
        settings: Of every training: ``epochs``, ``batch_size``, ``rate`` ...
        seeds: Of parents, morphs and the order of images.
        only: Part of the names of the lines wanted.
        skip: Parts of the names of lines that are not.

    Returns:
        The runs of the parents, by seed; the outcomes, by line.
    """
    lines = [line for line in table.lines(sizes) if only in line.name and not any(word in line.name for word in skip)]
    stages = table.stages[: sizes.stages]
    parents: list[Run] = []
    done: dict[str, list[tuple[Run, ...]]] = {line.name: [] for line in lines}
    checked: dict[str, tuple[Certified | None, ...]] = {}
    for seed in seeds:
        untrained = drawn_anew(table.parent(lab.data, sizes), seed)
        parent = lab.train(untrained, settings, seed=seed, label=f"{table.name}, seed {seed}, parent")
        parents.append(parent)
        for line in lines:
            runs: list[Run] = []
            found: list[Certified | None] = []
            for place, stage in enumerate(stages):
                before = runs[-1] if runs else parent
                model = lab.model(before)
                child = line.growths[place](model, seed)
                if seed == seeds[0]:
                    found.append(lab.certify(model, child) if line.kind != "reference" else None)
                runs.append(
                    lab.train(
                        child,
                        {**settings, **line.settings, "epochs": settings["epochs"] * line.length(place)},
                        seed=seed + 1000 * (place + 1),
                        state_of=before if line.state else None,
                        fill=line.state or "zero",
                        label=f"{table.name}, seed {seed}, {line.name}, {stage}",
                    )
                )
            done[line.name].append(tuple(runs))
            if seed == seeds[0]:
                checked[line.name] = tuple(found)
        print(f"{table.name}: seed {seed} done", file=sys.stderr, flush=True)
    return parents, [Outcome(line, tuple(done[line.name]), checked[line.name]) for line in lines]


def _references(growths: Sequence[Growth]) -> list[Line]:
    """What every growth is held against; the growths say which network is trained from scratch."""
    drawn = tuple(from_scratch(growth) for growth in growths)
    return [
        Line("parent trained on", (stay,) * len(growths), kind="reference"),
        Line("scratch, the child's steps", drawn, PLAIN, kind="reference"),
        Line("scratch, all steps so far", drawn, PLAIN, kind="reference", length=lambda stage: stage + 2),
    ]


# --- MNIST: softmax regression to one hidden layer (NM, section 4.1) --------------------------------------------------


def _softmax(images: Images, _sizes: Sizes) -> ir.Model:
    return perceptron(images.shape, [], CLASSES)


def _least_mirror_widened(hidden: int, fill: str) -> Growth:
    """Mirrored pairs only as many as it takes, and units of their own for the rest."""
    return then(deepen("fc1", "mirror", width=2 * CLASSES), widen("fc1.0", hidden, fill))


def _mnist(sizes: Sizes) -> list[Line]:
    hidden = sizes.hidden

    def depth(method: str, activation: str = "Relu") -> tuple[Growth]:
        return (deepen("fc1", method, width=hidden, activation=activation),)

    identity = deepen("fc1", "identity", activation="Relu")
    return [
        Line("mirror, ReLU", depth("mirror")),
        *(
            Line(f"mirror at its least width, then {fill}", (_least_mirror_widened(hidden, fill),))
            for fill in ("zero-out", "pair")
        ),
        Line("netmorph, P-ReLU, a at 100x", depth("netmorph")),
        Line("netmorph, P-ReLU, a at 1x (NM)", depth("netmorph"), A_ONE, kind="ours"),
        Line("netmorph, P-TanH, a at 100x", depth("netmorph", "Tanh")),
        Line("netmorph, P-TanH, a at 1x (NM)", depth("netmorph", "Tanh"), A_ONE),
        Line("residual", depth("residual")),
        Line("identity, new units beside it", depth("identity")),
        Line("identity, new units beside it, TanH", depth("identity", "Tanh")),
        Line("identity, 10 wide", (identity,)),
        *(
            Line(f"identity, then {fill}", (then(identity, widen("fc1", hidden, fill)),))
            for fill in ("zero-out", "pair")
        ),
        Line(
            "Net2Net: identity, then even copies with noise",
            (then(identity, evenly_replicated("fc1", hidden, noise=NOISE)),),
            kind="theirs",
        ),
        *_references(depth("mirror")),
        Line("scratch, P-ReLU, the child's steps", (from_scratch(depth("netmorph")[0]),), PLAIN, kind="reference"),
        Line(
            "scratch, P-TanH, the child's steps", (from_scratch(depth("netmorph", "Tanh")[0]),), PLAIN, kind="reference"
        ),
    ]


# --- which method deepens best, on each data set ----------------------------------------------------------------------


def _methods(layer: str, channels: int) -> list[Line]:
    """All ways to put a layer of four times the channels behind one that has a ReLU."""
    to = 4 * channels
    mirror = (deepen(layer, "mirror", width=to),)
    return [
        Line("mirror", mirror),
        Line(
            "mirror at its least width, then zero-out",
            (then(deepen(layer, "mirror", width=2 * channels), widen(f"{layer}.0", to, "zero-out")),),
        ),
        Line("netmorph", (deepen(layer, "netmorph", width=to),)),
        Line("identity, new channels beside it", (deepen(layer, "identity", width=to),)),
        Line(
            "identity behind the ReLU, then zero-out",
            (then(deepen(layer, "identity"), widen(layer, to, "zero-out")),),
        ),
        Line("residual", (deepen(layer, "residual", width=to),)),
        Line("identity, no wider", (deepen(layer, "identity"),)),
        *_references(mirror)[:2],
    ]


_DATA = {"digits": "digits", "mnist": "MNIST", "cifar": "CIFAR-10"}


def _methods_of_layers(sizes: Sizes) -> list[Line]:
    return _methods("fc1", max(2, sizes.hidden // 4))


def _methods_of_convolutions(sizes: Sizes) -> list[Line]:
    return _methods("conv2", sizes.of(32))


# --- which fill widens best, on each data set -------------------------------------------------------------------------


def _fills(sizes: Sizes) -> list[Line]:
    fills = ("zero-out", "pair", "replicate", "zero-in")
    growths = {fill: (widen("fc1", sizes.hidden, fill),) for fill in fills}
    return [
        *(Line(fill, growth) for fill, growth in growths.items()),
        *(Line(f"{fill}, rate x 3", growth, {"rate": 3e-3}) for fill, growth in growths.items()),
        *_references(growths["zero-out"])[:2],
        Line(
            "scratch, the child's steps, rate x 3",
            (from_scratch(growths["zero-out"][0]),),
            {**PLAIN, "rate": 3e-3},
            kind="reference",
        ),
    ]


# --- width of a tanh network -----------------------------------------------------------------------------------------


def _tanh(images: Images, sizes: Sizes) -> ir.Model:
    return perceptron(images.shape, [max(2, sizes.hidden // 4)], CLASSES, "Tanh")


def _tanh_width(sizes: Sizes) -> list[Line]:
    to = sizes.hidden
    return [
        *(Line(fill, (widen("fc1", to, fill),)) for fill in ("zero-out", "zero-in", "replicate", "pair")),
        *(
            Line(f"Net2Net: even copies, noise {noise:g}", (evenly_replicated("fc1", to, noise=noise),), kind="theirs")
            for noise in (0.0, 0.01, 0.1, 0.5)
        ),
        *_references((widen("fc1", to, "zero-out"),)),
    ]


# --- settings --------------------------------------------------------------------------------------------------------


def _narrow(images: Images, sizes: Sizes) -> ir.Model:
    return perceptron(images.shape, [max(2, sizes.hidden // 4)], CLASSES)


def _defaults(sizes: Sizes) -> list[Line]:
    hidden = sizes.hidden
    mirror = (deepen("fc2", "mirror", width=hidden),)
    prelu = (deepen("fc2", "netmorph", width=hidden),)
    ptanh = (deepen("fc2", "netmorph", width=hidden, activation="Tanh"),)
    lines = [
        Line(f"netmorph, {name}, a at {rate}x", growth, {"a_rate": float(rate)})
        for name, growth, rates in (("P-ReLU", prelu, (1, 10, 100, 1000)), ("P-TanH", ptanh, (1, 100)))
        for rate in rates
    ]
    least = then(deepen("fc2", "mirror", width=2 * CLASSES), widen("fc2.0", max(hidden, 2 * CLASSES + 2), "zero-out"))
    lines.append(Line("mirror at its least width, then zero-out", (least,)))
    growths = {
        "mirror": mirror,
        "zero-out": (widen("fc1", hidden, "zero-out"),),
        "pair": (widen("fc1", hidden, "pair"),),
    }
    for name, growth in growths.items():
        lines += [
            Line(f"{name}, as it stands", growth),
            Line(f"{name}, no warm-up", growth, {"warmup": 0}),
            Line(f"{name}, warm-up of 200 steps", growth, {"warmup": 200}),
            Line(f"{name}, optimizer's state kept", growth, state="zero"),
            Line(f"{name}, state kept, new ones at the mean", growth, state="mean"),
            Line(f"{name}, rate x 3", growth, {"rate": 3e-3}),
            Line(f"{name}, rate x 3, no warm-up", growth, {"rate": 3e-3, "warmup": 0}),
            Line(f"{name}, rate x 3, optimizer's state kept", growth, {"rate": 3e-3}, state="zero"),
            Line(f"{name}, rate x 10", growth, {"rate": 1e-2}),
            Line(f"{name}, rate x 10, no warm-up", growth, {"rate": 1e-2, "warmup": 0}),
            Line(f"{name}, rate x 10, optimizer's state kept", growth, {"rate": 1e-2}, state="zero"),
        ]
    lines += [
        Line(f"netmorph, P-ReLU, a at {rate}x, rate x 3", prelu, {"a_rate": float(rate), "rate": 3e-3})
        for rate in (1, 10, 100)
    ]
    for fill in ("zero-in", "replicate"):
        growth = (widen("fc1", hidden, fill),)
        lines += [
            Line(f"{fill}, as it stands", growth),
            Line(f"{fill}, rate x 3", growth, {"rate": 3e-3}),
        ]
    deeper, wider = from_scratch(mirror[0]), from_scratch(growths["zero-out"][0])
    for factor, rate in ((1, 1e-3), (3, 3e-3), (10, 1e-2)):
        text = "" if factor == 1 else f", rate x {factor}"
        lines += [
            Line(f"scratch, deeper{text}", (deeper,), {**PLAIN, "rate": rate}, kind="reference"),
            Line(f"scratch, wider{text}", (wider,), {**PLAIN, "rate": rate}, kind="reference"),
            Line(f"parent trained on{text}", (stay,), {"rate": rate}, kind="reference"),
        ]
    return lines


# --- CIFAR: depth, kernel, width (NM, sections 4.2-4.4) ---------------------------------------------------------------


def _cifar_111(images: Images, sizes: Sizes) -> ir.Model:
    stack = [Convolution(5, sizes.of(channels), pooled=True) for channels in (32, 32, 64)]
    return convolutional(images.shape, stack, CLASSES)


def _stacked(sizes: Sizes, gap: str) -> tuple[Growth, ...]:
    """cifar_111 -> 211 -> 222 -> 2222 -> 3333 by subnets; ``gap`` is how what lies between factors is made exact."""
    narrow, wide = sizes.of(32), sizes.of(64)

    def opened(layer: str, channels: int) -> Growth:
        return subnet(layer, f"(5:{channels}x4{gap})(1:{channels})")

    def deepened(layer: str, channels: int) -> Growth:
        return subnet(layer, f"(3:{channels}x4{gap})(1:{channels})")

    # The layer between the old block and the new one is as wide as both: too narrow for mirrored channels.
    new_block = subnet("conv3.1", f"(1:{wide},netmorph)(5:{wide}x4{gap})(1:{wide})")
    return (
        opened("conv1", narrow),
        then(opened("conv2", narrow), opened("conv3", wide)),
        new_block,
        then(
            deepened("conv1.1", narrow),
            deepened("conv2.1", narrow),
            deepened("conv3.1.0", wide),
            deepened("conv3.1.2", wide),
        ),
    )


def _copied(sizes: Sizes, wider: Callable[[str, int], Growth]) -> tuple[Growth, ...]:
    """The same networks by identity layers, then width, as far as 222."""
    narrow, wide = sizes.of(32), sizes.of(64)

    def opened(layer: str, channels: int) -> Growth:
        return then(deepen(layer, "identity"), wider(layer, 4 * channels))

    return opened("conv1", narrow), then(opened("conv2", narrow), opened("conv3", wide))


def _least_mirrored(sizes: Sizes) -> tuple[Growth, ...]:
    """The same networks with only as many mirrored pairs as it takes, as far as 222."""
    narrow, wide = sizes.of(32), sizes.of(64)

    def opened(layer: str, channels: int) -> Growth:
        half = subnet(layer, f"(5:{channels}x2,mirror)(1:{channels})")
        return then(half, widen(f"{layer}.0", 4 * channels, "zero-out"))

    return opened("conv1", narrow), then(opened("conv2", narrow), opened("conv3", wide))


def _beside() -> tuple[Growth, ...]:
    def opened(layer: str) -> Growth:
        return deepen(layer, "identity", width="x4")

    return opened("conv1"), then(opened("conv2"), opened("conv3"))


def _residual() -> tuple[Growth, ...]:
    def opened(layer: str) -> Growth:
        return deepen(layer, "residual", width="x4")

    return opened("conv1"), then(opened("conv2"), opened("conv3"))


def _cifar_depth(sizes: Sizes) -> list[Line]:
    mirror, prelu = _stacked(sizes, ""), _stacked(sizes, ",netmorph")
    lines = [
        Line("mirror, ReLU", mirror),
        Line("netmorph, P-ReLU, a at 100x", prelu),
        Line("netmorph, P-ReLU, a at 1x (NM)", prelu, A_ONE),
    ]
    if sizes.stages <= 2:
        lines += [
            Line("mirror at its least width, then zero-out", _least_mirrored(sizes)),
            Line("identity, new channels beside it", _beside()),
            Line("identity, then zero-out", _copied(sizes, lambda layer, to: widen(layer, to, "zero-out"))),
            Line("residual", _residual()),
            Line(
                "Net2Net: identity, then even copies with noise",
                _copied(sizes, lambda layer, to: evenly_replicated(layer, to, noise=NOISE)),
                kind="theirs",
            ),
        ]
    return [*lines, *_references(mirror)]


def _cifar_base(images: Images, sizes: Sizes) -> ir.Model:
    stack = [
        Convolution(kernel, sizes.of(channels), pooled=kernel == 1) for channels in (32, 32, 64) for kernel in (5, 1)
    ]
    return convolutional(images.shape, stack, CLASSES)


def _larger_kernels(_sizes: Sizes) -> Growth:
    return then(*(grow_kernel(layer, 3) for layer in ("conv2", "conv4", "conv6")))


def _doubled(sizes: Sizes, wider: Callable[[str, int], Growth]) -> Growth:
    widths = {"conv1": 32, "conv3": 32, "conv5": 64}
    return then(*(wider(layer, 2 * sizes.of(channels)) for layer, channels in widths.items()))


def _filled(fill: str) -> Callable[[str, int], Growth]:
    return lambda layer, to: widen(layer, to, fill)


def _cifar_kernel(sizes: Sizes) -> list[Line]:
    larger = _larger_kernels(sizes)
    return [
        Line("kernel (zeros, as NM)", (larger,)),
        Line("kernel, no warm-up", (larger,), {"warmup": 0}),
        Line("kernel, optimizer's state kept", (larger,), state="zero"),
        *_references((larger,)),
    ]


def _cifar_width(sizes: Sizes) -> list[Line]:
    larger = _larger_kernels(sizes)
    fills = ("zero-out", "zero-in", "replicate", "pair")
    wider = _doubled(sizes, _filled("zero-out"))
    return [
        *(Line(f"kernel, {fill}", (larger, _doubled(sizes, _filled(fill)))) for fill in fills),
        Line(
            "kernel, Net2Net: even copies with noise",
            (larger, _doubled(sizes, lambda layer, to: evenly_replicated(layer, to, noise=NOISE))),
            kind="theirs",
        ),
        Line("kernel, trained on", (larger, stay), kind="reference"),
        *_references((larger, wider)),
    ]


TABLES = {
    table.name: table
    for table in (
        Table(
            "mnist",
            "Softmax regression to one hidden layer",
            "NM, section 4.1: from 92.29 % to about 97 % by NetMorph with PReLU or PTanH, 94 % by Net2Net.",
            _softmax,
            "softmax regression",
            ("one hidden layer",),
            _mnist,
        ),
        *(
            Table(
                f"methods-{data}",
                f"Methods of deepen: a hidden layer more, {title}",
                "Of no paper: which method `deepen` should take.",
                _narrow,
                "a quarter of the hidden units",
                ("a layer more",),
                _methods_of_layers,
            )
            for data, title in _DATA.items()
        ),
        *(
            Table(
                f"fills-{data}",
                f"Fills of widen: four times the hidden units, {title}",
                "Of no paper: which fill `widen` should take behind a ReLU.",
                _narrow,
                "a quarter of the hidden units",
                ("all hidden units",),
                _fills,
            )
            for data, title in _DATA.items()
        ),
        *(
            Table(
                f"convolutions-{data}",
                f"Methods of deepen: a convolution more, {_DATA[data]}",
                "Of no paper: the second of three convolutions becomes two.",
                _cifar_111,
                "cifar_111",
                ("a layer more",),
                _methods_of_convolutions,
            )
            for data in ("digits", "cifar")
        ),
        Table(
            "tanh-width",
            "Width of a network of tanh",
            "NM say that theirs widens networks of tanh too, where zero-in needs phi(0) = 0.",
            _tanh,
            "a quarter of the hidden units, tanh",
            ("all hidden units",),
            _tanh_width,
        ),
        Table(
            "defaults",
            "Settings of the training after a morph",
            "Of no paper: which defaults learn best.",
            _narrow,
            "a quarter of the hidden units, ReLU",
            ("child",),
            _defaults,
        ),
        Table(
            "cifar-depth",
            "cifar_111 to 211, 222, 2222, 3333",
            "NM, section 4.2: 78.15 % -> 82.06 -> 82.43 -> 83.14 -> about 84 (all of CIFAR-10, full width, trained to"
            " the end); Net2Net 81.21 -> 81.99.",
            _cifar_111,
            "cifar_111",
            ("cifar_211", "cifar_222", "cifar_2222", "cifar_3333"),
            _cifar_depth,
        ),
        Table(
            "cifar-kernel",
            "cifar_base to cifar_ksize",
            "NM, section 4.3: 81.48 % -> 82.81 by 1x1 kernels growing to 3x3.",
            _cifar_base,
            "cifar_base",
            ("cifar_ksize",),
            _cifar_kernel,
        ),
        Table(
            "cifar-width",
            "cifar_base to cifar_ksize to cifar_width",
            "NM, section 4.4: 83.09 % by NetMorph, 82.70 by Net2Net, the widths of the 5x5 layers doubled.",
            _cifar_base,
            "cifar_base",
            ("cifar_ksize", "cifar_width"),
            _cifar_width,
        ),
    )
}
