"""Answers another bound from a finished search, without new trials or measurements.

    given = answer("out", max_drop=0.03)
    print(given.summary())

The records of a search answer every bound. ``search.json`` describes its job.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api import CacheLike, compile, quantize_static
from ..compiler.cache import KernelCache
from ..errors import DataError, SearchError
from ..files import write_atomic
from ..folder_lock import filled_folder
from ..goal import Goal
from ..measure.metric_text import MetricText
from ..model import Model, load_model
from ..options import OF_A_NEW_SEARCH, read_options
from ..qdq.batch import free_batch
from ..read_goal import read_goal
from ..record import Record
from ..record_file import read_records
from ..result_files import ANSWER_FILE, CALIBRATION_FILE, LIBRARY_FILE, QDQ_FILE, RECORDS_FILE, STRATEGY_FILE
from ..runtime.here import why_not_here
from ..search import SearchResult, choose, pareto_front
from ..signature import takes_options
from ..spec import resolve_hw
from .job import Job


@dataclass(frozen=True)
class Answered:
    """The answer to a goal; ``folder`` holds its files: strategy.yaml, model.qdq.onnx, model.so and answer.md."""

    result: SearchResult
    job: Job
    folder: Path

    @property
    def best(self) -> Record:
        """The answer as the search measured it, on the search samples."""
        return self.result.best

    def summary(self) -> str:
        """The answer in a few sentences."""
        best, floats = self.best, self.result.float
        parts = [self.result.summary()]
        if best is not floats and best.accuracy is not None:
            trial = f"trial {best.id + 1}"
            label = "" if trial in best.label else f" ({best.label})"  # "tpe, trial 5" names the trial already
            metric = MetricText.of_record(best)
            scores = f"{metric.info.name} {metric.value(best.accuracy)} on its samples"
            if floats.accuracy is not None and not metric.info.against_float:
                scores += f", float32 {metric.value(floats.accuracy)}"
            parts.append(f"It is {trial} of the search{label}: {scores}.")
            if self.result.test is None:
                parts.append(
                    f"It was measured once, on the samples that chose it: as the best of {self.result.trials} trials "
                    "it may look better than it is. `hago tune ... --resume` with this bound measures it thoroughly "
                    "and on the test samples."
                )
        if not (self.folder / LIBRARY_FILE).is_file():
            places = ", ".join(self.job.devices) or self.job.hw
            parts.append(
                f"There is no model.so: build one for {places} with hago build MODEL --strategy strategy.yaml."
            )
        return " ".join(parts)


@takes_options(*OF_A_NEW_SEARCH)
def answer(
    folder: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: CacheLike = None,
    **options: Any,
) -> Answered:
    """The answer of the search in ``folder`` to another goal, with its files in ``out``.

    ``options`` are those of `tune` that make the goal. Nothing is searched or measured: of the existing trials it
    selects the one that `tune` would select. A search that is still running is read as it is at that moment. ``model``
    is the model file, if it has moved; ``out`` defaults to ``folder/max-drop-...`` (or ``min-...``). Raises SearchError
    if there is no finished search, and ModelError, StorageError, BuildError.
    """
    source = Path(folder)
    given = {name: value for name, value in options.items() if not (name == "max_drop" and value is None)}
    asked = read_options(given, caller="answer", without=OF_A_NEW_SEARCH).goal
    everything = _records(source)
    (floats, records), job = _measured(everything, source), Job.load(source)
    wanted = read_goal(_Judge(job.metric, job.higher_is_better), job.unit, asked).settled(floats)
    best, outcome = choose(floats, records, wanted)
    tests = [r for r in everything if r.part == "test" and r.state == "ok"]
    result = SearchResult(
        float=floats,
        best=best,
        front=pareto_front([floats, *records], wanted),
        records=tuple(records),
        outcome=outcome,
        goal=wanted,
        test=next((r for r in reversed(tests) if r.key == best.key), None),
        float_test=next((r for r in reversed(tests) if r.strategy is None), None),
        trials=len(records),
    )
    loaded = _model(job, model)
    with filled_folder(source / _folder(wanted) if out is None else out) as place:
        answered = Answered(result, job, place)
        _write(answered, source, loaded, KernelCache.of(cache))
        write_atomic(place / ANSWER_FILE, f"{answered.summary()}\n")
    return answered


def measured(folder: str | os.PathLike[str]) -> tuple[Record, list[Record]]:
    """float32 and the trials of the search in this folder, as measured. Raises SearchError, StorageError."""
    return _measured(_records(Path(folder)), Path(folder))


def _measured(everything: Sequence[Record], folder: Path) -> tuple[Record, list[Record]]:
    found = [record for record in everything if record.part == "search"]
    floats = [record for record in found if record.strategy is None and record.state == "ok"]
    trials = {record.id: record for record in everything if record.is_trial}
    if not floats or not trials:
        raise SearchError(
            "no trial has finished there", where=str(folder), hint="`hago tune --resume` continues the search"
        )
    return floats[-1], [trials[number] for number in sorted(trials)]


def _records(folder: Path) -> list[Record]:
    if not (folder / RECORDS_FILE).is_file():
        raise SearchError("there is no search here", where=str(folder), hint="give the folder of `hago tune --out`")
    return read_records(folder / RECORDS_FILE, damaged=lambda error: None)


def _folder(goal: Goal) -> str:
    """``max-drop-0.02``, ``smallest-max-drop-0.02``, ``max-latency-5ms``."""
    parts = [goal.primary.best] if goal.primary.name == "size" else []
    if goal.limit is not None:
        parts.append(f"{'min' if goal.higher_is_better else 'max'}-{goal.limit:g}")
    elif goal.bounds_accuracy:
        parts.append(f"max-drop-{goal.max_drop:g}")
    parts += [f"{name.replace('_', '-')}-{text}" for name, text in goal.amounts.items()]
    return "-".join(parts).replace(" ", "").replace("µ", "u")


@dataclass(frozen=True)
class _Judge:
    """The parts of a metric that a bound needs."""

    name: str
    higher_is_better: bool


def _model(job: Job, given: str | os.PathLike[str] | None) -> Model:
    """The model that was searched. Raises SearchError if it is a different one or unknown."""
    source = given if given is not None else job.model
    if source is None:
        raise SearchError("the model was not read from a file", hint="name its file with --model (model=)")
    model = load_model(source, job.batch, input_shapes=job.input_shapes)
    if model.hash != job.model_hash:
        raise SearchError(
            "this is not the model that was searched",
            where=str(source),
            hint="name the right file with --model (model=); for other weights: hago quantize --strategy",
        )
    return model


def _write(answered: Answered, source: Path, model: Model, cache: KernelCache) -> None:
    from ..device.package import make_package
    from ..strategy import Strategy

    job, folder = answered.job, answered.folder
    spec = resolve_hw(job.hw)
    strategy = answered.best.strategy or Strategy(model.hash, job.hw)
    proto = model.proto
    if strategy.choices:
        try:
            proto = quantize_static(model, strategy, source / CALIBRATION_FILE, spec=spec, cache=cache)
        except DataError as error:
            hint = "`hago tune --resume` writes it again"
            raise SearchError(error.what, where=str(source / CALIBRATION_FILE), hint=hint) from error
    strategy.bound_to(model).save(folder / STRATEGY_FILE)
    write_atomic(folder / QDQ_FILE, free_batch(proto, model).SerializeToString())
    if why_not_here(spec) is None and not job.devices:
        compile(proto, hw=spec, batch=model.batch, threads=job.threads, cache=cache).save(folder / LIBRARY_FILE)
    elif len(job.devices) == 1:
        make_package(model, proto, spec, folder, threads=job.threads, cache=cache)
