"""The networks that the benchmarks of NVIDIA GPUs look at: every real model, quantized cheaply and lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from common import REPOSITORY, load_bundle

from hago.calibrate import Calibration
from hago.compiler.cache import KernelCache
from hago.data import make_samples
from hago.errors import HagoError
from hago.lower import LoweredGraph, lower
from hago.model import Model, load_model
from hago.qdq import Quantizer
from hago.spec import HardwareSpec, load_spec, resolve_hw
from hago.strategy import Strategy, uniform
from hago.tuning.calibrating import calibrate_model

SPECS = ("nvidia-t4", "nvidia-a100", "nvidia-orin", "nvidia-l4", "nvidia-h100")
PRECISIONS = ("float32", "float16", "int8")
PLACE = REPOSITORY / "build" / "gpu"
"""What the benchmarks keep from one run to the next."""

_SAMPLES = 8  # for calibration: what is built and compared does not depend on good ranges


@dataclass(frozen=True)
class RealModel:
    """One real model at one batch; ``place`` keeps its calibration."""

    models: Path
    name: str
    batch: int
    place: Path

    @cached_property
    def bundle(self) -> Mapping[str, Any]:
        """What `load_bundle` gives; the digits example needs no real models."""
        if self.name == "digits":
            folder = REPOSITORY / "examples" / "digits"
            x = np.load(folder / "samples.npz")["x"]
            return {"model": str(folder / "model.onnx"), "x": x, "calib": x}
        return load_bundle(self.models, self.name)

    @cached_property
    def model(self) -> Model:
        """The float model."""
        return load_model(self.bundle["model"], self.batch)

    @cached_property
    def calibration(self) -> Calibration:
        """From a few samples, by the float model on this machine."""
        samples = make_samples(self.bundle["calib"][0 : max(_SAMPLES, self.batch)], self.model.inputs)
        self.place.mkdir(parents=True, exist_ok=True)
        return calibrate_model(
            self.model,
            samples,
            resolve_hw("auto"),
            cache=KernelCache(self.place / "kernels"),
            store=self.place / f"{self.name}-{self.batch}.npz",
        )

    def strategy(self, precision: str, spec: HardwareSpec) -> Strategy:
        """This precision wherever the hardware offers it. Raises HagoError if it does so nowhere."""
        found = uniform(self.model, spec, precision)
        if precision != "float32" and not found.choices:
            raise HagoError(f"{spec.name} runs no layer of {self.name} in {precision}")
        return found

    def lowered(self, precision: str, spec: HardwareSpec) -> LoweredGraph:
        """The network that this strategy makes. Raises HagoError."""
        if precision == "float32":
            return lower(self.model.proto, spec)
        proto = Quantizer(self.model, self.calibration, spec).qdq(self.strategy(precision, spec))
        return lower(load_model(proto).proto, spec)


def load_specs(names: tuple[str, ...] = SPECS) -> list[HardwareSpec]:
    """One for each architecture."""
    return [load_spec(name) for name in names]
