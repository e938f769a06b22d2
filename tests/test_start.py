"""A search that begins with what another quantizer did to the same network: ``--start FOREIGN.qdq.onnx``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hago.cli import main
from hago.model import load_model
from hago.qdq.read_strategy import strategy_of
from hago.record_file import read_records
from hago.scheme import PER_CHANNEL
from hago.search import SearchSpace
from hago.spec import resolve_hw

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
HOST = resolve_hw("auto")
LEFT = ("node_Conv_189", "node_linear")
if not HOST.kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)


def quantized_by_onnxruntime(x: np.ndarray, path: Path) -> None:
    """The digits network with all but ``LEFT`` in 8 bits, weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"image": x[i : i + 1]} for i in range(8)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quantize_static(
        DIGITS / "model.onnx", path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=list(LEFT),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, kernels_folder: Path) -> Path:
    place = tmp_path_factory.mktemp("start")
    with np.load(DIGITS / "samples.npz") as file:
        x, y = file["x"][:200], file["y"][:200]
    np.savez(place / "samples.npz", x=x, y=y)
    quantized_by_onnxruntime(x.astype(np.float32), place / "theirs.qdq.onnx")
    command = ["tune", str(DIGITS / "model.onnx"), "--data", str(place / "samples.npz"), "--trials", "2"]
    command += ["--start", str(place / "theirs.qdq.onnx"), "--out", str(place / "out")]
    assert main([*command, "--threads", "1", "--progress", "silent", "--cache", str(kernels_folder)]) in (0, 1)
    return place


def test_what_another_quantizer_did_is_the_first_candidate(folder: Path) -> None:
    first = min((r for r in read_records(folder / "out" / "records.jsonl") if r.is_trial), key=lambda r: r.id)
    assert first.label == "the start given" and first.state == "ok" and first.strategy is not None
    model = load_model(DIGITS / "model.onnx")
    weighted = [layer.name for layer in model.layers if layer.weight]
    precisions = {name: first.strategy.choice(name).precision for name in weighted}
    assert precisions == {name: "float32" if name in LEFT else "int8" for name in weighted}
    assert {first.strategy.choice(name).granularity for name in weighted if name not in LEFT} == {PER_CHANNEL}
    # As the file is read, but for layers that must agree with others.
    read, space = strategy_of(load_model(folder / "theirs.qdq.onnx"), model, HOST), SearchSpace.from_model(model, HOST)
    assert first.strategy == space.strategy(space.nearest(read))


def test_the_report_says_what_the_search_began_with(folder: Path) -> None:
    assert "theirs.qdq.onnx" in (folder / "out" / "report.md").read_text(encoding="utf-8")
