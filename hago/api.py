"""The Python API: tune, quantize, compile, load. Each stage can be used alone.

import hago

result = hago.tune("model.onnx", data="samples.npz", max_drop=0.01, out="out")
print(result.best.accuracy, result.best.latency_ratio)

net = hago.load("out/model.so")
scores = net(images)[0]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from . import arguments
from .calibrate import Calibration
from .calibrate.calibration import is_calibration
from .compiler.cache import KernelCache
from .compiler.linker import is_foreign
from .data import make_samples
from .data.shapes import sample_shapes
from .deadline import Deadline
from .errors import DeviceError, ModelError
from .folder_lock import filled_folder
from .interrupts import Interrupts
from .measure.metrics import Metric, get_metric, unit_of
from .model import InputShapes, Model, load_model
from .record import Record
from .runtime.artifact import Artifact, load
from .runtime.processor import missing_features
from .runtime.threads import check_threads
from .spec import HardwareSpec, resolve_hw
from .strategy import Strategy

if TYPE_CHECKING:
    from .device.places import Place
    from .results import Session
    from .search import Progress, SearchResult

__all__ = ["Result", "compile", "load", "quantize", "tune"]

ModelLike = str | os.PathLike[str] | onnx.ModelProto | Model
CacheLike = KernelCache | str | os.PathLike[str] | None


@dataclass(frozen=True)
class Result:
    """What `tune` found.

    ``best`` is the answer and ``float`` is float32, both on the test part, which the search never saw;
    ``front`` are the search's Pareto-optimal records (on the search part), the fastest first. ``search``
    tells the whole story: all records, why it stopped, what stands in the way of the bound.
    """

    search: SearchResult
    strategy: Strategy
    folder: Path | None
    answer: str

    @property
    def float(self) -> Record:
        """float32, on the test part."""
        return self.search.float_test or self.search.float

    @property
    def best(self) -> Record:
        """The answer, on the test part (on the search part where the search was cut short)."""
        return self.search.test or self.search.best

    @property
    def front(self) -> tuple[Record, ...]:
        """The records of the search that no other beats in both latency and accuracy."""
        return self.search.front

    @property
    def met(self) -> bool:
        """Whether a strategy within ``max_drop`` and faster than float32 was found."""
        return self.search.met

    @property
    def outcome(self) -> str:
        """``"met"``, ``"not faster"``, ``"not met"`` or ``"not told"``: what `best` is."""
        return self.search.outcome

    @property
    def too_busy(self) -> bool:
        """Whether float32 was not as fast as itself (the A/A test): the machine was too busy to tell latencies."""
        return self.search.too_busy

    def summary(self) -> str:
        """The answer in a few sentences, as the report has it."""
        return self.answer


def tune(
    model: ModelLike,
    *,
    hw: str | os.PathLike[str] | HardwareSpec = "auto",
    data: Any,
    calibration: Any = None,
    metric: str | Metric | Callable[..., Any] = "top1",
    max_drop: float | str = 0.01,
    trials: int | None = 40,
    budget: str | float | timedelta | None = None,
    seed: int = 0,
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
    test: Any = None,
    sampler: str = "tpe",
    objectives: str | Sequence[str] = ("latency", "accuracy"),
    margin: float = 0.0,
    patience: int | None = 15,
    batch: int = 1,
    input_shapes: InputShapes | None = None,
    storage: str | os.PathLike[str] | None = None,
    resume: bool = False,
    cache: CacheLike = None,
    progress: str | Progress = "silent",
    devices: str | Sequence[str] | None = None,
    devices_file: str | os.PathLike[str] | None = None,
    joint: str = "worst",
    min_value: float | str | None = None,
    max_value: float | str | None = None,
) -> Result:
    """Searches the fastest strategy whose metric drops by at most ``max_drop``, and measures all it tries.

    ``data`` is (x, y), a path (npz, image folder) or an iterable of pairs; x is an array or a mapping from
    input name to array. It is divided by ``seed`` into calibration, search and test parts; ``calibration``
    and ``test`` can be given apart, and must share no sample with it. ``metric`` is "top1", "top5",
    "cosine", "sqnr", "mse" (of one output: "top1:logits") or a callable (outputs, labels) -> one score for each
    sample, or one number for the whole set. ``max_drop`` is in its unit (top-1: a fraction, or "1%"); ``min_value``
    asks for a value of the metric itself instead, as "sqnr" needs (30: at least 30 dB), and ``max_value`` does for
    errors. The search ends after ``trials``, after ``budget`` ("10m", seconds, a timedelta), or when the Pareto
    front has stood still for ``patience`` trials. ``threads=None`` measures float32 on one thread and on all
    physical cores, and takes what is faster. ``sampler`` is "tpe", "nsga2", "gp", "random" or "grid".

    With ``out``, everything is kept in that folder (strategy.yaml, model.qdq.onnx, model.so,
    records.jsonl, report.html, report.md, study.db), and ``resume`` goes on with what is there.

    ``devices`` names where candidates run, in place of ``hw``: one of ``devices_file`` (docs/devices.md), several of
    one kind that share the work ("pi-a+pi-b"), or a list, for one strategy that is good on all of them: then
    ``joint`` says whether the "worst" or the "mean" ratio to float32 counts. On an emulated device nothing is timed:
    instructions are counted, and all that follows from them is marked as estimated.

    Raises HagoError (ModelError, DataError, SpecError ...) for what cannot be used; a candidate that fails
    is a record with its reason.
    """
    from .device.places import find_place
    from .joint import check_rule
    from .search.bound import read_bound
    from .search.objective import check_objectives
    from .search.sampling import check_sampler
    from .search.stopping import parse_budget

    # What cannot be is told before anything is read; `run_search` and the others check the same where they are used.
    check_sampler(sampler)
    check_rule(joint)
    check_objectives(arguments.names("objectives", objectives))
    arguments.number("margin", margin)
    judge = get_metric(metric)
    bound = read_bound(judge, max_drop, min_value, max_value, unit=unit_of(judge))
    trials = arguments.optional_whole("trials", trials, 1)
    patience = arguments.optional_whole("patience", patience, 1)
    if out is not None:
        arguments.path("out", out)
    if isinstance(devices, str):
        devices = (devices,)
    names = arguments.names("devices", devices or (), DeviceError)
    with Interrupts().installed() as interrupts:
        session = open_session(
            model,
            hw=hw,
            data=data,
            calibration=calibration,
            metric=judge,
            seed=seed,
            threads=threads,
            out=out,
            test=test,
            batch=batch,
            input_shapes=input_shapes,
            cache=cache,
            progress=progress,
            places=[find_place(name, devices_file) for name in names],
            joint=joint,
            deadline=Deadline(parse_budget(budget)),
            interrupts=interrupts,
        )
        try:
            found = session.find(
                **asdict(bound),
                margin=margin,
                objectives=objectives,
                trials=trials,
                sampler=sampler,
                patience=patience,
                storage=storage,
                resume=resume,
            )
            return session.write(found)
        finally:
            session.close()


def open_session(
    model: ModelLike,
    *,
    hw: str | os.PathLike[str] | HardwareSpec = "auto",
    data: Any,
    calibration: Any = None,
    metric: str | Metric | Callable[..., Any] = "top1",
    seed: int = 0,
    threads: int | None = None,
    out: str | os.PathLike[str] | None = None,
    test: Any = None,
    batch: int = 1,
    input_shapes: InputShapes | None = None,
    cache: CacheLike = None,
    progress: str | Progress = "silent",
    places: Sequence[Place] = (),
    joint: str = "worst",
    deadline: Deadline,
    interrupts: Interrupts,
) -> Session:
    """A tuning job before its search; the arguments are those of `tune`, ``places`` its devices. To be closed."""
    from .results import Session
    from .search.progress import Telling, make_progress

    if places and hw != "auto":
        raise DeviceError("devices have specs of their own", where=f"hw {hw!r}", hint="leave out --hw (hw=)")
    telling = Telling(make_progress(progress), deadline)
    with ExitStack() as held:
        folder = None if out is None else held.enter_context(filled_folder(out))
        held.callback(telling.close)
        telling.say("reading the model")
        session = Session.open(
            model=_load(model, batch, input_shapes, data),
            spec=resolve_hw(hw),
            data=data,
            calibration=calibration,
            test=test,
            metric=get_metric(metric),
            seed=arguments.whole("seed", seed, 0),
            threads=None if threads is None else check_threads(threads),
            folder=folder,
            cache=_cache(cache),
            progress=telling,
            deadline=deadline,
            interrupts=interrupts,
            places=places,
            rule=joint,
        )
        return replace(session, held=held.pop_all(), hw=_file_of(hw))


def compile(  # the name promised to users
    model: ModelLike,
    *,
    hw: str | os.PathLike[str] | HardwareSpec = "auto",
    batch: int = 1,
    threads: int | None = None,
    input_shapes: InputShapes | None = None,
    cache: CacheLike = None,
) -> Artifact:
    """Compiles a float or QDQ model (ONNX path or ModelProto), whoever made it.

    ``input_shapes`` fixes free dimensions: whole shapes by input name, -1 standing for the batch.
    ``net(x)`` returns the outputs as a list of numpy arrays; ``net.save(path)`` writes one file that
    `load` reads without a compiler. For hardware that this processor is not, it can be saved, and says at a call that
    it runs elsewhere. ``threads``: by default the physical cores; 1 for another kind of machine. Raises ModelError,
    UnsupportedOpError, BuildError.
    """
    from .compiler.build import build
    from .lower import lower

    spec = resolve_hw(hw)
    count = 1 if threads is None and is_foreign(spec.triple) else check_threads(threads)
    normalized = _load(model, batch, input_shapes)
    return build(lower(normalized.proto, spec), spec, threads=count, cache=_cache(cache))


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
    """The model under ``strategy`` (a Strategy, or its file) as a standard QDQ model.

    ``calibration`` are samples without labels: an array [n, ...], a mapping from input name to array, a
    path, an iterable, or a `Calibration` made before (or its file, the calibration.npz of a search). Dimensions that
    the model leaves free are as in ``input_shapes``, else as in the samples; a batch that it leaves free stays free.
    A strategy made for other weights of the same network fits too, with a HagoWarning. Raises StrategyError where the
    strategy does not fit.
    """
    from .qdq.batch import free_batch

    normalized = model if isinstance(model, Model) else _load(model, batch, input_shapes, calibration)
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
    """What `quantize` returns, with the model's own batch fixed: what is lowered and compiled."""
    from .calibrating import calibrate_model
    from .qdq import observed_tensors, quantize_model

    chosen = strategy if isinstance(strategy, Strategy) else Strategy.load(strategy)
    chosen = chosen.bound_to(normalized)
    chosen.check(normalized, spec)
    if isinstance(calibration, (str, os.PathLike)) and is_calibration(calibration):
        calibration = Calibration.load(calibration)
        calibration.require(normalized.hash, observed_tensors(normalized))
    if not isinstance(calibration, Calibration):
        samples = make_samples(calibration, normalized.inputs)
        samples = samples.calibration or samples
        # The ranges are those of the float model, wherever it runs: here, if not yet there.
        host = spec if spec.kernels_available and not missing_features(spec.cpu_features) else resolve_hw("auto")
        calibration = calibrate_model(normalized, samples, host, threads=check_threads(threads), cache=_cache(cache))
    return quantize_model(normalized, chosen, calibration, spec)


def _file_of(hw: str | os.PathLike[str] | HardwareSpec) -> str:
    """The file of a spec of the user's own; empty for one of Hago's."""
    return str(Path(hw).absolute()) if isinstance(hw, (str, os.PathLike)) and Path(hw).is_file() else ""


def _load(model: ModelLike, batch: int, input_shapes: InputShapes | None, data: Any = None) -> Model:
    """The model; dimensions that nothing fixes are those of the samples."""
    shapes = None if data is None else lambda: sample_shapes(data)
    return load_model(_source(model), batch, input_shapes=input_shapes, sample_shapes=shapes)


def _source(model: ModelLike) -> Any:
    if isinstance(model, (str, os.PathLike, onnx.ModelProto, Model, bytes)):
        return model
    raise ModelError(
        f"a model is an ONNX path or ModelProto, not {type(model).__name__}",
        hint="a PyTorch module: hago.from_torch(module, example_inputs)",
    )


def _cache(cache: CacheLike) -> KernelCache:
    return cache if isinstance(cache, KernelCache) else KernelCache(cache)
