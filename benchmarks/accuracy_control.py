"""NNCF's accuracy control (with OpenVINO) and Hago on the same samples and the same bound.

    python benchmarks/accuracy_control.py

Both calibrate on the calibration part, both choose on the search part, and both are scored on the test
part; the bound is half a point. Needs hago[peers,nncf].
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, load_bundle, markdown, provenance, write_table

import hago
from hago.data import Samples, make_samples, split_samples
from hago.measure.accuracy import measure_accuracy
from hago.measure.latency import measure_latency
from hago.measure.metrics import get_metric
from hago.model import load_model
from hago.runners import Runner, TvmRunner
from hago.search import PlainProgress, Status
from hago.tensor import TensorInfo

MODELS = ("cifar10_resnet20", "vww_mobilenetv1_025", "kws_kwt1", "tin200_mobilenetv2")


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/accuracy_control.md"))
    parser.set_defaults(only=list(MODELS))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--max-drop", type=float, default=0.005)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = []
    for name in options.only:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found.append(one(name, options, Path(folder)))
        print(row(found[-1]), flush=True)
    head = [
        "model", "float top-1 %", "NNCF top-1 %", "Hago top-1 %", "NNCF ms", "Hago ms", "Hago / NNCF",
        "NNCF s", "Hago first within s", "first / NNCF", "Hago whole search s",
    ]  # fmt: skip
    text = "# Beside NNCF's accuracy control\n\n" + _INTRODUCTION.format(drop=100 * options.max_drop)
    text += markdown(head, [row(item) for item in found]) + "\n" + provenance(options.threads) + "\n"
    write_table(options.out, text, found)


_INTRODUCTION = """
`nncf.quantize_with_accuracy_control` (OpenVINO) and `hago.tune`, the same calibration and search samples, a bound of
{drop:g} points. Top-1 on the test samples, which neither saw; latency at batch 1, both results interleaved in one
process, medians. Hago starts from an empty kernel cache; *first within* is when it first had measured a strategy that
is faster than float32 and within the bound on the search samples, NNCF's own criterion, compilation included. (Hago
goes on until the drop to be *expected* on other samples keeps the bound too.)

"""


def one(name: str, options: Any, folder: Path) -> dict[str, Any]:
    bundle = load_bundle(options.models, name)
    model = load_model(bundle["model"])
    samples = make_samples((bundle["x"], bundle["y"]), model.inputs)
    calibration = make_samples(bundle["calib"], model.inputs)
    parts = split_samples(samples, calibration, seed=options.seed)
    started = time.perf_counter()
    theirs = controlled(bundle["model"], parts.calibration, parts.search, options)
    nncf_s = time.perf_counter() - started
    first = FirstWithin(options.max_drop)
    result = hago.tune(
        bundle["model"],
        data=(bundle["x"], bundle["y"]),
        calibration=bundle["calib"],
        max_drop=options.max_drop,
        trials=options.trials,
        seed=options.seed,
        threads=options.threads,
        out=folder / "out",
        cache=folder / "cache",
        progress=first,
    )
    runners: list[Runner] = [
        CompiledOpenVino(theirs, model.inputs, options.threads),
        TvmRunner(hago.load(folder / "out" / "model.so"), name="Hago"),
    ]
    times = measure_latency(runners, parts.test.batch(0, 1), rounds=options.rounds)
    metric = get_metric("top1")
    return {
        "model": name,
        "float_top1": result.float.accuracy,
        "nncf_top1": measure_accuracy(runners[0], parts.test, metric).value,
        "hago_top1": result.best.accuracy,
        "nncf_ms": times["NNCF"].median_s * 1e3,
        "hago_ms": times["Hago"].median_s * 1e3,
        "nncf_s": nncf_s,
        "first_within_s": first.elapsed_s,
        "first_likely_within_s": result.search.first_within_s,
        "search_s": result.search.seconds,
        "trials": result.search.trials,
        "summary": result.summary(),
    }


class FirstWithin(PlainProgress):
    """Notes when a strategy faster than float32 kept the bound on the validation samples: NNCF's own criterion."""

    def __init__(self, max_drop: float) -> None:
        super().__init__()
        self._max_drop = max_drop
        self.elapsed_s: float | None = None

    def trial(self, status: Status) -> None:
        last = status.last
        if self.elapsed_s is None and last is not None and last.state == "ok" and last.accuracy_change is not None:
            faster = last.latency_ratio is not None and last.latency_ratio < 1
            if faster and last.accuracy_change >= -self._max_drop - 1e-9:
                self.elapsed_s = status.elapsed_s
        super().trial(status)


class CompiledOpenVino:
    """NNCF's result as a runner, told to compute as `OpenVinoRunner` does."""

    name = "NNCF"

    def __init__(self, model: Any, inputs: tuple[TensorInfo, ...], threads: int) -> None:
        import openvino

        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        self.threads, self.inputs = threads, inputs
        self._request = openvino.Core().compile_model(model, "CPU", hints).create_infer_request()

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found = self._request.infer([feeds[info.name] for info in self.inputs], share_inputs=True)
        return [np.array(array) for array in found.values()]

    def close(self) -> None:
        del self._request


def controlled(path: str, calibration: Samples, search: Samples, options: Any) -> Any:
    """NNCF's answer, an OpenVINO model."""
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": options.threads, "INFERENCE_PRECISION_HINT": "f32"})
    model = core.read_model(path)
    name = model.inputs[0].get_any_name()
    shape = [1, *next(iter(search.batch(0, 1).values())).shape[1:]]
    model.reshape({name: shape})

    def rows(part: Samples) -> list[tuple[np.ndarray, Any]]:
        labels = part.labels
        return [
            (next(iter(part.batch(i, i + 1).values())), None if labels is None else labels[i]) for i in range(len(part))
        ]

    def validate(compiled: Any, items: Any) -> tuple[float, list[float]]:
        scores = [float(next(iter(compiled(x).values())).argmax() == y) for x, y in items]
        return float(np.mean(scores)), scores

    return nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(rows(calibration), lambda item: item[0]),
        nncf.Dataset(rows(search)),
        validate,
        max_drop=options.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
    )


def row(item: dict[str, Any]) -> list[str]:
    first = item["first_within_s"]
    return [
        item["model"],
        *(f"{100 * item[key]:.1f}" for key in ("float_top1", "nncf_top1", "hago_top1")),
        f"{item['nncf_ms']:.3f}",
        f"{item['hago_ms']:.3f}",
        f"{item['hago_ms'] / item['nncf_ms']:.2f}",
        f"{item['nncf_s']:.1f}",
        "-" if first is None else f"{first:.1f}",
        "-" if first is None else f"{first / item['nncf_s']:.2f}",
        f"{item['search_s']:.1f}",
    ]


if __name__ == "__main__":
    main()
