"""Loading and saving a 500 MB model, whole processes, against ``cp`` and against ``onnx.load`` + ``onnx.save``.

    python benchmarks/files.py                     # load and save through onnxmorph.model
    python benchmarks/files.py --deepen            # onnxmorph deepen --no-verify
    python benchmarks/files.py --command 'PROGRAM {input} {output}'

Two models are made in a temporary folder: one with external data, one with everything embedded; random weights, a stem
of 64 channels (the layer to deepen) and a stack of wide convolutions. Every program is run in turn, several times, each
run a process of its own; what is printed is the median of wall time, its ratio to the first program's, the median of
processor time (of all threads, user and system) and of peak memory (resident set, as the kernel has it). The file cache
is warm, nothing is flushed to disk, and byte code is at hand as it is after an installation, for all of them alike.

The rows in brackets are floors: what Python takes to import numpy, onnx and onnx-ir and do nothing, and what it takes
to do that and copy the files. The second is the least any program that reads ONNX with these packages can take unless
it copies at the same time, as `onnxmorph` does where there is a second core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from installed import environment

WIDE = 1024
OURS = "import sys; from onnxmorph.model import load, save; save(load(sys.argv[1]), sys.argv[2])"
DEEPEN = "from onnxmorph_cli.main import main; raise SystemExit(main())"
IMPORTS = "import numpy, onnx; from onnxmorph._ir import ir"
IMPORTS_AND_COPY = f"import shutil, sys; {IMPORTS}; [shutil.copy(path, sys.argv[-1]) for path in sys.argv[1:-1]]"
THEIRS = "import sys, onnx; onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"


@dataclass
class Contender:
    """One program, and what its runs took."""

    name: str
    arguments: list[str]  # {input}, {output} and {folder} stand for the files, {files} for model and data file
    writes: bool = True
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)

    def run(self, model: Path, folder: Path, environment: dict[str, str]) -> None:
        output = folder / model.name
        files = [str(path) for path in (model, model.with_name(model.name + ".data")) if path.exists()]
        words = []
        for word in self.arguments:
            # Programs hold braces of their own, so only whole words and command lines given by --command are filled in.
            words += files if word == "{files}" else [_filled(word, input=model, output=output, folder=folder)]
        begin = time.perf_counter()
        silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        process = os.posix_spawnp(words[0], words, environment, file_actions=silent)
        _, status, usage = os.wait4(process, 0)
        self.seconds.append(time.perf_counter() - begin)
        self.processor.append(usage.ru_utime + usage.ru_stime)
        self.peak_mb.append(usage.ru_maxrss / 1024)
        size = sum(path.stat().st_size for path in folder.iterdir())
        wanted = 0.9 * sum(Path(path).stat().st_size for path in files) if self.writes else 0
        if status or size < wanted:
            sys.exit(f"{self.name} failed or wrote only {size} bytes: {shlex.join(words)}")

    def clear(self) -> None:
        for taken in (self.seconds, self.processor, self.peak_mb):
            taken.clear()


def _filled(word: str, **names: Path) -> str:
    for name, path in names.items():
        word = word.replace(f"{{{name}}}", str(path))
    return word


def make(path: Path, megabytes: int) -> None:
    """A convolutional network of about ``megabytes`` with external data, written without ever holding it in memory."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    generator = np.random.default_rng(0)
    shapes: list[tuple[str, tuple[int, ...]]] = [("stem", (64, 3, 3, 3)), ("wide0", (WIDE, 64, 3, 3))]
    each = WIDE * WIDE * 9 * 4
    shapes += [(f"wide{i + 1}", (WIDE, WIDE, 3, 3)) for i in range(max(1, round(megabytes * 1e6 / each)))]
    graph = onnx.GraphProto(name="wide")
    value = "x"
    with path.with_name(path.name + ".data").open("wb") as data:
        for name, shape in shapes:
            for suffix, dims in ((".weight", shape), (".bias", shape[:1])):
                array = generator.standard_normal(dims, dtype=np.float32) * np.float32(0.02)
                tensor = graph.initializer.add(name=name + suffix, data_type=TensorProto.FLOAT, dims=dims)
                tensor.data_location = TensorProto.EXTERNAL
                entries = {"location": path.name + ".data", "offset": data.tell(), "length": array.nbytes}
                for key, entry in entries.items():
                    tensor.external_data.add(key=key, value=str(entry))
                data.write(array.tobytes())
            convolved, activated = f"{name}_convolved", f"{name}_out"
            inputs = [value, f"{name}.weight", f"{name}.bias"]
            graph.node.append(helper.make_node("Conv", inputs, [convolved], name=name, pads=[1, 1, 1, 1]))
            graph.node.append(helper.make_node("Relu", [convolved], [activated], name=f"{name}_relu"))
            value = activated
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8]))
    graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", WIDE, 8, 8]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())

    from onnxmorph.model import load, save

    save(load(path), path.with_name("embedded.onnx"), external=False)


def compare(model: Path, contenders: list[Contender], runs: int, scratch: Path) -> None:
    compiled = environment(scratch / "bytecode")
    for round_ in range(runs + 1):
        for contender in contenders:
            folder = scratch / "out"
            folder.mkdir()
            contender.run(model, folder, compiled)
            shutil.rmtree(folder)
            if round_ == 0:  # warms the caches
                contender.clear()
    reference = statistics.median(contenders[0].seconds)
    for contender in contenders:
        seconds = statistics.median(contender.seconds)
        spread = f"{min(contender.seconds):.3f}-{max(contender.seconds):.3f}"
        print(
            f"{model.stem:10} {contender.name:24} {seconds:7.3f} s ({spread})  {seconds / reference:5.2f}x"
            f"  cpu {statistics.median(contender.processor):6.3f} s  {statistics.median(contender.peak_mb):6.0f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to put the models and copies (default: a temporary folder)")
    parser.add_argument("--deepen", action="store_true", help="measure `onnxmorph deepen --no-verify`")
    parser.add_argument("--command", help="measure this command; {input} and {output} stand for the files")
    options = parser.parse_args()
    if options.command:
        name, words = options.command, shlex.split(options.command)
    elif options.deepen:
        morph = "deepen {input} --after stem -o {output} --no-verify"
        name, words = "deepen --no-verify", [sys.executable, "-c", DEEPEN, *morph.split()]
    else:
        name, words = "onnxmorph load+save", [sys.executable, "-c", OURS, "{input}", "{output}"]
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        scratch = Path(temporary)
        external = scratch / "external.onnx"
        embedded = scratch / "embedded.onnx"
        # A process's peak memory begins with its parent's, so this one imports nothing big: another makes the models.
        making = multiprocessing.get_context("spawn").Process(target=make, args=(external, options.megabytes))
        making.start()
        making.join()
        if making.exitcode:
            sys.exit("the models could not be made")
        python = [sys.executable, "-c"]
        contenders = [
            Contender("cp", ["cp", "{files}", "{folder}"]),
            Contender(name, words),
            Contender("(imports)", [*python, IMPORTS], writes=False),
            Contender("(imports, then copy)", [*python, IMPORTS_AND_COPY, "{files}", "{folder}"]),
        ]
        compare(external, contenders, options.runs, scratch)
        theirs = [sys.executable, "-c", THEIRS, "{input}", "{output}"]
        compare(embedded, [Contender("onnx.load+onnx.save", theirs), Contender(name, words)], options.runs, scratch)


if __name__ == "__main__":
    main()
