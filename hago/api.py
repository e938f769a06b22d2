"""The Python API: tune, quantize, compile, load. Each stage works independently.

import hago

result = hago.tune("model.onnx", data="samples.npz", max_drop=0.01, out="out")
print(result.best.accuracy, result.best.latency_ratio)

net = hago.load("out/model.so")
scores = net(images)[0]
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import onnx

from .calibrate import Calibration
from .calibrate.calibration import is_calibration
from .compiler.cache import KernelCache
from .compiler.linker import is_foreign
from .data import make_samples
from .data.sample_shapes import sample_shapes
from .deadline import Deadline
from .interrupts import Interrupts
from .model import InputShapes, Model, load_model
from .options import read_options
from .runtime.artifact import Artifact, load
from .runtime.here import why_not_here
from .runtime.threads import check_threads
from .signature import takes_options
from .spec import HardwareSpec, resolve_hw
from .strategy import Strategy

if TYPE_CHECKING:
    from .tuning.tuned import Result

__all__ = ["compile", "load", "quantize", "tune"]

ModelLike = str | os.PathLike[str] | onnx.ModelProto | Model
CacheLike = KernelCache | str | os.PathLike[str] | None


@takes_options()
def tune(model: ModelLike, *, data: Any, **options: Any) -> Result:
    """Searches the fastest strategy whose metric drops by at most ``max_drop``, measuring every candidate.

    Samples: ``data`` is (x, y), a path (npz, image folder) or an iterable of pairs; x is an array or a mapping from
    input name to array. ``seed`` splits it into calibration, search and test parts. ``calibration`` and ``test`` can
    be given separately and must share no sample with it.

    Goal: ``metric`` is "top1", "top5", "cosine", "sqnr", "mse" (for one output: "top1:logits") or a callable
    (outputs, labels) -> one score per sample, or one number for the whole set. ``max_drop`` is in its unit (top-1: a
    fraction, or "1%"). ``min_value`` bounds the metric itself instead, as "sqnr" requires (30: at least 30 dB), and
    ``max_value`` does so for errors. ``max_latency`` ("0.2ms") and ``max_size`` ("200kB") are bounds too. The answer
    is the best in the first of ``objectives`` that has no bound.

    Search: it ends after ``trials``, after ``budget`` ("10m", seconds, a timedelta), or at a plateau (``patience``
    trials without improvement of the Pareto front). ``sampler`` is "tpe", "nsga2", "gp", "random" or "grid".
    ``threads=None`` times float32 on one thread and on all physical cores, and uses what is faster. ``keep`` holds
    layers at a precision ({"float32": "head.*"}), ``knobs`` fixes or widens the choices of a layer
    ({"correction": ("none", "bias")}), and ``start`` is a strategy to try first: its file, or a QDQ model.

    ``out`` is the folder for the results (strategy.yaml, model.qdq.onnx, model.so, records.jsonl, report.html,
    report.md, study.db); ``resume`` continues the search in it.

    ``devices`` selects where candidates run, instead of ``hw``: one name of ``devices_file`` (docs/devices.md), several
    of one kind that share the work ("pi-a+pi-b"), or a list, for one strategy that is good on all of them; then
    ``joint`` says whether the "worst" or the "mean" ratio to float32 counts. Emulated devices count instructions
    instead of timing, and everything derived from the counts is marked as estimated.

    Options can also be given as values: ``goal=GoalOptions(...)``, ``search=SearchOptions(...)``,
    ``job=JobOptions(...)``.

    Raises HagoError (ModelError, DataError, SpecError ...) for unusable input; a candidate that fails is a record with
    its reason.
    """
    from .tuning.opening import goal_of, open_session

    asked = read_options(options)
    goal = goal_of(asked)
    with Interrupts().installed() as interrupts:
        session = open_session(model, data, asked, goal, Deadline(asked.search.budget), interrupts)
        try:
            return session.write(session.find())
        finally:
            session.close()


def compile(  # the name promised to users
    model: ModelLike,
    *,
    hw: str | os.PathLike[str] | HardwareSpec = "auto",
    batch: int = 1,
    threads: int | None = None,
    input_shapes: InputShapes | None = None,
    cache: CacheLike = None,
) -> Artifact:
    """Compiles a float or QDQ model (ONNX path or ModelProto) of any origin.

    ``input_shapes`` fixes free dimensions: full shapes by input name, with -1 for the batch. ``threads`` defaults to
    the physical cores, or to 1 for another kind of machine. ``net(x)`` returns the outputs as a list of numpy arrays;
    ``net.save(path)`` writes one file that `load` reads without a compiler. A network for other hardware can be saved,
    but calling it is an error. Raises ModelError, UnsupportedOpError, BuildError.
    """
    from .compiler.build import build
    from .lower import lower

    spec = resolve_hw(hw)
    count = 1 if threads is None and is_foreign(spec.triple) else check_threads(threads)
    normalized = load_model(model, batch, input_shapes=input_shapes)
    return build(lower(normalized.proto, spec), spec, threads=count, cache=KernelCache.of(cache))


def quantize(
    model: ModelLike,
    strategy: Strategy | str | os.PathLike[str],
    calibration: Any,
    *,
    hw: str | os.PathLike[str] | HardwareSpec = "auto",
    batch: int = 1,
    input_shapes: InputShapes | None = None,
    threads: int | None = None,
    cache: CacheLike = None,
) -> onnx.ModelProto:
    """Quantizes the model by ``strategy`` (a Strategy, or its file) and returns a standard QDQ model.

    ``calibration`` holds samples without labels: an array [n, ...], a mapping from input name to array, a path or an
    iterable; or a `Calibration` (or its file, the calibration.npz of a search). Free dimensions of the model are taken
    from ``input_shapes``, else from the samples; a free batch stays free. A strategy made for other weights of the same
    network fits too, with a HagoWarning. Raises StrategyError if the strategy does not fit.
    """
    from .qdq.batch import free_batch

    normalized = (
        model
        if isinstance(model, Model)
        else load_model(model, batch, input_shapes=input_shapes, sample_shapes=partial(sample_shapes, calibration))
    )
    qdq = quantize_static(normalized, strategy, calibration, spec=resolve_hw(hw), threads=threads, cache=cache)
    return free_batch(qdq, normalized)


def quantize_static(
    normalized: Model,
    strategy: Strategy | str | os.PathLike[str],
    calibration: Any,
    *,
    spec: HardwareSpec,
    threads: int | None = None,
    cache: CacheLike = None,
) -> onnx.ModelProto:
    """Like `quantize`, but with the batch fixed: the model that is lowered and compiled."""
    from .methods import needs_of, transformed
    from .qdq import observed_tensors, quantize_model
    from .tuning.calibrating import calibrate_model

    chosen = strategy if isinstance(strategy, Strategy) else Strategy.load(strategy)
    chosen = chosen.bound_to(normalized)
    chosen.check(normalized, spec)
    normalized = transformed(normalized, chosen.transformation)
    if isinstance(calibration, (str, os.PathLike)) and is_calibration(calibration):
        calibration = Calibration.load(calibration)
        calibration.require(normalized.weights_hash, observed_tensors(normalized))
    if isinstance(calibration, Calibration):
        calibration.require(normalized.weights_hash, ())
    else:
        samples = make_samples(calibration, normalized.inputs)
        samples = samples.calibration or samples
        # Ranges are those of the float model, on any machine: calibrate here if the target cannot run it.
        host = spec if why_not_here(spec) is None else resolve_hw("auto")
        calibration = calibrate_model(
            normalized,
            samples,
            host,
            threads=check_threads(threads),
            cache=KernelCache.of(cache),
            needs=needs_of(chosen.used),
        )
    return quantize_model(normalized, chosen, calibration, spec)
