"""TVM, ONNX Runtime and OpenVINO on the same files: the float model, and one QDQ file of it (int8 everywhere).

    python benchmarks/runtimes.py

Batch 1, all engines interleaved in one process, once for each number of threads. Needs hago[peers].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import EVERY_MODEL, arguments, load_bundle, markdown, provenance, write_table

import hago
from hago.data import make_samples
from hago.errors import HagoError
from hago.measure.latency import Latency, measure_latency
from hago.model import load_model
from hago.runners import OnnxRuntimeRunner, OpenVinoRunner, Runner, TvmRunner
from hago.spec import HardwareSpec, resolve_hw
from hago.strategy import uniform

ENGINES = ("TVM", "ORT", "OpenVINO")
CALIBRATION = 128


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/runtimes.md"))
    parser.set_defaults(only=list(EVERY_MODEL))
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 2], help="numbers of threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cache", type=Path, help="kernel cache (default: the user's)")
    options = parser.parse_args()
    found = []
    for name in options.only:
        qdq = quantized(name, options, resolve_hw("auto"))
        for threads in options.counts:
            found.append(one(name, qdq, threads, options))
            print(" ".join(row(found[-1])), flush=True)
    text = "# The same files in three engines\n\n" + _INTRODUCTION.format(rounds=options.rounds)
    text += markdown(_HEAD, [row(item) for item in found]) + "\n" + summary(found) + notes(found)
    write_table(options.out, text + provenance(max(options.counts)) + "\n", found)


_INTRODUCTION = """
Median milliseconds of one call, batch 1, {rounds} interleaved rounds of all engines in one process. *int8* is one QDQ
file, int8 everywhere, weights per channel, in all three engines. *int8 / peers* divides TVM's int8 by the better of
the peers' int8, *int8 / best* by the best of all four peers, *float32 / peers* TVM's float32 by the better of the
peers' float32: below 1, TVM is faster.

"""

_HEAD = [
    "model", "threads", *(f"{engine} {kind}" for kind in ("float32", "int8") for engine in ENGINES),
    "int8 / peers", "int8 / best", "float32 / peers",
]  # fmt: skip


def quantized(name: str, options: Any, spec: HardwareSpec) -> Any:
    """The model in int8 everywhere, per channel, as QDQ."""
    bundle = load_bundle(options.models, name)
    model = load_model(bundle["model"])
    samples = make_samples(bundle["calib"][0:CALIBRATION], model.inputs)
    return hago.quantize(bundle["model"], uniform(model, spec), calibration=samples, hw=spec)


def one(name: str, qdq: Any, threads: int, options: Any) -> dict[str, Any]:
    bundle = load_bundle(options.models, name)
    source = bundle["model"]
    engines: dict[str, Callable[[Any, str], Runner]] = {
        "TVM": lambda m, n: TvmRunner(hago.compile(m, threads=threads), name=n),
        "ORT": lambda m, n: OnnxRuntimeRunner(m, threads, batch=1, name=n),
        "OpenVINO": lambda m, n: OpenVinoRunner(m, threads, batch=1, name=n),
    }
    runners, refused = [], {}
    for kind, file in (("float32", source), ("int8", qdq)):
        for engine, open_runner in engines.items():
            label = f"{engine} {kind}"
            try:
                runners.append(open_runner(file, label))
            except HagoError as error:
                refused[label] = error.what
    feeds = {load_model(source).inputs[0].name: np.ascontiguousarray(bundle["x"][0:1])}
    times = measure_latency(runners, feeds, rounds=options.rounds)
    for runner in runners:
        runner.close()
    return {
        "model": name,
        "threads": threads,
        "ms": {label: [1e3 * t.median_s, 1e3 * t.low_s, 1e3 * t.high_s] for label, t in times.items()},
        "ratios": ratios(times),
        "refused": refused,
    }


def ratios(times: Mapping[str, Latency]) -> dict[str, float]:
    """TVM to the better of its peers, over medians."""

    def best(*labels: str) -> float:
        return min(times[label].median_s for label in labels if label in times)

    ours, plain = times["TVM int8"].median_s, times["TVM float32"].median_s
    ints, floats = ("ORT int8", "OpenVINO int8"), ("ORT float32", "OpenVINO float32")
    return {
        "int8 / peers": ours / best(*ints),
        "int8 / best": ours / best(*ints, *floats),
        "float32 / peers": plain / best(*floats),
    }


def row(item: dict[str, Any]) -> list[str]:
    labels = [f"{engine} {kind}" for kind in ("float32", "int8") for engine in ENGINES]
    cells = [f"{item['ms'][label][0]:.3g}" if label in item["ms"] else "-" for label in labels]
    return [item["model"], str(item["threads"]), *cells, *(f"{value:.2f}" for value in item["ratios"].values())]


def summary(found: list[dict[str, Any]]) -> str:
    """Geometric mean and worst of each ratio, by number of threads."""
    lines = []
    for threads in sorted({item["threads"] for item in found}):
        items = [item for item in found if item["threads"] == threads]
        for name in items[0]["ratios"]:
            values = np.array([item["ratios"][name] for item in items])
            mean, worst = np.exp(np.log(values).mean()), items[int(values.argmax())]["model"]
            lines.append(
                f"- {threads} thread{'s' * (threads > 1)}, {name}: geometric mean {mean:.2f}, "
                f"worst {values.max():.2f} ({worst})"
            )
    return "\n".join(lines) + "\n"


def notes(found: list[dict[str, Any]]) -> str:
    lines = {f"- {item['model']}: {label}: {why}" for item in found for label, why in item["refused"].items()}
    return "".join(f"{line}\n" for line in sorted(lines)) + "\n"


if __name__ == "__main__":
    main()
