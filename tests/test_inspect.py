"""``hago inspect``: every layer, its choices here, and why not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_normalize import build, weights

import hago
from hago.cli import inspect as cli_inspect
from hago.errors import ModelError, UnsupportedOpError
from hago.inspect import count, inspect_model, to_json
from hago.model import load_model
from hago.spec import load_spec


@pytest.fixture
def path(tmp_path: Path) -> Path:
    nodes = [
        ("Conv", "x w", "stem"), ("Relu", "stem", "r"), ("Flatten", "r", "f"), ("MatMul", "f v", "head"),
        ("Softmax", "head", "y"),
    ]  # fmt: skip
    proto = build(nodes, {"x": ["N", 3, 4, "W"]}, ["y"], {"w": weights(64, 3, 1, 1), "v": weights(1024, 8)})
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def call(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    cli_inspect.register(parser.add_subparsers())
    parsed = parser.parse_args(["inspect", *map(str, arguments)])
    return parsed.run(parsed)


def test_the_table_has_a_line_per_layer(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(path, "--hw", "x86-avx512-vnni", "--input-shape", "x=-1,3,4,4") == 0
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert (
        "Conv+Relu (conv)" in lines["stem"] and "1x3x4x4 -> 1x64x4x4" in lines["stem"] and "64x3x1x1" in lines["stem"]
    )
    assert "3.07k" in lines["stem"] and "int8 (channel, tensor) | float32" in lines["stem"]
    assert "group 32/64/128" in lines["head"] and "8.19k" in lines["head"]
    assert "float32 only: Softmax runs in float" in lines["y"]
    assert "it only moves data" in lines["f"]
    assert "4 layers, 11.26k multiply-adds, 8.38k parameters" in text
    assert "2 of them can be quantized, with 100.0% of the multiply-adds" in text


def test_json_holds_the_same(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(path, "--hw", "integer-only", "--batch", 2, "--json", "--input-shape", "x=-1,3,4,4") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["batch"], found["macs"], found["hw"], found["quantizable_layers"]) == (2, 22528, "integer-only", 2)
    stem, _, head, softmax = found["layers"]
    assert {c["precision"] for c in stem["choices"]} == {"int8"} and stem["nodes"] == ["stem", "r"]
    assert head["weight_shape"] == [1024, 8]
    assert softmax["choices"] == [] and softmax["reason"] == "Softmax runs in float"


def test_errors_are_those_of_the_model(path: Path) -> None:
    with pytest.raises(ModelError, match=r"--input-shape x=-1,3,4,SIZE"):
        call(path, "--hw", "x86-avx2")
    with pytest.raises(ModelError, match=r"--input-shape must be NAME=D0,D1"):
        call(path, "--hw", "x86-avx2", "--input-shape", "x:1,2")


def test_a_quantized_model_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nodes = [("QuantizeLinear", "x s z", "q"), ("DequantizeLinear", "q s z", "d"), ("Relu", "d", "y")]
    proto = build(nodes, {"x": [4]}, ["y"], {"s": np.float32(0.1), "z": np.uint8(3)})
    onnx.save(proto, tmp_path / "q.onnx")
    call(tmp_path / "q.onnx", "--hw", "x86-avx2")
    text = capsys.readouterr().out
    assert "The model is already quantized" in text and "None of them can be quantized" in text and "1 layer, 0" in text


def test_a_choice_needs_the_hardware_too() -> None:
    model = load_model(build([("Conv", "x w", "y")], {"x": ["N", 2, 4, 4]}, ["y"], {"w": weights(3, 2, 1, 1)}))
    assert list(inspect_model(model, load_spec("x86-avx2")).rows[0].ways) == [
        "int7",
        "int8",
        "float32",
    ]


@pytest.mark.parametrize(
    "number,text", [(0, "0"), (999, "999"), (1000, "1.00k"), (12501632, "12.50M"), (4 * 10**9, "4.00G")]
)
def test_counts(number: int, text: str) -> None:
    assert count(number) == text


REFUSED = [
    ([("DFT", "x", "y", {"axis": 1})], [1, 4, 4, 1]),
    ([("MaxPool", "x", "y i", {"kernel_shape": [2, 2]}), ("Cast", "i", "j", {"to": 1})], [1, 3, 4, 4]),
    ([("Relu", "x", "r"), ("ReverseSequence", "r n", "y")], [4, 1, 3]),
]


@pytest.mark.parametrize("nodes, shape", REFUSED, ids=lambda v: v[-1][0] if isinstance(v[0], tuple) else "")
def test_inspect_reports_what_compile_refuses(nodes: list[tuple], shape: list[int]) -> None:
    outputs = ["j"] if "j" in nodes[-1] else ["y"]
    model = load_model(build(nodes, {"x": shape}, outputs, {"n": np.array([2], np.int64)}, opset=17))
    inspection = inspect_model(model, load_spec("x86-avx2"))
    with pytest.raises(UnsupportedOpError) as refusal:
        hago.compile(model, hw="x86-avx2", threads=1)
    assert len(inspection.refused) == 1 and refusal.value.what in inspection.refused[0]
    (row,) = [row for row in inspection.rows if row.layer.op_type == nodes[-1 if "r" in nodes[-1][1] else 0][0]]
    assert row.ways == {} and refusal.value.what in str(row.reason)
    assert json.loads(to_json(inspection))["refused"] == list(inspection.refused)


def test_inspect_refuses_nothing_that_compiles(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_model(load_model(path, input_shapes={"x": (1, 3, 4, 4)}), load_spec("x86-avx2")).refused == ()
    call(path, "--hw", "x86-avx2", "--input-shape", "x=-1,3,4,4")
    assert "cannot be compiled" not in capsys.readouterr().out
