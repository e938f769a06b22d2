"""The models that travel: samples that take little space, and the forms of each that are compiled."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from hago.calibrate import Calibration
from hago.data import make_samples
from hago.model import Model, load_model
from hago.qdq import Quantizer
from hago.scheme import PER_CHANNEL
from hago.search.option import option_of
from hago.search.space import SearchSpace
from hago.spec import HardwareSpec, resolve_hw
from hago.strategy import Strategy
from hago.tuning.calibrating import calibrate_model

BY_IMPORTANCE = (
    "tin200_resnet50v2_s3", "tin200_mobilenetv2", "imagenet_squeezenet1_1", "kws_kwt1", "cifar10_resnet56",
    "cifar10_resnet20", "vww_mobilenetv1_025", "cifar10_resnet8", "kws_dscnn", "ad_toycar_ae",
)  # fmt: skip
PRECISIONS = ("int8", "float16", "float32", "mixed")
_CALIBRATION = 128
_MOST_SAMPLES, _FEWEST_SAMPLES = 64, 8
_SAMPLE_BYTES = 1 << 20  # of all samples of one model
_LARGE = 1 << 16  # numbers in a sample from which on it has 8 bits
_LARGE_WEIGHTS = 1 << 10  # numbers of a constant from which on it is rounded
_LARGE_MODEL = 1_000_000  # parameters from which on float weights are rounded
_KEPT_BITS = 5  # of their 24


@dataclass(frozen=True)
class Source:
    """A model with samples: inputs by name, [n, ...] as they are after rounding, and their classes if they have any."""

    name: str
    path: Path
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    calibration: np.ndarray
    stored: Mapping[str, np.ndarray] = field(default_factory=dict)  # the file of the samples

    def model(self, batch: int) -> Model:
        """The model at this batch; large weights are rounded, so that they take less space (`rounded`)."""
        model = load_model(self.path, batch)
        if model.params < _LARGE_MODEL:
            return model
        return load_model(rounded(model.proto), batch)


def digits(root: Path) -> Source:
    """The example of this repository."""
    folder = root / "examples" / "digits"
    with np.load(folder / "samples.npz") as file:
        return source("digits", folder / "model.onnx", file["x"], file["y"], file["x"][-_CALIBRATION:])


def real_models(folder: Path, only: Sequence[str] = ()) -> Iterator[Source]:
    """The models of a folder with load_bundle.py, the most important first."""
    path = folder / "load_bundle.py"
    if not path.is_file():
        sys.exit(f"no real models in {folder}: name their folder with --models")
    spec = importlib.util.spec_from_file_location("load_bundle", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in only or BY_IMPORTANCE:
        found = module.load(str(folder / name))
        labels = np.asarray(found["y"]) if found["cfg"]["metric"] == "top1" else None
        x, calibration = found["x"][0:_MOST_SAMPLES], found["calib"][0:_CALIBRATION]
        yield source(name, Path(found["model"]), x, labels, calibration)


def source(name: str, path: Path, x: np.ndarray, labels: np.ndarray | None, calibration: np.ndarray) -> Source:
    """The model of a file, with as many samples as fit into a small file."""
    (info,) = load_model(path).inputs
    large = x[0].size >= _LARGE
    count = int(np.clip(_SAMPLE_BYTES // (x[0].size * (1 if large else 2)), _FEWEST_SAMPLES, _MOST_SAMPLES))
    x = np.ascontiguousarray(x[:count])
    stored: dict[str, np.ndarray] = {}
    if x.dtype.kind != "f":
        stored[info.name] = x
    elif large:
        scale = np.float32((x.max() - x.min()) / 255)
        zero = np.float32(np.rint(-x.min() / scale))
        codes = np.clip(np.rint(x / scale + zero), 0, 255).astype(np.uint8)
        stored |= {f"{info.name}/codes": codes, f"{info.name}/scale": scale, f"{info.name}/zero": zero}
        x = (codes.astype(np.float32) - zero) * scale
    else:
        stored[info.name] = x.astype(np.float16)
        x = stored[info.name].astype(np.float32)
    if labels is not None:
        labels = stored["labels"] = np.asarray(labels[:count])
    return Source(name, path, {info.name: x}, labels, calibration, stored)


def rounded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with fewer bits in its large float constants: times stay the same, files become smaller."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for initializer in copy.graph.initializer:
        if (
            initializer.data_type == onnx.TensorProto.FLOAT
            and np.prod(initializer.dims, dtype=np.int64) >= _LARGE // 64
        ):
            array = onnx.numpy_helper.to_array(initializer)
            mantissa, exponent = np.frexp(array)
            kept = np.ldexp(np.rint(np.ldexp(mantissa, _KEPT_BITS)), exponent - _KEPT_BITS).astype(np.float32)
            initializer.CopyFrom(onnx.numpy_helper.from_array(kept, initializer.name))
    return copy


class Forms:
    """One model in several precisions, for one spec."""

    def __init__(self, source: Source, spec: HardwareSpec) -> None:
        self.source, self.spec = source, spec
        self._calibration: Calibration | None = None

    def at(self, precision: str, batch: int) -> tuple[onnx.ModelProto, Strategy | None]:
        """The float or QDQ model, and its strategy (None: float32)."""
        model = self.source.model(batch)
        if precision == "float32":
            return model.proto, None
        strategy = self.strategy(model, precision)
        return Quantizer(model, self._ranges(), self.spec).qdq(strategy), strategy

    def strategy(self, model: Model, precision: str) -> Strategy:
        """A precision everywhere; ``mixed`` is int8 but for the first and the last group of layers, in float16."""
        space = SearchSpace.from_model(model, self.spec)
        form = option_of("int8", PER_CHANNEL) if precision in ("int8", "mixed") else precision
        params = space.uniform(form, "minmax")
        if precision == "mixed":
            half = space.uniform("float16", "minmax")
            names = [name for name in space.parameters if name.endswith(".scheme")]
            params |= {name: half[name] for name in (names[0], names[-1])}
        return space.strategy(params)

    def _ranges(self) -> Calibration:
        if self._calibration is None:
            model = self.source.model(1)
            samples = make_samples(self.source.calibration, model.inputs)
            self._calibration = calibrate_model(model, samples, resolve_hw("auto"))
        return self._calibration
