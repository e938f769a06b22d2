"""Real networks: compiled, they are the reference bit for bit and ONNX Runtime class by class.

`benchmarks/conformance.py` does the same for all of them and in every form; here are the quick ones.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from qdq_graphs import run_onnx, session

import hago
from hago.compiler.cache import KernelCache
from hago.compiler.conformance import Conformance
from hago.lower import lower
from hago.model import load_model
from hago.search import SearchSpace
from hago.spec import HardwareSpec, load_spec, resolve_hw
from hago.strategy import Strategy, uniform

HOST = resolve_hw("auto")
if not HOST.kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)
pytestmark = pytest.mark.shared_models

COUNT = 200  # samples for classes


def holds(qdq: onnx.ModelProto, hw: HardwareSpec, x: np.ndarray, cache: KernelCache, agreement: float = 0.99) -> None:
    model = load_model(qdq)
    (info,) = model.inputs
    lowered = lower(model.proto, hw)
    found = Conformance(lowered, hw, cache=cache).check({info.name: x[:1]})
    assert found.wrong == []
    assert any(check.op in ("QConv", "QGemm") for check in found.nodes)
    assert found.error < 1e-5
    net = hago.compile(qdq, hw=hw, threads=1, cache=cache)
    mine = np.concatenate([net(row[None])[0] for row in x]).argmax(-1)
    opened = session(qdq)
    theirs = np.concatenate([opened.run(None, {info.name: row[None]})[0] for row in x]).argmax(-1)
    assert (mine == theirs).mean() >= agreement


@pytest.mark.parametrize("name", ["cifar10_resnet8", "kws_dscnn"])
@pytest.mark.parametrize("form", ["int8", "int7", "mixed"])
def test_strategies_of_our_own(
    name: str, form: str, shared_models: Path, load_bundle: ModuleType, cache: KernelCache
) -> None:
    bundle = load_bundle.load(str(shared_models / name))
    model = load_model(bundle["model"])
    hw = load_spec("x86-avx2") if form == "int7" else HOST
    if form == "mixed":
        space, rng = SearchSpace.from_model(model, hw), np.random.default_rng(1)
        strategy = space.strategy({k: str(rng.choice(np.array(c))) for k, c in space.parameters.items()})
    else:
        strategy = uniform(model, hw, form)
    qdq = hago.quantize(model, strategy, bundle["calib"][:32], hw=hw, threads=1, cache=cache)
    holds(qdq, hw, bundle["x"][:COUNT], cache)


@pytest.mark.parametrize("kind", [QuantType.QUInt8, QuantType.QInt8])
@pytest.mark.parametrize("per_channel", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_files_by_onnx_runtime(
    per_channel: bool, kind: QuantType, shared_models: Path, load_bundle: ModuleType, cache: KernelCache,
    tmp_path: Path,
) -> None:  # fmt: skip
    bundle = load_bundle.load(str(shared_models / "cifar10_resnet20"))
    feed = onnx.load(bundle["model"]).graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(bundle["calib"][:32])

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {feed: row[None]}

    quantize_static(
        bundle["model"], tmp_path / "qdq.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
        activation_type=kind, weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": kind == QuantType.QInt8},
    )  # fmt: skip
    holds(onnx.load(tmp_path / "qdq.onnx"), HOST, bundle["x"][:COUNT], cache)


def test_a_transformer_with_everything_in_integers(
    shared_models: Path, load_bundle: ModuleType, cache: KernelCache
) -> None:
    bundle = load_bundle.load(str(shared_models / "kws_kwt1"))
    model = load_model(bundle["model"])
    strategy: Strategy = uniform(model, HOST)
    qdq = hago.quantize(model, strategy, bundle["calib"][:16], threads=1, cache=cache)
    holds(qdq, HOST, bundle["x"][:64], cache, agreement=0.95)  # 64 samples: one is 1.6 %


@pytest.mark.parametrize("name", ["cifar10_resnet20", "kws_dscnn", "vww_mobilenetv1_025", "kws_kwt1", "ad_toycar_ae"])
def test_float_networks_compute_what_onnx_runtime_computes(
    name: str, shared_models: Path, load_bundle: ModuleType, cache: KernelCache
) -> None:
    bundle = load_bundle.load(str(shared_models / name))
    x = np.asarray(bundle["x"][:4], np.float32)
    net = hago.compile(bundle["model"], batch=4, threads=1, cache=cache)
    (feed,) = net.input_info
    theirs = run_onnx(load_model(bundle["model"], batch=4).proto, {feed.name: x})[0]
    np.testing.assert_allclose(net(x)[0], theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
