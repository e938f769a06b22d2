"""Damaged files: a sample of what benchmarks/damaged_files.py reads by the thousand."""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path

import onnx
import pytest

from hago.calibrate import Calibration
from hago.data.images import Preprocessing
from hago.device.config import load_devices
from hago.documents import parse_json, read_document
from hago.errors import DataError, DeviceError, HagoError, ModelError, StorageError
from hago.model import load_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from damage import KINDS, damaged, network

SEEDS = range(6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_is_read(kind: str, tmp_path: Path) -> None:
    KINDS[kind].read(KINDS[kind].write(tmp_path, random.Random(0)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gets_one_clear_error_or_is_read(kind: str, seed: int, tmp_path: Path) -> None:
    path, _ = damaged(kind, seed, tmp_path)
    try:
        KINDS[kind].read(path)
    except HagoError as error:
        text = str(error)
        assert len(text) < 1500 and "Traceback" not in text
        assert "\x1b" not in text and "\x00" not in text


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_weights_outside_the_models_folder_are_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = KINDS["ONNX model, weights apart"].write(folder, random.Random(0))
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="external data file") as caught:
        load_model(path)
    assert location in str(caught.value)


@pytest.mark.parametrize("sizes", [(1 << 20, 1 << 20, 64), (1 << 31, 1 << 31, 1 << 31)])
def test_a_shape_that_no_machine_holds_is_refused(sizes: tuple[int, ...]) -> None:
    huge = network(0)
    for dim, size in zip(huge.graph.input[0].type.tensor_type.shape.dim[2:], sizes, strict=False):
        dim.dim_value = size
    with pytest.raises(ModelError, match="GiB"):
        load_model(huge)


# --- one reader for all YAML and JSON -------------------------------------------------------------

_DEVICE = b"devices: {a: {spec: x, local: true, timeout_s: %s}}\nscale: %s\n"
READERS = {
    "devices.yaml": (load_devices, DeviceError),
    "preprocess.yaml": (Preprocessing.load, DataError),
    "preprocess.json": (Preprocessing.load, DataError),
}
WRONG = {
    "nested without end": (b"a: " + b"[" * 100_000, b'{"a": ' + b"[" * 100_000, "nest"),
    "in Latin-1": ("größe: 1".encode("latin-1"), '{"größe": 1}'.encode("latin-1"), "is not UTF-8 text"),
    "a key said twice": (b"a: 1\na: 2\n", b'{"a": 1, "a": 2}', "duplicate key"),
    "an infinity": (
        _DEVICE % (b".inf", b".inf"),
        b'{"scale": Infinity}',
        "scale|not JSON|timeout_s",
    ),
    "a number too large": (
        _DEVICE % (b"9" * 400, b"1e999"),
        b'{"scale": 1e999}',
        "scale|too large|timeout_s",
    ),
    "an alias": (b"a: &x 1\nb: *x\n", b"[*x]", "aliases are not allowed|JSON"),
    "half a character": (b'a: "\\ud800"\n', b'{"a": "\\ud800"}', "broken"),
    "no mapping": (b"- 1\n", b"[1]", "must be a mapping"),
    "too large": (b"#" * (5 << 20), b" " * (5 << 20), "larger than 4 MiB"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_is_as_strict_as_the_specs(name: str, case: str, tmp_path: Path) -> None:
    yaml, json, message = WRONG[case]
    read, error = READERS[name]
    path = tmp_path / name
    path.write_bytes(json if name.endswith("json") else yaml)
    with pytest.raises(error, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))


def test_an_error_in_a_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text("devices:\n  a: {spec: x, local: true}\n  b:\n    spec: x\n    rpc: nowhere\n")
    with pytest.raises(DeviceError) as caught:
        load_devices(path)
    assert str(caught.value).startswith(f"{path}:5: devices.b.rpc: must be host:port")


def test_twenty_thousand_devices_are_read(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    lines = (f'  board{index}: {{spec: arm-cortex-a76, rpc: "10.0.0.1:9090"}}\n' for index in range(20_000))
    path.write_text("devices:\n" + "".join(lines))
    assert len(load_devices(path)) == 20_000


@pytest.mark.parametrize("text", ["é", "日本", "\ufeffa"])
def test_utf_8_is_read_with_and_without_its_mark(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"\ufeff{'k' + text.strip(chr(0xFEFF))}: 1\n", encoding="utf-8")
    assert list(read_document(path, error=StorageError).data.values()) == [1]


def test_json_is_read_strictly() -> None:
    assert parse_json('{"a": [1, 2.5, null, "\\u00e9"]}') == {"a": [1, 2.5, None, "é"]}
    for text in ("", "{", "[1,]", "NaN", "1e400", '{"a": 1, "a": 1}', '"\\ud83d"', "[" * 100_000):
        with pytest.raises(ValueError):
            parse_json(text)


def test_a_damaged_calibration_says_what_to_do(tmp_path: Path) -> None:
    path = KINDS["calibration.npz"].write(tmp_path, random.Random(0))
    path.write_bytes(path.read_bytes()[:-40])
    with warnings.catch_warnings(), pytest.raises(DataError, match=r"calibration\.npz"):
        Calibration.load(path)
