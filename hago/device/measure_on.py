"""One strategy on several devices: its speed against float32 and its accuracy on each.

Each device compiles the float model and the quantized one for its own spec and is measured as in a search (hago.bench):
timed in turns on a real device, and counted on an emulated one, which is *estimated*.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from ..bench import Bench, Candidate, MeasurementBudget
from ..compiler.build import build
from ..compiler.cache import KernelCache
from ..data import Samples
from ..errors import HagoError, MeasureError
from ..lower import lower
from ..measure.accuracy import measure_accuracy
from ..measure.instructions import InstructionEstimate
from ..measure.metrics import fit, get_metric
from ..measure.outputs import ModelOutputs
from ..model import Model
from .places import Target

_CHECKED = 20  # samples at most whose outputs on the device are compared with this machine's


@dataclass(frozen=True)
class DeviceResult:
    """The result of one device.

    ``kind`` is "measured", "estimated" (``ratio`` then compares instructions) or "failed", with ``reason``.
    ``accuracy`` is top-1, a fraction of ``samples``; the device's outputs for ``checked`` of them were compared with
    this machine's (0 if float layers may round differently).
    """

    device: str
    spec: str
    kind: str
    ratio: float | None = None
    ratio_interval: tuple[float, float] | None = None
    float_s: float | None = None
    quantized_s: float | None = None
    float_instructions: int | None = None
    quantized_instructions: int | None = None
    accuracy: float | None = None
    samples: int = 0
    checked: int | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def measure_on(
    place: Target, model: Model, qdq: onnx.ModelProto, samples: Samples, *, cache: KernelCache
) -> DeviceResult:
    """The float model and its QDQ form at one place; a failure there is a result with its reason."""
    try:
        bench = place.bench(1, cache)
    except HagoError as error:
        return DeviceResult(place.name, place.devices[0].spec, "failed", reason=str(error))
    try:
        return _measure(place.name, bench, model, qdq, samples, cache)
    except HagoError as error:
        return DeviceResult(place.name, bench.spec.name, "failed", reason=str(error))
    finally:
        bench.close()


def _measure(
    name: str, bench: Bench, model: Model, qdq: onnx.ModelProto, samples: Samples, cache: KernelCache
) -> DeviceResult:
    def candidate(label: str, proto: onnx.ModelProto) -> Candidate:
        artifact = build(lower(proto, bench.host), bench.host, threads=1, cache=cache)
        return Candidate(label, proto, artifact, quantized=proto is not model.proto)

    plain, quantized = candidate("float32", model.proto), candidate("quantized", qdq)
    feeds = samples.whole_batches(model.batch, -(-min(_CHECKED, len(samples)) // model.batch))
    timing = bench.measure([plain, quantized], feeds, MeasurementBudget())
    accuracy = None
    labels = samples.own_labels
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "biu":
        with bench.runner(quantized) as runner:
            metric = fit(get_metric("top1"), ModelOutputs.of(model), lambda: labels)
            accuracy = measure_accuracy(runner, samples, metric).value
    ours, floats = timing.latency["quantized"], timing.latency["float32"]
    about: dict[str, Any] = {"accuracy": accuracy, "samples": len(samples), "checked": timing.checked}
    if isinstance(ours, InstructionEstimate) or isinstance(floats, InstructionEstimate):
        assert isinstance(ours, InstructionEstimate) and isinstance(floats, InstructionEstimate)
        about |= {"float_instructions": floats.instructions, "quantized_instructions": ours.instructions}
        return DeviceResult(name, bench.spec.name, "estimated", ours.ratio, **about)
    if not ours.reliable:
        raise MeasureError("other work interrupted nearly every round: the latency cannot be measured now", where=name)
    interval = ours.ratio_low, ours.ratio_high
    about |= {"float_s": floats.median_s, "quantized_s": ours.median_s}
    return DeviceResult(name, bench.spec.name, "measured", ours.ratio, interval, **about)
