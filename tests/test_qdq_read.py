"""Strategies read from QDQ models: Hago's own, and those of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from golden import calibration
from quantize_nets import classifier, conv1d, zoo

from hago.errors import StrategyError
from hago.model import Model, load_model
from hago.qdq import quantize_model
from hago.qdq.read_strategy import strategy_of
from hago.scheme import PER_CHANNEL, PER_TENSOR, Granularity
from hago.spec import HardwareSpec, load_spec
from hago.strategy import Strategy, uniform

WAYS = [
    ("x86-avx2", "int8", PER_CHANNEL),
    ("x86-avx2", "int8", PER_TENSOR),
    ("x86-avx2", "int8", Granularity.parse("per_group:32")),
    ("x86-avx2", "int7", PER_CHANNEL),
    ("x86-avx512-bf16", "bfloat16", PER_CHANNEL),
    ("arm-cortex-a76", "float16", PER_CHANNEL),
]


def meant(model: Model, strategy: Strategy) -> dict[str, tuple[str, Granularity | None]]:
    """Layer -> precision and, where it has weights, granularity."""
    return {
        name: (choice.precision, choice.granularity if model.layer(name).weight and "int" in choice.precision else None)
        for name, choice in strategy.choices.items()
    }


def read_back(model: Model, strategy: Strategy, spec: HardwareSpec) -> Strategy:
    return strategy_of(load_model(quantize_model(model, strategy, calibration(model), spec)), model, spec)


@pytest.mark.parametrize("net", [classifier, zoo, conv1d])
@pytest.mark.parametrize(("hw", "precision", "granularity"), WAYS, ids=lambda value: str(value))
def test_what_hago_wrote_is_read_back(net: object, hw: str, precision: str, granularity: Granularity) -> None:
    model, spec = load_model(net()), load_spec(hw)  # type: ignore[operator]
    strategy = uniform(model, spec, precision, granularity)
    assert meant(model, read_back(model, strategy, spec)) == meant(model, strategy)


@pytest.mark.parametrize("odd", [0, 1])
def test_layers_left_in_float_are_read_as_such(odd: int) -> None:
    model, spec = load_model(zoo()), load_spec("x86-avx2")
    whole = uniform(model, spec)
    kept = {name: choice for i, (name, choice) in enumerate(whole.choices.items()) if i % 2 == odd}
    strategy = Strategy(model.hash, spec.name, kept)
    assert meant(model, read_back(model, strategy, spec)) == meant(model, strategy)


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_file_of_another_quantizer(tmp_path: Path, per_channel: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"image": np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype("f4")} for i in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    onnx.save(classifier(), tmp_path / "f.onnx")
    quantize_static(
        tmp_path / "f.onnx", tmp_path / "q.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=["left"],
    )  # fmt: skip
    model, spec = load_model(tmp_path / "f.onnx"), load_spec("x86-avx2")
    found = strategy_of(load_model(tmp_path / "q.onnx"), model, spec)
    found.check(model, spec)
    granularity = PER_CHANNEL if per_channel else PER_TENSOR
    convolutions = {name: meant(model, found).get(name) for name in ("stem", "left", "right", "shortcut")}
    int8 = ("int8", granularity)
    assert convolutions == {"stem": int8, "left": None, "right": int8, "shortcut": int8}


def test_a_file_that_quantizes_nothing_of_the_model_is_refused() -> None:
    model, spec = load_model(classifier()), load_spec("x86-avx2")
    with pytest.raises(StrategyError, match=r"no layer of .* is quantized in it"):
        strategy_of(model, model, spec)
    other = load_model(conv1d())
    qdq = quantize_model(other, uniform(other, spec), calibration(other), spec)
    with pytest.raises(StrategyError, match=r"no layer of .* is quantized in it"):
        strategy_of(load_model(qdq), model, spec)
