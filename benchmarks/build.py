"""How long it takes to build: all kernels from nothing, a candidate whose kernels are cached, a whole trial.

    python benchmarks/build.py

*cold* compiles every kernel of int8 everywhere (per channel) into an empty cache; *warm* goes once more from
the strategy to a runnable artifact (QDQ, lowering, building; median of several); *trial* is a whole
evaluation with cached kernels: build, accuracy on all labelled samples, latency beside float32.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import arguments, load_bundle, markdown, provenance, write_table

from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.data import make_samples, split_samples
from hago.lower import lower
from hago.measure.metrics import get_metric
from hago.model import load_model
from hago.spec import resolve_hw
from hago.strategy import uniform
from hago.tuning.candidates import EvaluatorOptions
from hago.tuning.evaluator import TvmEvaluator

_REPEATS = 7


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/build.md"))
    options = parser.parse_args()
    found = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            found.append(one(name, options, Path(folder)))
        print(" ".join(row(found[-1])), flush=True)
    head = ["model", "kernels", "cold s", "warm ms", "of it QDQ", "lowering", "building", "samples", "trial s"]
    text = "# Building a candidate\n\n" + _INTRODUCTION + markdown(head, [row(item) for item in found]) + "\n"
    write_table(options.out, text + provenance(options.threads) + "\n", found)


_INTRODUCTION = """
int8 everywhere, per channel. *Cold* compiles every kernel into an empty cache. *Warm* goes once more from the strategy
to a runnable artifact, kernels cached. A *trial* is warm building, accuracy on all samples, and latency beside
float32.

"""


def one(name: str, options: Any, folder: Path) -> dict[str, Any]:
    bundle = load_bundle(options.models, name)
    model, spec = load_model(bundle["model"]), resolve_hw("auto")
    samples = make_samples((bundle["x"], bundle["y"]), model.inputs)
    parts = split_samples(samples, make_samples(bundle["calib"], model.inputs))
    parts = replace(parts, search=samples)  # all of them: nothing is chosen here
    cache = KernelCache(folder / "warm")
    evaluator = TvmEvaluator(
        model, spec, parts, get_metric("top1"), EvaluatorOptions(threads=options.threads, cache=cache)
    )
    strategy = uniform(model, spec)
    evaluator.float_record()
    qdq = evaluator.qdq(strategy)
    empty = KernelCache(folder / "empty")  # the evaluator's cache is warm: it compiles ahead
    started = time.perf_counter()
    build(lower(qdq, spec), spec, threads=options.threads, cache=empty)
    cold = time.perf_counter() - started
    stages: list[tuple[float, float, float]] = []
    for _ in range(_REPEATS):
        marks = [time.perf_counter()]
        qdq = evaluator.qdq(strategy)
        marks.append(time.perf_counter())
        lowered = lower(qdq, spec)
        marks.append(time.perf_counter())
        build(lowered, spec, threads=options.threads, cache=cache)
        marks.append(time.perf_counter())
        stages.append((marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]))
    evaluator.evaluate(uniform(model, spec, calibrator="percentile"))
    started = time.perf_counter()
    record = evaluator.evaluate(uniform(model, spec, calibrator="moving_average"))
    trial = time.perf_counter() - started
    assert record.state == "ok", record.reason
    medians = [statistics.median(stage) for stage in zip(*stages, strict=True)]
    return {
        "model": name,
        "kernels": empty.info().kernels,
        "cold_s": cold,
        "warm_s": statistics.median(map(sum, stages)),
        "stages_s": medians,
        "samples": record.n_samples,
        "trial_s": trial,
    }


def row(item: dict[str, Any]) -> list[str]:
    stages = [f"{1e3 * seconds:.0f}" for seconds in item["stages_s"]]
    warm = f"{1e3 * item['warm_s']:.0f}"
    cold, trial = f"{item['cold_s']:.1f}", f"{item['trial_s']:.2f}"
    return [item["model"], str(item["kernels"]), cold, warm, *stages, str(item["samples"]), trial]


if __name__ == "__main__":
    main()
