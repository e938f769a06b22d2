"""Calibrates a model by running its compiled float form with every observed tensor as an output."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..calibrate import Calibration, calibrate
from ..calibrate.statistics import Need, statistics_of
from ..compiler.build import build
from ..compiler.cache import KernelCache
from ..data import Samples
from ..lower import lower
from ..model import Model, expose
from ..qdq import observed_tensors
from ..spec import HardwareSpec


def calibrate_model(
    model: Model,
    samples: Samples,
    spec: HardwareSpec,
    *,
    threads: int = 1,
    cache: KernelCache | None = None,
    needs: Sequence[Need] = (),
    store: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Histograms of all tensors that any strategy may quantize, and the statistics of ``needs``, from one pass.

    ``needs`` are those of the methods in use (`hago.methods.needs_of`). With ``store``, a calibration of the same
    model, samples and needs is read from that file; otherwise it is written there.
    """
    statistics = statistics_of(model.layers, needs)
    tensors = observed_tensors(model)
    seen = tuple(dict.fromkeys((*tensors, *(each.tensor for each in statistics))))
    exposed = expose(model, seen)
    inputs = {info.name for info in model.inputs}
    names = [output.name for output in exposed.graph.output]
    observer = None

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        nonlocal observer
        if observer is None:  # not built if a stored calibration is used
            observer = build(lower(exposed, spec), spec, threads=threads, cache=cache)
        outputs = dict(zip(names, observer.run(feeds), strict=True))
        return {name: feeds[name] if name in inputs else outputs[name] for name in seen}

    return calibrate(
        tensors,
        samples,
        run,
        model.batch,
        statistics=statistics,
        model_hash=model.weights_hash,
        store=store,
        progress=progress,
    )
