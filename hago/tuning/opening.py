"""Opens a tuning session: reads and splits the samples, and makes what measures candidates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from ..bench import Bench
from ..bench.local import LocalBench
from ..compiler.cache import KernelCache
from ..compiler.linker import require_linker
from ..data import DataParts, Samples, make_samples, split_samples
from ..data.sample_shapes import sample_shapes
from ..deadline import Deadline
from ..device.places import find_place
from ..errors import BuildError, DeviceError, HagoWarning
from ..folder_lock import filled_folder
from ..goal import Goal
from ..interrupts import Interrupts
from ..measure.metrics import unit_of
from ..model import Model, load_model
from ..options import Options
from ..read_goal import read_goal
from ..result_files import LIBRARY_FILE
from ..runtime.here import require_here
from ..runtime.threads import check_threads
from ..search import SearchSpace
from ..search.keep import read_keep
from ..search.progress import JobProgress, make_progress
from ..search.start import read_start
from ..search.trial_store import has_search
from ..spec import HardwareSpec, resolve_hw
from ..spec.join import join
from .afford import Affordable
from .candidates import EvaluatorOptions
from .evaluator import TvmEvaluator, require_labels
from .joint import JointEvaluator
from .session import Session
from .thread_choice import chosen_threads


def open_session(
    model: Any, data: Any, options: Options, goal: Goal, deadline: Deadline, interrupts: Interrupts
) -> Session:
    """Prepares a tuning job: reads and splits as many samples as ``deadline`` allows. The caller closes it.

    Raises HagoError for unusable input.
    """
    job, seed, keep = options.job, options.search.seed, read_keep(options.search.keep)
    places = [find_place(name, job.devices_file) for name in job.devices]
    if places and job.hw != "auto":
        raise DeviceError("each device has its own spec", where=f"hw {job.hw!r}", hint="leave out --hw (hw=)")
    display = JobProgress(make_progress(job.progress), deadline)
    with ExitStack() as held:
        folder = None if job.out is None else held.enter_context(filled_folder(job.out))
        held.callback(display.close)
        display.say("reading the model")
        shapes = partial(sample_shapes, data)
        loaded = load_model(model, job.batch, input_shapes=job.input_shapes, sample_shapes=shapes)
        here = [place.devices[0].spec for place in places if place.is_here] if places else [job.hw]
        for hw in here:
            require_here(resolve_hw(hw))
        spec = resolve_hw(here[0] if here else job.hw)
        threads = None if job.threads is None else check_threads(job.threads)
        cache = KernelCache.of(job.cache)
        if folder is not None:
            _warn_without_linker([resolve_hw(place.devices[0].spec) for place in places] or [spec])
        # A resumed run takes the samples that the earlier run took.
        begun = folder is not None and has_search(folder)
        affordable = Affordable(None if begun else deadline.seconds, folder, seed, resumed=begun)
        parts = _divided(data, options, loaded, affordable, display)
        if threads is None:
            display.say("choosing the number of threads")
            away = any(not place.is_here for place in places)
            threads = 1 if away else chosen_threads(loaded, spec, parts, cache, folder)

        benches: dict[str, Bench] = {place.name: place.bench(threads, cache, seed) for place in places}
        benches = benches or {"": LocalBench(spec, seed)}
        specs = [bench.spec for bench in benches.values()]
        shared = specs[0] if len(specs) == 1 else join(specs)
        how = EvaluatorOptions(threads, cache, folder, seed, options.search.knobs, deadline, display.say)
        evaluators = {
            name: TvmEvaluator(loaded, shared, parts, job.metric, how, bench) for name, bench in benches.items()
        }
        alone = next(iter(evaluators.values()))
        taken = affordable.divided(parts, alone.float_run_s)
        for each in evaluators.values():
            each.parts = taken
        evaluator = alone if len(evaluators) == 1 else JointEvaluator(evaluators, job.joint)
        space = SearchSpace.from_model(loaded, shared, options.search.knobs, keep=keep)
        start = read_start(options.search.start, loaded, shared)
        return Session(evaluator, space, options, goal, start, display, folder, deadline, interrupts, held.pop_all())


def _divided(data: Any, options: Options, model: Model, affordable: Affordable, display: JobProgress) -> DataParts:
    """The three parts of the samples. Raises DataError."""
    job = options.job

    def read(name: str, source: Any) -> Samples:
        display.say(f"reading the samples: {name}")
        return affordable.read(name, make_samples(source, model.inputs))

    samples = read("data", data)
    apart = None if job.calibration is None else make_samples(job.calibration, model.inputs)
    if apart is not None:
        apart = affordable.read("calibration", apart.calibration or apart)
    held_out = None if job.test is None else read("test", job.test)
    display.say("splitting the samples")
    parts = split_samples(samples, apart, test=held_out, seed=options.search.seed)
    require_labels(job.metric, parts)
    return parts


def goal_of(options: Options) -> Goal:
    """The goal that these options ask for. Raises SearchError."""
    return read_goal(options.job.metric, unit_of(options.job.metric), options.goal)


def _warn_without_linker(specs: Sequence[HardwareSpec]) -> None:
    """Warns before the search about what cannot be written after it."""
    for triple in dict.fromkeys(spec.triple for spec in specs):
        try:
            require_linker(triple, LIBRARY_FILE)
        except BuildError as error:
            warnings.warn(f"{error}\n  everything but {LIBRARY_FILE} will be written", HagoWarning, stacklevel=2)
