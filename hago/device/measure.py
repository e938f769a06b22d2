"""One strategy on several devices: how much faster than float32 it is there, and what it answers.

Each device compiles the float model and the quantized one for its own spec. On a real device both are timed in turns;
of an emulated one instructions are counted instead, and the ratio is *estimated*. The quantized network's outputs are
compared with this machine's, sample by sample.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..compiler.build import build
from ..compiler.cache import KernelCache
from ..data import Samples
from ..errors import HagoError
from ..lower import lower
from ..measure.latency import measure_latency
from ..model import Model
from ..runners import TvmRunner
from ..spec import resolve_hw
from .config import Device
from .counting import Counter
from .package import compile_for
from .remote import RemoteNet, connect

_TURNS = 6


@dataclass(frozen=True)
class OnDevice:
    """What came of one device.

    ``kind`` is "measured", "estimated" (then ``ratio`` is one of instructions) or "failed", with ``reason``.
    ``accuracy`` is top-1, a fraction of ``samples``; ``differing`` counts outputs that are not this machine's.
    """

    device: str
    spec: str
    kind: str
    ratio: float | None = None
    float_s: float | None = None
    quantized_s: float | None = None
    float_instructions: int | None = None
    quantized_instructions: int | None = None
    accuracy: float | None = None
    samples: int = 0
    differing: int | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def measure_on(
    device: Device, model: Model, qdq: onnx.ModelProto, samples: Samples, *, count: int = 20, cache: KernelCache
) -> OnDevice:
    """The float model and its QDQ form on one device; whatever goes wrong there is a result with its reason."""
    try:
        return _measure(device, model, qdq, samples, min(count, len(samples)), cache)
    except HagoError as error:
        return OnDevice(device.name, device.spec, "failed", reason=str(error))


def _measure(
    device: Device, model: Model, qdq: onnx.ModelProto, samples: Samples, count: int, cache: KernelCache
) -> OnDevice:
    spec, host = resolve_hw(device.spec), resolve_hw("auto")
    feeds = [samples.batch(i, i + 1) for i in range(count)]
    here = build(lower(qdq, host), host, threads=1, cache=cache)
    expected = [here.run(feed)[0] for feed in feeds]
    if device.is_local:
        plain = build(lower(model.proto, spec), spec, threads=1, cache=cache)
        runners = [TvmRunner(plain, name="float32"), TvmRunner(here, name="quantized")]
        times = measure_latency(runners, feeds[0], rounds=30)
        seconds = times["float32"].median_s, times["quantized"].median_s
        return _result(device, spec.name, "measured", seconds, expected, expected, samples)
    plain = compile_for(model.proto, spec, threads=1, cache=cache)
    quantized = compile_for(qdq, spec, threads=1, cache=cache)
    with tempfile.TemporaryDirectory() as place:
        paths = Path(place) / "float32.so", Path(place) / "quantized.so"
        plain.save(paths[0])
        quantized.save(paths[1])
        with connect(device) as session:
            net = session.load(paths[1], quantized.meta)
            found = [net.run(feed)[0] for feed in feeds]
            if not device.emulated:
                both = session.load(paths[0], plain.meta), net
                return _result(device, spec.name, "measured", _in_turns(both, feeds[0]), found, expected, samples)
        with Counter(device.spec) as counter:
            totals = tuple(counter.count(path).total for path in paths)
    return _result(device, spec.name, "estimated", totals, found, expected, samples)


def _in_turns(nets: Sequence[RemoteNet], feeds: Any) -> tuple[float, float]:
    """Median seconds of each, measured one after the other, again and again."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TURNS):
        for net, kept in zip(nets, times, strict=True):
            kept += net.times_s(feeds, repeat=5, min_repeat_ms=5)
    return float(np.median(times[0])), float(np.median(times[1]))


def _result(
    device: Device,
    spec: str,
    kind: str,
    costs: tuple[float, ...],
    found: list[Any],
    expected: list[Any],
    samples: Samples,
) -> OnDevice:
    differing = sum(int((a != b).sum()) for a, b in zip(found, expected, strict=True))
    accuracy = None
    if samples.labels is not None:
        classes = np.array([output.reshape(-1).argmax() for output in found])
        accuracy = float((classes == np.asarray(samples.labels)[: len(found)]).mean())
    names = ("float_s", "quantized_s") if kind == "measured" else ("float_instructions", "quantized_instructions")
    told: dict[str, Any] = dict(zip(names, costs, strict=True))
    return OnDevice(
        device.name, spec, kind, costs[1] / costs[0], accuracy=accuracy, samples=len(found), differing=differing, **told
    )
