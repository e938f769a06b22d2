"""Files of every kind that Hago reads, damaged at random; and the readers that they are given to.

`pristine` writes one whole file of a kind, `damaged` spoils it by seed, `read` is what Hago reads it with. Used by
damaged_files.py (many) and by tests/test_damaged_files.py (a sample).
"""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from hago.tensor import TensorInfo

Rng = random.Random
INPUT = TensorInfo("x", "float32", (1, 3, 8, 8))
SPEC = "x86-avx2"

# --- whole files ----------------------------------------------------------------------------------

_NETS = (
    """<ir_version: 10, opset_import: ["" : 21]>
    net (float[n, 3, 8, 8] x) => (float[n, 5] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu (c)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        g = GlobalAveragePool (m)
        shape = Constant <value = int64[2] {-1, 4}> ()
        f = Reshape (g, shape)
        y = Gemm <transB = 1> (f, v)
    }""",
    """<ir_version: 7, opset_import: ["" : 9]>
    net (float[n, 3, 8, 8] x) => (float[n, 4, 16, 16] y) {
        c = Conv <pads = [1, 1, 1, 1], auto_pad = "NOTSET"> (x, w)
        scales = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()
        u = Upsample <mode = "nearest"> (c, scales)
        y = Clip <min = 0.0, max = 6.0> (u)
    }""",
    """<ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 3, 8, 8] x) => (float[n, 8, 4] y) {
        t = Transpose <perm = [0, 2, 3, 1]> (x)
        to = Constant <value = int64[3] {-1, 8, 24}> ()
        r = Reshape (t, to)
        e = ConstantOfShape <value = float[1] {0.5}> (size)
        size = Constant <value = int64[2] {24, 4}> ()
        m = MatMul (r, e)
        s = Softmax <axis = -1> (m)
        begin = Constant <value = int64[1] {0}> ()
        end = Constant <value = int64[1] {4}> ()
        axes = Constant <value = int64[1] {2}> ()
        y = Slice (s, begin, end, axes)
    }""",
    """<ir_version: 10, opset_import: ["" : 21]>
    net (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y) {
        scale = Constant <value = float {0.02}> ()
        zero = Constant <value = uint8 {128}> ()
        q = QuantizeLinear (x, scale, zero)
        d = DequantizeLinear (q, scale, zero)
        y = Conv <pads = [1, 1, 1, 1]> (d, w)
    }""",
    """<ir_version: 10, opset_import: ["" : 21]>
    net (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) {
        yes = Constant <value = bool {1}> ()
        y = If (yes) <
            then_branch = a () => (float[n, 3, 8, 8] p) { p = Relu (x) },
            else_branch = b () => (float[n, 3, 8, 8] q) { q = Neg (x) }
        >
    }""",
)


def network(index: int = 0) -> onnx.ModelProto:
    """One of a few small networks; together they have old operators, branches, folding and quantized tensors."""
    text = _NETS[index]
    if "ConstantOfShape" in text:  # in the order of their use
        lines = text.splitlines()
        made = next(i for i, line in enumerate(lines) if "size = Constant" in line)
        lines.insert(made - 1, lines.pop(made))
        text = "\n".join(lines)
    proto = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (5, 4))):
        if any(name in node.input for node in proto.graph.node):
            values = rng.standard_normal(shape).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


def _onnx(folder: Path, rng: Rng) -> Path:
    path = folder / "model.onnx"
    onnx.save(network(rng.randrange(len(_NETS))), path)
    return path


def _external(folder: Path, rng: Rng) -> Path:
    proto = network(0)
    for index, tensor in enumerate(proto.graph.initializer):
        data = tensor.raw_data
        (folder / f"weights{index}.bin").write_bytes(data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", f"weights{index}.bin"), ("offset", "0"), ("length", str(len(data)))):
            tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def _npz(folder: Path, rng: Rng) -> Path:
    path = folder / "samples.npz"
    save = rng.choice((np.savez, np.savez_compressed))
    save(path, x=np.ones((6, 3, 8, 8), np.float32), y=np.arange(6), calib=np.zeros((2, 3, 8, 8), np.float32))
    return path


def _npy(folder: Path, rng: Rng) -> Path:
    path = folder / "samples.npy"
    np.save(path, np.ones((6, 3, 8, 8), np.float32))
    return path


_PREPROCESS = "resize: 8\ncenter_crop: 8\nscale: 255\nmean: [0.5, 0.4, 0.3]\nstd: [0.2, 0.2, 0.2]\ncolour: rgb\n"


def _preprocess(folder: Path, rng: Rng) -> Path:
    path = folder / "preprocess.yaml"
    path.write_text(_PREPROCESS)
    return path


def _image(folder: Path, rng: Rng) -> Path:
    from PIL import Image

    _preprocess(folder, rng)
    suffix = rng.choice(("png", "jpg", "bmp", "gif", "webp", "tiff", "ppm"))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    path = folder / "zero" / f"a.{suffix}"
    for place in (path, folder / "one" / f"b.{suffix}"):
        place.parent.mkdir()
        Image.fromarray(pixels).save(place)
    return path


def _labels(folder: Path, rng: Rng) -> Path:
    _image(folder, rng)
    names = sorted(path.relative_to(folder) for path in folder.glob("*/*"))
    path = folder / "labels.csv"
    path.write_text("file,label\n" + "".join(f"{name},{index}\n" for index, name in enumerate(names)))
    return path


@cache
def _library() -> bytes:
    import tempfile

    import hago

    with tempfile.TemporaryDirectory() as place:
        hago.compile(network(0), threads=1, cache=Path(place) / "kernels").save(Path(place) / "model.so")
        return (Path(place) / "model.so").read_bytes()


def _model_so(folder: Path, rng: Rng) -> Path:
    path = folder / "model.so"
    path.write_bytes(_library())
    return path


def _strategy(suffix: str) -> Callable[[Path, Rng], Path]:
    def write(folder: Path, rng: Rng) -> Path:
        from hago.strategy import Choice, Strategy

        path = folder / f"strategy.{suffix}"
        choices = {f"/stem/conv{index}": Choice("int8", calibrator="mse") for index in range(4)}
        Strategy("0" * 64, SPEC, choices).save(path)
        return path

    return write


def _spec(folder: Path, rng: Rng) -> Path:
    from hago.spec import shipped_folder

    text = (shipped_folder() / f"{rng.choice((SPEC, 'arm-cortex-a76', 'x86-avx512-vnni'))}.yaml").read_text()
    path = folder / "board.yaml"
    path.write_text(re.sub("(?m)^name: .*$", "name: board", text))
    return path


def _devices(folder: Path, rng: Rng) -> Path:
    path = folder / "devices.yaml"
    path.write_text(
        "devices:\n  desk: {spec: auto, local: true}\n"
        '  pi5: {spec: arm-cortex-a76, rpc: "192.168.1.7:9090", timeout_s: 30}\n'
        '  farm:\n    spec: arm-cortex-a72\n    tracker: "farm.example:9190"\n    key: pi4\n'
        "  a72: {spec: arm-cortex-a72, emulated: true}\n"
    )
    return path


def _calibration(folder: Path, rng: Rng) -> Path:
    from hago.calibrate import calibrate
    from hago.data import make_samples

    values = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    path = folder / "calibration.npz"
    calibrate(["x"], make_samples(values, [INPUT]), lambda feeds: dict(feeds), 2).save(path)
    return path


def _records(folder: Path, rng: Rng) -> Path:
    from hago.record import Record
    from hago.record_file import write_records
    from hago.strategy import Choice, Strategy

    strategy = Strategy("0" * 64, SPEC, {"conv": Choice("int8")})
    path = folder / "records.jsonl"
    numbers = {"accuracy": 0.5, "latency_s": 1e-3, "latency_ratio": 0.5, "n_samples": 40, "layer_times": {"conv": 1e-4}}
    write_records(path, [Record(index, f"trial {index}", strategy, metric="top1", **numbers) for index in range(4)])
    return path


def _study(name: str) -> Callable[[Path, Rng], Path]:
    def write(folder: Path, rng: Rng) -> Path:
        path = folder / name
        path.write_bytes(_whole_study(name))
        return path

    return write


@cache
def _whole_study(name: str) -> bytes:
    import tempfile

    from hago.record import Record

    with tempfile.TemporaryDirectory() as place:
        store, space = _open_store(Path(place) / name), _space()
        for index in range(2):
            params = {key: values[index % len(values)] for key, values in space.parameters.items()}
            number, trial_id = store.begin(params, "probe", f"trial {index}")
            record = Record(number, "trial", space.strategy(params), accuracy_change=0.0, latency_ratio=0.5)
            store.finish(trial_id, record, [0.5, 0.0])
        return (Path(place) / name).read_bytes()


def _threads(folder: Path, rng: Rng) -> Path:
    path = folder / "threads.json"
    path.write_text('{"threads": 2}\n')
    return path


def _job(folder: Path, rng: Rng) -> Path:
    from hago.result_files import JOB_FILE
    from hago.tuning.job import Job

    Job("/models/model.onnx", "0" * 64, SPEC, 1, 1, "top1", True, "share", {"x": (-1, 3, 8, 8)}).save(folder)
    return folder / JOB_FILE


_KEY = "k" * 64


def _cache_entry(suffix: str) -> Callable[[Path, Rng], Path]:
    def write(folder: Path, rng: Rng) -> Path:
        from hago.compiler.cache import KernelCache

        entry = KernelCache(folder).folder / f"{_KEY}{suffix}"
        folder.chmod(0o700)
        entry.parent.mkdir(mode=0o700)
        if suffix == ".json":
            entry.write_text(
                json.dumps({"name": "conv", "times_s": {"cpu": 1e-4, "other": 2e-4}, "times_disturbed": {"cpu": 0.0}})
            )
        else:
            entry.write_bytes(_library())
        return entry

    return write


# --- what reads them ------------------------------------------------------------------------------


def _read_onnx(path: Path) -> None:
    from hago.model import load_model
    from hago.runners.onnx_io import static_model

    load_model(path, 1)
    static_model(path, 1)


def _read_samples(path: Path) -> None:
    from hago.data import make_samples

    samples = make_samples(path, [INPUT])
    for one in (samples, samples.calibration):
        if one is not None:
            for start in range(0, len(one), 64):
                one.batch(start, min(start + 64, len(one)))


def _read_folder(path: Path) -> None:
    _read_samples(path if (path / "preprocess.yaml").is_file() else path.parent)


def _read_model_so(path: Path) -> None:
    import hago

    net = hago.load(path)
    net(np.zeros(net.input_info[0].shape, np.float32))


def _read_strategy(path: Path) -> None:
    from hago.strategy import Strategy

    Strategy.load(path)


def _read_spec(path: Path) -> None:
    from hago.spec import load_spec

    load_spec(path)


def _read_devices(path: Path) -> None:
    from hago.device.config import load_devices

    load_devices(path)


def _read_preprocess(path: Path) -> None:
    from hago.data.images import Preprocessing

    Preprocessing.load(path)


def _read_calibration(path: Path) -> None:
    from hago.calibrate import Calibration
    from hago.methods import RANGES
    from hago.scheme import IntegerType

    found = Calibration.load(path)
    for name in ("minmax", "percentile", "mse"):
        found.range("x", RANGES[name], IntegerType(8, signed=False, symmetric=False))


def _read_records(path: Path) -> None:
    from hago.record_file import read_records

    read_records(path)


@cache
def _space() -> Any:
    from hago.model import load_model
    from hago.search import SearchSpace
    from hago.spec import load_spec

    return SearchSpace.from_model(load_model(network(0)), load_spec(SPEC))


def _open_store(path: Path) -> Any:
    from hago.search import Goal
    from hago.search.open_store import open_store

    goal = Goal(0.01, 0.0, ("latency", "accuracy"), True)
    store = open_store(_space(), goal, {"model": "m"}, storage=path, folder=None, resume=True)
    store.recover(goal)
    return store


def _read_study(path: Path) -> None:
    store = _open_store(path)
    store.finished()
    store.pending()


def _read_threads(path: Path) -> None:
    from hago.tuning.thread_choice import kept_threads

    kept_threads(path)


def _read_job(path: Path) -> None:
    from hago.tuning.job import Job

    Job.load(path.parent)


def _read_cache(path: Path) -> None:
    from hago.compiler.cache import KernelCache
    from hago.kernels import executor_named
    from hago.measure.kernels import KernelTime

    cache = KernelCache(path.parent.parent)
    cache.get(_KEY, executor_named("cpu"))
    cache.object_file(_KEY)
    cache.device_code(_KEY)
    cache.time_of(_KEY, "cpu")
    cache.remember_time(_KEY, "cpu", KernelTime(1e-3, 0.0))
    cache.info()


@dataclass(frozen=True)
class Kind:
    """One kind of file: how a whole one is written, what reads it, and whether it is text."""

    write: Callable[[Path, Rng], Path]
    read: Callable[[Path], None]
    is_text: bool = False


KINDS: dict[str, Kind] = {
    "ONNX model": Kind(_onnx, _read_onnx),
    "ONNX model, weights apart": Kind(_external, _read_onnx),
    "samples, npz": Kind(_npz, _read_samples),
    "samples, npy": Kind(_npy, _read_samples),
    "image in a folder": Kind(_image, lambda path: _read_folder(path.parent)),
    "labels.csv": Kind(_labels, _read_folder, is_text=True),
    "preprocess.yaml": Kind(_preprocess, _read_preprocess, is_text=True),
    "compiled network, model.so": Kind(_model_so, _read_model_so),
    "strategy, YAML": Kind(_strategy("yaml"), _read_strategy, is_text=True),
    "strategy, JSON": Kind(_strategy("json"), _read_strategy, is_text=True),
    "hardware spec": Kind(_spec, _read_spec, is_text=True),
    "devices.yaml": Kind(_devices, _read_devices, is_text=True),
    "calibration.npz": Kind(_calibration, _read_calibration),
    "records.jsonl": Kind(_records, _read_records, is_text=True),
    "study.db": Kind(_study("study.db"), _read_study),
    "study, journal": Kind(_study("study.journal"), _read_study, is_text=True),
    "search.json": Kind(_job, _read_job, is_text=True),
    "threads.json": Kind(_threads, _read_threads, is_text=True),
    "kernel cache, object": Kind(_cache_entry(".o"), _read_cache),
    "kernel cache, library": Kind(_cache_entry(".so"), _read_cache),
    "kernel cache, code for a device": Kind(_cache_entry(".device"), _read_cache),
    "kernel cache, JSON": Kind(_cache_entry(".json"), _read_cache, is_text=True),
}


# --- damage ---------------------------------------------------------------------------------------


def damaged(kind: str, seed: int, folder: Path) -> tuple[Path, str]:
    """A file of this kind in the (empty) folder, spoiled by seed, and in a few words how."""
    rng = random.Random(f"{kind} {seed}")
    about = KINDS[kind]
    path = about.write(folder, rng)
    ways = [*_ANY, *(_TEXT if about.is_text else ()), *_OWN.get(kind, ()) * 4]
    spoiled = path
    if rng.random() < 0.3 and (apart := sorted(folder.glob("*.bin"))):  # the weights, in place of the model
        spoiled, ways = rng.choice(apart), [*_ANY]
    way = rng.choice(ways)
    spoiled.write_bytes(way(spoiled.read_bytes(), rng))
    return path, way.__name__.strip("_").replace("_", " ")


def _cut_short(data: bytes, rng: Rng) -> bytes:
    return data[: rng.randrange(len(data))]


def _flipped_bits(data: bytes, rng: Rng) -> bytes:
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        spoiled[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def _overwritten(data: bytes, rng: Rng) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((1, 4, 16, 64, 512))
    filling = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return data[:start] + filling + data[start + length :]


def _inserted(data: bytes, rng: Rng) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 3, 32))) + data[start:]


def _taken_out(data: bytes, rng: Rng) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice((1, 8, 64)) :]


def _empty(data: bytes, rng: Rng) -> bytes:
    return b""


def _all_zero(data: bytes, rng: Rng) -> bytes:
    return b"\0" * len(data)


def _noise(data: bytes, rng: Rng) -> bytes:
    return rng.randbytes(rng.randrange(1, 4096))


def _another_kind(data: bytes, rng: Rng) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones((2, 2), np.float32))
    bare = io.BytesIO()
    np.save(bare, np.ones(3))
    others = (
        network(0).SerializeToString(), buffer.getvalue(), bare.getvalue(), b'{"a": [1, 2]}', b"a: 1\nb: [2]\n",
        b"SQLite format 3\0" + b"\0" * 84, b"\x7fELF\x02\x01\x01" + b"\0" * 57, b"<html>Not found</html>",
        b"\x89PNG\r\n\x1a\n", b"\x80\x02]q\x00.",
    )  # fmt: skip
    return rng.choice(others)


def _another_encoding(data: bytes, rng: Rng) -> bytes:
    text = data.decode("utf-8", "replace")
    place = rng.randrange(len(text) + 1)
    text = text[:place] + rng.choice(("é", "ß", "日", "\u202e", "\x1b[31m", "\x00", "\x85")) + text[place:]
    return text.encode(rng.choice(("latin-1", "utf-16", "utf-16-le", "utf-32", "cp1252", "utf-8", "utf-7")), "replace")


def _nested(data: bytes, rng: Rng) -> bytes:
    opening = rng.choice((b"[", b"{", b'{"a":', b"- ", b"[{a: ", b"? "))
    return data + b"\n" + opening * rng.choice((80, 5_000, 100_000))


def _other_number(data: bytes, rng: Rng) -> bytes:
    words = (b"1e999", b"9" * 30, b"9" * 5000, b"-1", b".inf", b".nan", b"NaN", b"Infinity", b"0", b"1e-400", b"0x7f")
    return _replaced(rb"\d+(\.\d+)?", rng.choice(words), data, rng)


def _other_type(data: bytes, rng: Rng) -> bytes:
    words = (b"[]", b"{}", b"null", b"true", b'"text"', b"[1, [2]]", b"{a: {b: 1}}", b'{"a": 1}', b"!!int 1", b"*a")
    return _replaced(rb'("[^"]*"|[\w.-]+)(?=[,}\]\n])', rng.choice(words), data, rng)


def _key_said_twice(data: bytes, rng: Rng) -> bytes:
    if b"\n" in data.strip():
        lines = data.splitlines(keepends=True)
        place = rng.randrange(len(lines))
        return b"".join([*lines[: place + 1], *lines[place:]])
    return _replaced(rb'"\w+":', b'"threads": 1, "threads":', data, rng)


def _field_left_out(data: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.5:
        lines = data.splitlines(keepends=True)
        del lines[rng.randrange(len(lines))]
        return b"".join(lines)
    return _replaced(rb'"?[\w-]+"?: ?("[^"]*"|[\w.-]+),? ?', b"", data, rng)


def _replaced(pattern: bytes, by: bytes, data: bytes, rng: Rng) -> bytes:
    found = list(re.finditer(pattern, data))
    if not found:
        return _flipped_bits(data, rng)
    at = rng.choice(found)
    return data[: at.start()] + by + data[at.end() :]


_ANY = (
    _cut_short, _flipped_bits, _overwritten, _inserted, _taken_out, _empty, _all_zero, _noise, _another_kind,
)  # fmt: skip
_TEXT = (_another_encoding, _nested, _other_number, _other_type, _key_said_twice, _field_left_out)


def _fields_of_the_model(data: bytes, rng: Rng) -> bytes:
    """A valid message whose fields say what cannot be."""
    proto = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 3))):
        _spoil_message(proto, rng)
    return proto.SerializeToString()


def _spoil_message(message: Any, rng: Rng) -> None:
    """Goes down to some field of the message and changes, repeats or clears it."""
    fields = message.ListFields()
    if not fields:
        return
    field, value = rng.choice(fields)
    is_list = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    if is_list and len(value) == 0:
        return
    if field.message_type is not None and rng.random() < 0.85:
        _spoil_message(rng.choice(list(value)) if is_list else value, rng)
        return
    if field.message_type is not None:
        if is_list and rng.random() < 0.5:
            value.add().CopyFrom(rng.choice(list(value)))
        elif is_list:
            del value[rng.randrange(len(value))]
        else:
            message.ClearField(field.name)
        return
    index = rng.randrange(len(value)) if is_list else 0
    other = _other_value(value[index] if is_list else value, rng)
    if rng.random() < 0.2:
        message.ClearField(field.name)
        return
    try:
        if is_list:
            value[index] = other
        else:
            setattr(message, field.name, other)
    except (ValueError, TypeError):  # an enumeration that knows no such number, or bytes that are no text
        message.ClearField(field.name)


def _other_value(value: Any, rng: Rng) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((0, -1, 1, 2, 7, 1 << 20, (1 << 31) - 1, -(1 << 31), (1 << 62), -(1 << 63), value + 1))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e38, float("inf"), float("nan")))
    if isinstance(value, bytes):
        return rng.choice((b"", b"\xff\xfe", value[:-1], value * 2, b"\0" * 8))
    return rng.choice(("", "\x1b[31m", "x" * 300, "a\nb", "\u202e", "x", "y", "w", "Loop", "com.example", "é"))


def _place_of_the_weights(data: bytes, rng: Rng) -> bytes:
    proto = onnx.ModelProto.FromString(data)
    tensor = rng.choice(list(proto.graph.initializer))
    key, value = rng.choice((
        ("location", "../../../../../../etc/passwd"), ("location", "/etc/passwd"), ("location", ""),
        ("location", "."), ("location", "a\0b"), ("location", "model.onnx"), ("location", "x" * 5000),
        ("location", "\x1b[31mred"), ("offset", "-1"), ("offset", "word"), ("offset", "99999999999999999999999"),
        ("length", "-5"), ("length", "9223372036854775807"), ("length", "1"), ("length", ""), ("length", "1e3"),
    ))  # fmt: skip
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
    if rng.random() < 0.3:
        tensor.dims[0] = rng.choice((-1, 1 << 40, 1 << 62, 0))
    return proto.SerializeToString()


def _nested_graphs(data: bytes, rng: Rng) -> bytes:
    """A node whose branch holds a node whose branch ...: written byte by byte, deeper than any library goes."""
    body = helper.make_node("Identity", ["x"], ["z"]).SerializeToString()
    for _ in range(rng.choice((5, 20, 30, 60, 1000))):
        branch = _field(1, b"then_branch") + _field(6, _field(1, body) + _field(2, b"b")) + b"\xa0\x01\x05"
        body = _field(1, b"x") + _field(2, b"z") + _field(4, b"If") + _field(5, branch)
    return data + _field(7, _field(1, body))  # what stands there twice is merged


def _field(number: int, content: bytes) -> bytes:
    """One length-delimited field of a protobuf message."""
    length, rest = b"", len(content)
    while rest > 127:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + content


def _header_of_an_array(data: bytes, rng: Rng) -> bytes:
    """An npy header that promises what is not there; in an npz file, of one of its arrays."""
    shape = rng.choice(
        ("(1000000000000,)", "(-1, 3, 8, 8)", "(6, 3)", "()", "(6.5,)", "(9223372036854775807, 8)", "(0,)")
    )
    kind = rng.choice(("<f4", "|O", "<U4", "<M8[ns]", "<c8", "bad", "<f2", "[('a', '<f4')]", "|V3"))
    text = f"{{'descr': {kind!r}, 'fortran_order': {rng.choice(('False', 'True', '3'))}, 'shape': {shape}, }}"
    text = rng.choice((text, "{" * 3000, "__import__('os')", text[:-4])).ljust(117) + "\n"
    bare = b"\x93NUMPY" + rng.choice((b"\1\0", b"\2\0", b"\3\0", b"\7\7")) + len(text).to_bytes(2, "little")
    array = bare + text.encode() + b"\0" * 64
    if data[:2] != b"PK":
        return array
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        spoiled = rng.choice(names)
        for name in names:
            new.writestr(name, array if name == spoiled else old.read(name))
    return buffer.getvalue()


def _arrays_of_the_calibration(data: bytes, rng: Rng) -> bytes:
    with np.load(io.BytesIO(data)) as file:
        arrays = {name: file[name] for name in file.files}
    way = rng.choice((_other_number, _other_type, _field_left_out, _nested, _key_said_twice))
    header = way(arrays["header"].tobytes(), rng)
    arrays["header"] = rng.choice((np.frombuffer(header, np.uint8), np.zeros((2, 2)), np.array("text")))
    if rng.random() < 0.3:
        arrays["counts"] = rng.choice((arrays["counts"] * -1, arrays["counts"].astype(float) * np.nan, np.array(3)))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _rows_of_the_study(data: bytes, rng: Rng) -> bytes:
    """A whole database with a value in it that Hago would not have written."""
    import sqlite3
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "study.db"
        path.write_bytes(data)
        base = sqlite3.connect(path)
        table, column = rng.choice((
            ("trial_user_attributes", "value_json"), ("study_user_attributes", "value_json"), ("trials", "state"),
            ("trial_params", "param_value"), ("trial_params", "distribution_json"), ("trials", "number"),
            ("trial_values", "value"), ("study_directions", "direction"), ("version_info", "schema_version"),
            ("studies", "study_name"), ("alembic_version", "version_num"),
        ))  # fmt: skip
        action = rng.random()
        try:
            if action < 0.15:
                base.execute(f"DROP TABLE {table}")
            elif action < 0.3:
                base.execute(f"DELETE FROM {table}")
            else:
                value = rng.choice(
                    ("", "{", "null", "[]", '{"hago_record": 1}', -1, 10**6, "text", 1.5, None, b"\xff\xfe")
                )
                base.execute(f"UPDATE {table} SET {column} = ?", (value,))
            base.commit()
        except sqlite3.Error:
            pass
        finally:
            base.close()
        return path.read_bytes()


_OWN: dict[str, tuple[Callable[[bytes, Rng], bytes], ...]] = {
    "ONNX model": (_fields_of_the_model, _fields_of_the_model, _nested_graphs),
    "ONNX model, weights apart": (_fields_of_the_model, _place_of_the_weights, _place_of_the_weights),
    "samples, npz": (_header_of_an_array,),
    "samples, npy": (_header_of_an_array,),
    "calibration.npz": (_header_of_an_array, _arrays_of_the_calibration),
    "study.db": (_rows_of_the_study,),
}
