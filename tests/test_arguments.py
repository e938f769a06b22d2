"""What callers may pass to the public API: accepted, or refused by one HagoError before anything is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import hago
from hago.errors import HagoError
from hago.search import SilentProgress
from hago.strategy import Strategy, uniform
from hago.tuning.evaluator import TvmEvaluator

SPEC = "x86-avx2"
NAN, INF = float("nan"), float("inf")
NO_PATHS = (5, "", "a\0b", [])
X, Y = tiny.samples(60)

REFUSED: dict[str, tuple[object, ...]] = {
    "model": (None, 5, "missing.onnx", "", b"junk", [], object()),
    "hw": (None, *NO_PATHS, "nonsense"),
    "data": (None, 5, "", [], {}, "missing.npz", (X,), (X, Y[:3])),
    "calibration": (5, "missing.npz", []),
    "test": (5, "missing.npz", []),
    "metric": (None, 5, "nonsense", "", []),
    "max_drop": (None, -1, NAN, INF, "x", True, []),
    "margin": (None, -1, NAN, INF, "x"),
    "trials": (0, -1, 2.5, "5", True, []),
    "patience": (0, -1, 1.5, "3", True),
    "budget": ("0s", 0, -3, NAN, "x", True, [], timedelta(0)),
    "seed": (-1, None, 1.5, "0", True, []),
    "threads": (0, -1, 1.5, "1", True, 10**6, []),
    "batch": (0, -1, None, 1.5, "1", True),
    "out": (*NO_PATHS, b"x"),
    "sampler": ("nonsense", None, 5, ""),
    "objectives": (None, (), "", "accuracy", "latency,speed", 5, ("latency", "latency"), [5]),
    "storage": (*NO_PATHS, "nonsense://x", "no/such/folder/x.db"),
    "cache": NO_PATHS,
    "progress": ("nonsense", 5, [], "", object()),
    "devices": (5, "nonsense", [5], "", [""]),
    "devices_file": (*NO_PATHS, "missing.yaml"),
    "joint": ("nonsense", None, 5),
}
ACCEPTED: dict[str, tuple[object, ...]] = {
    "max_drop": (0, np.float32(0.5), 1e-300),
    "margin": (0, np.float64(0.0)),
    "trials": (None, np.int64(3), np.uint8(3)),
    "patience": (None, np.int32(3)),
    "budget": (None, 3600, np.float32(3600), np.int64(3600), "1h", timedelta(hours=1)),
    "seed": (np.int64(3), np.uint16(3)),
    "threads": (np.int64(1),),
    "batch": (np.int64(2),),
    "objectives": ("latency,accuracy", "latency", " size , latency ", ["latency"], ("size", "accuracy")),
    "progress": ("silent", "plain", SilentProgress()),
    "data": ((X, Y), {"x": X, "y": Y}),
    "hw": ("auto",),
    "joint": ("mean",),
}


class Measuring(Exception):
    """Everything was accepted."""


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., object]]:
    """`hago.tune` up to where something would be measured."""

    def measure(self: TvmEvaluator) -> float:
        raise Measuring

    monkeypatch.setattr(TvmEvaluator, "float_record", measure)
    monkeypatch.setattr(TvmEvaluator, "float_run_s", lambda self: 1e-6)

    def call(**changed: Any) -> object:
        arguments = {"model": tiny.network(), "data": (X, Y), "threads": 1, "out": tmp_path / "out", **changed}
        if "devices_file" in changed:
            arguments["devices"] = "pi5"
        return hago.tune(**{"cache": tmp_path / "kernels", **arguments})

    return call


def pairs(table: dict[str, tuple[object, ...]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}-{told(value)}") for name in table for value in table[name]]


def told(value: object) -> str:
    """The value in a few letters, without addresses: every process must give a test the same name."""
    return re.sub(r" at 0x\w+", "", repr(value))[:30]


@pytest.mark.parametrize(("name", "value"), pairs(REFUSED))
def test_tune_refuses(tune: Callable[..., object], name: str, value: object) -> None:
    with pytest.raises(HagoError) as caught:
        tune(**{name: value})
    assert len(caught.value.what.splitlines()) == 1


@pytest.mark.parametrize(("name", "value"), pairs(ACCEPTED))
def test_tune_accepts(tune: Callable[..., object], name: str, value: object) -> None:
    with pytest.raises(Measuring):
        tune(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), pairs({name: REFUSED[name] for name in ("model", "hw", "threads", "batch", "cache")})
)
def test_compile_refuses(name: str, value: object) -> None:
    with pytest.raises(HagoError):
        hago.compile(**{"model": tiny.network(), "hw": SPEC, name: value})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> hago.Model:
    return hago.load_model(tiny.network())


@pytest.fixture(scope="module")
def int8(model: hago.Model) -> Strategy:
    return uniform(model, hago.load_spec(SPEC))


@pytest.mark.parametrize(
    ("name", "value"),
    pairs({"strategy": (None, *NO_PATHS, "missing.yaml", {}), "calibration": (None, *NO_PATHS, "missing.npz", {})}),
)
def test_quantize_refuses(model: hago.Model, int8: Strategy, name: str, value: object) -> None:
    with pytest.raises(HagoError):
        hago.quantize(model, **{"strategy": int8, "calibration": X, "hw": SPEC, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, *NO_PATHS, b"x", "missing.so"], ids=repr)
def test_load_and_its_like_refuse(value: Any) -> None:
    for function in (hago.load, hago.load_spec, hago.load_model, Strategy.load):
        with pytest.raises(HagoError):
            function(value)


@pytest.mark.parametrize("value", REFUSED["batch"], ids=repr)
def test_load_model_refuses_batches(value: Any) -> None:
    with pytest.raises(HagoError, match=r"batch must be a whole number of at least 1, got "):
        hago.load_model(tiny.network(), batch=value)


@pytest.mark.parametrize("value", [None, 5, "", [""], ["nonsense"], [5]], ids=repr)
def test_compare_devices_refuses(tmp_path: Path, value: Any) -> None:
    with pytest.raises(HagoError):
        hago.compare_devices(tiny.network(), devices=value, data=(X, Y), out=tmp_path)
