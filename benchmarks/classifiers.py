"""Tunes every real classifier, and holds the result against ONNX Runtime and OpenVINO.

    python benchmarks/classifiers.py

For each model: `hago.tune` with a bound of one point and at most 40 trials, then one interleaved timing of
TVM float32 and the chosen strategy, ONNX Runtime and OpenVINO in float32, both on the chosen strategy's QDQ
file, and ONNX Runtime on the int8 file that its own `quantize_static` makes. Needs hago[peers].
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import arguments, load_bundle, markdown, ort_static_int8, provenance, write_table

import hago
from hago.data import Samples, make_samples
from hago.errors import HagoError
from hago.measure.latency import Latency, measure_latency
from hago.model import load_model
from hago.runners import OnnxRuntimeRunner, OpenVinoRunner, Runner, TvmRunner

CHOSEN, FLOAT = "chosen", "TVM float32"
PEERS = ("ORT float32", "ORT int8 (own)", "ORT same QDQ", "OpenVINO float32", "OpenVINO same QDQ")


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/classifiers.md"))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="kernel cache (default: a new, empty one for each model)")
    options = parser.parse_args()
    found = []
    for name in options.only:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found.append(one(name, options, Path(folder)))
        print(" ".join(row(found[-1])), flush=True)
    head = [
        "model", "float top-1 %", "chosen top-1 %", "change (95 % CI)", "within", "ms chosen", "to TVM float32",
        *(f"to {peer}" for peer in PEERS), "as ORT %", "layers int8/bf16/float", "trials", "search s",
        "s per trial", "first within s",
    ]  # fmt: skip
    text = "# Every classifier, tuned\n\n" + _INTRODUCTION.format(
        drop=100 * options.max_drop, trials=options.trials, rounds=options.rounds
    )
    text += markdown(head, [row(item) for item in found]) + "\n" + notes(found)
    text += provenance(options.threads) + "\n"
    write_table(options.out, text, found)


_INTRODUCTION = """
`hago.tune` with `max_drop` {drop:g} point(s) and at most {trials} trials, from an empty kernel cache. Top-1 is
measured on the test part, which the search never saw, from the compiled artifact. Ratios are of median latencies,
batch 1, {rounds} interleaved rounds of all engines in one process; below 1 the chosen strategy is faster. *ORT int8
(own)* is the file that ONNX Runtime's `quantize_static` makes (QDQ, per channel, min-max); *same QDQ* is the chosen
strategy's own QDQ file in that engine. *as ORT*: share of all samples to which the chosen artifact and ONNX Runtime,
given its QDQ file, give the same class.

"""


def one(name: str, options: Any, folder: Path) -> dict[str, Any]:
    """Tunes one model and times it beside its peers."""
    bundle = load_bundle(options.models, name)
    started = time.perf_counter()
    result = hago.tune(
        bundle["model"],
        data=(bundle["x"], bundle["y"]),
        calibration=bundle["calib"],
        max_drop=options.max_drop,
        trials=options.trials,
        seed=options.seed,
        threads=options.threads,
        out=folder / "out",
        cache=options.cache or folder / "cache",
        progress="plain",
    )
    seconds = time.perf_counter() - started
    times, agreement, notes_ = timed(bundle, folder, options)
    best, base = result.best, result.float
    search = result.search
    measured = [r for r in search.records if r.trial_s is not None]
    precisions = [choice.precision for choice in result.strategy.choices.values()]
    anchors = [
        layer.name
        for layer in load_model(bundle["model"]).layers
        if layer.kind in ("conv", "depthwise_conv", "fully_connected", "matmul")
    ]
    chosen = [result.strategy.choice(layer).precision for layer in anchors]
    return {
        "model": name,
        "float_top1": base.accuracy,
        "top1": best.accuracy,
        "change": best.accuracy_change,
        "change_interval": best.accuracy_change_interval,
        "search_change": search.best.accuracy_change,
        "within": search.test_within,
        "outcome": search.outcome,
        "ms": times[CHOSEN].median_s * 1e3,
        "as_ort": agreement,
        "ratios": {n: (times[CHOSEN].median_s / t.median_s) for n, t in times.items() if n != CHOSEN},
        "ms_all": {n: [t.median_s * 1e3, t.low_s * 1e3, t.high_s * 1e3] for n, t in times.items()},
        "precisions": {p: precisions.count(p) for p in sorted(set(precisions))},
        "anchors": {p: chosen.count(p) for p in sorted(set(chosen))},
        "trials": search.trials,
        "seconds": seconds,
        "seconds_per_trial": sum(r.trial_s for r in measured) / max(1, len(measured)),
        "first_within_s": search.first_within_s,
        "stopped": search.stopped,
        "summary": result.summary(),
        "notes": notes_,
    }


def timed(bundle: dict[str, Any], folder: Path, options: Any) -> tuple[dict[str, Latency], float | None, list[str]]:
    """All engines on the same input, in turns; and how often ONNX Runtime has the chosen network's class."""
    source, qdq = bundle["model"], folder / "out" / "model.qdq.onnx"
    threads, notes_ = options.threads, []
    net = hago.load(folder / "out" / "model.so")
    compiled = hago.compile(source, threads=threads, cache=options.cache or folder / "cache")
    runners: list[Runner] = [TvmRunner(compiled, name=FLOAT), TvmRunner(net, name=CHOSEN)]
    own = ort_static_int8(bundle, folder)
    makers: tuple[tuple[str, Callable[..., Runner], Any], ...] = (
        (PEERS[0], OnnxRuntimeRunner, source),
        (PEERS[1], OnnxRuntimeRunner, own),
        (PEERS[2], OnnxRuntimeRunner, qdq),
        (PEERS[3], OpenVinoRunner, source),
        (PEERS[4], OpenVinoRunner, qdq),
    )
    for label, make, model in makers:
        try:
            runners.append(make(model, threads=threads, name=label))
        except HagoError as error:
            notes_.append(f"{label}: {error.what}")
    inputs = load_model(source).inputs
    feeds = make_samples(bundle["x"][0:8], inputs).batch(0, 1)
    times = measure_latency(runners, feeds, rounds=options.rounds)
    by_name = {runner.name: runner for runner in runners}
    agreement = None
    if PEERS[2] in by_name:
        samples = make_samples(bundle["x"], inputs)
        agreement = same_classes(by_name[CHOSEN], by_name[PEERS[2]], samples)
    return times, agreement, notes_


def same_classes(a: Runner, b: Runner, samples: Samples) -> float:
    """The share of the samples for which two runners give the same class."""
    same = 0
    for i in range(len(samples)):
        feeds = samples.batch(i, i + 1)
        same += int(a.run(feeds)[0].argmax() == b.run(feeds)[0].argmax())
    return same / len(samples)


def row(item: dict[str, Any]) -> list[str]:
    low, high = item["change_interval"] or (0.0, 0.0)
    kinds = item["anchors"]
    split = f"{kinds.get('int8', 0) + kinds.get('int7', 0)}/{kinds.get('bfloat16', 0)}/{kinds.get('float32', 0)}"
    within = {True: "yes", False: "no", None: "-"}[item["within"]]
    first = "-" if item["first_within_s"] is None else f"{item['first_within_s']:.1f}"
    return [
        item["model"],
        f"{100 * item['float_top1']:.1f}",
        f"{100 * item['top1']:.1f}",
        f"{100 * (item['change'] or 0):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
        within,
        f"{item['ms']:.3f}",
        *(f"{item['ratios'][n]:.2f}" if n in item["ratios"] else "-" for n in (FLOAT, *PEERS)),
        "-" if item["as_ort"] is None else f"{100 * item['as_ort']:.1f}",
        split,
        str(item["trials"]),
        f"{item['seconds']:.0f}",
        f"{item['seconds_per_trial']:.2f}",
        first,
    ]


def notes(found: list[dict[str, Any]]) -> str:
    lines = [f"- {item['model']}: {item['summary']}" for item in found]
    lines += [f"- {item['model']}: {note}" for item in found for note in item["notes"]]
    return "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    main()
