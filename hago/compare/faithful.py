"""Whether an engine computes what the file defines.

Engines round differently and add in a different order, which deep networks amplify. Still, their outputs are then no
farther from float32 than the file's. If 8-bit products saturate (ONNX Runtime and OpenVINO on x86 without VNNI), they
are farther, and latency and accuracy are those of a different network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MeasureError
from ..measure.running import collect_outputs

if TYPE_CHECKING:
    from ..data import Samples
    from ..measure.environment import Environment
    from ..measure.runner import Runner
    from .rows import Engine

Array = NDArray[Any]

SAMPLES = 200
ROUNDING = 1e-6  # of an output's power: what float32 itself may change (60 dB)
WORSE = 1.5  # times the power of the file's own error


def unfaithful(
    engines: Sequence[Engine], runners: Mapping[str, Runner], samples: Samples, *, classes: bool = False
) -> dict[str, str]:
    """Label -> difference, for engines that do not compute what their file defines.

    The first engine of each ``file`` defines that, the first of all defines float32; without them nothing is
    reported, nor for one that fails. ``classes``: outputs [n, C] are scores of classes. Up to `SAMPLES` samples count.
    """
    few = samples.subset(np.arange(min(SAMPLES, len(samples))))
    outputs: dict[str, list[Array]] = {}
    for engine in engines:
        if engine.file is not None and engine.label in runners:
            with suppress(MeasureError):  # it will fail in timing again, and is noted there
                outputs[engine.label] = collect_outputs(runners[engine.label], few)
    floats, exact = engines[0].label, {c.file: c.label for c in reversed(engines)}
    found = {}
    for engine in engines:
        label = engine.label
        if label in outputs and floats in outputs and exact[engine.file] in outputs:
            said = outputs[exact[engine.file]]
            if any(_is_worse(*parts) for parts in zip(outputs[label], said, outputs[floats], strict=True)):
                found[label] = _difference(outputs[label], said, classes)
    return found


def warning(labels: Sequence[str], environment: Environment) -> str:
    """What the differences mean, and their likely cause."""
    cause = " Without VNNI, which this processor lacks, products of 8-bit weights saturate there."
    return (
        f"{' and '.join(labels)} {'does' if len(labels) == 1 else 'do'} not compute what the file defines: latency and "
        f"accuracy are those of a different network.{cause if environment.saturates else ''}"
    )


def _is_worse(found: Array, said: Array, floats: Array) -> bool:
    """Whether ``found`` [n, ...] is farther from ``floats`` than ``said`` is, by more than rounding."""
    power = _power(said)
    if _power(found, said) <= ROUNDING * power:
        return False
    return _power(found, floats) > max(WORSE * _power(said, floats), ROUNDING * power)


def _power(a: Array, b: Array | float = 0.0) -> float:
    """The power of the difference; NaN in only one of them counts as infinite."""
    first, second = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where((first == second) | (np.isnan(first) & np.isnan(second)), 0.0, first - second)
        power = float(np.square(difference).sum())
    return power if np.isfinite(power) else float("inf")


def _difference(found: Sequence[Array], said: Sequence[Array], classes: bool) -> str:
    pairs = list(zip(found, said, strict=True))
    scores = [(a, b) for a, b in pairs if a.ndim == 2 and a.shape[1] > 1]
    if classes and scores:
        agreement = min(float((a.argmax(1) == b.argmax(1)).mean()) for a, b in scores)
        return f"differs from the file: classes agree on {100 * agreement:.0f} % of samples"
    size = max(np.sqrt(_power(a, b) / max(_power(b), 1e-300)) for a, b in pairs)
    return f"differs from the file: by {100 * size:.2g} % of the outputs' magnitude"
