"""Reports to tell: made-up outcomes of searches, with numbers like those of real ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from hago.data import SplitRecord
from hago.goal import Goal
from hago.measure.environment import Environment
from hago.record import Record
from hago.report import BlockerRow, LayerRow, MetricInfo, ReportData, SearchFacts
from hago.scheme import PER_CHANNEL
from hago.search import pareto_front
from hago.strategy import Choice, Strategy
from hago.tensor import TensorInfo

MINMAX = (("calibrator", "minmax"),)
CREATED = "2026-03-01T12:00:00+00:00"
TOP1 = MetricInfo("top-1", "share")
ENVIRONMENT = Environment(
    cpu="AMD EPYC (family 25, model 17)",
    architecture="x86_64",
    cores=2,
    cpus=(0, 1),
    features=("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16"),
    caches={"L1d": 32768, "L2": 1048576, "L3": 33554432},
    governor=None,
    load=0.42,
    system="Linux 6.1.0",
    python="3.11.2",
    llvm="22",
    packages={"apache-tvm": "0.27.0", "numpy": "2.3.1", "onnx": "1.23.0", "optuna": "5.0.0"},
    threads=1,
)
SPLIT = SplitRecord(
    seed=0,
    sizes={"calibration": 128, "search": 452, "test": 452},
    hashes={"calibration": "a" * 64, "search": "b" * 64, "test": "c" * 64},
    fractions=None,
    given=(),
    stratified=True,
    duplicates=0,
)


def strategy(layers: tuple[LayerRow, ...]) -> Strategy:
    """The strategy that these rows tell."""
    chosen = {row.name: Choice(row.precision, PER_CHANNEL) for row in layers if row.is_quantized}
    return Strategy("f" * 64, "x86-avx512-vnni", chosen)


def record(number: int, label: str, ratio: float | None, change: float | None, **more: Any) -> Record:
    """A record of a network that takes 0.553 ms in float32 and is right on 91.3 %."""
    values: dict[str, Any] = {
        "metric": "top1", "n_samples": 452, "threads": 1, "created": CREATED, "trial_s": 1.4, "build_s": 0.08,
        "size_bytes": 283_000 if number >= 0 else 1_090_000,
    }  # fmt: skip
    if ratio is not None:
        values["latency_ratio"] = ratio
        values["latency_ratio_interval"] = (ratio * 0.99, ratio * 1.015)
        values["latency_s"] = 0.553e-3 * ratio
        values["latency_interval"] = (0.548e-3 * ratio, 0.561e-3 * ratio)
    if change is not None:
        values["accuracy"] = 0.913 + change
        values["accuracy_interval"] = (0.885 + change, 0.936 + change)
        values["accuracy_change"] = change
        values["accuracy_change_interval"] = (change - 0.006, change + 0.006)
        values["p_value"] = 0.75
    return Record(id=number, label=label, **{**values, **more})


def float_record(**more: Any) -> Record:
    """float32: nothing to be compared with."""
    found = record(-1, "float32", 1.0, 0.0, **more)
    return replace(
        found, latency_ratio_interval=(1.0, 1.0), accuracy_change=None, accuracy_change_interval=None, p_value=None
    )


def resnet_layers(blocks: int = 3, stages: int = 3, seed: int = 0) -> tuple[LayerRow, ...]:
    """A residual network for 32x32 images, quantized but for its first convolution and its classifier."""
    random = np.random.default_rng(seed)
    rows = [_conv("conv1", 3, 16, 32, random, "float32")]
    for stage in range(stages):
        channels, side = 16 << stage, 32 >> stage
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}"
            if block == 0 and stage:
                rows.append(_other(f"{prefix}.pad", "shape", "Pad", channels, side, random))
            rows.append(_conv(f"{prefix}.conv1", channels, channels, side, random))
            rows.append(_conv(f"{prefix}.conv2", channels, channels, side, random))
            rows.append(_other(f"{prefix}.add", "add", "Add", channels, side, random))
    rows.append(_other("pool", "global_avg_pool", "GlobalAveragePool", channels, side, random))
    classifier = LayerRow(
        "fc", "fully_connected", "Gemm", ((1, channels),), (1, 10), channels * 10, channels * 10 + 10,
        sensitivity=2.1e-4, group=("fc",), float_s=0.6e-6, chosen_s=0.6e-6, quantized_s=0.9e-6,
    )  # fmt: skip
    softmax = LayerRow(
        "softmax", "float", "Softmax", ((1, 10),), (1, 10), float_s=0.4e-6, chosen_s=0.4e-6, quantizable=False,
        reason="Softmax runs in float",
    )  # fmt: skip
    return (*rows, classifier, softmax)


def _conv(
    name: str, inputs: int, outputs: int, side: int, random: np.random.Generator, precision: str = "int8"
) -> LayerRow:
    macs = inputs * outputs * 9 * side * side
    floats = 1.5e-6 + macs * 1.25e-11 * random.uniform(0.85, 1.2)
    quantized = 0.9e-6 + floats * random.uniform(0.24, 0.36)
    ranges = "percentile" if random.random() < 0.6 else "entropy"
    knobs = (("granularity", "per_channel"), ("calibrator", ranges)) if precision == "int8" else ()
    return LayerRow(
        name, "conv", "Conv", ((1, inputs, side, side),), (1, outputs, side, side), macs,
        inputs * outputs * 9 + outputs, precision, knobs,
        sensitivity=float(random.lognormal(-8.5, 0.9)), group=(name,), float_s=floats,
        chosen_s=quantized if precision == "int8" else floats, quantized_s=quantized,
    )  # fmt: skip


def _other(name: str, kind: str, op: str, channels: int, side: int, random: np.random.Generator) -> LayerRow:
    shapes = ((1, channels, side, side),) * (2 if op == "Add" else 1)
    output = (1, channels, 1, 1) if op == "GlobalAveragePool" else (1, channels, side, side)
    if kind == "shape":
        reason = "it only moves data: it works in the type of the layers around it"
        return LayerRow(name, kind, op, shapes, output, float_s=2e-6, chosen_s=1e-6, quantizable=False, reason=reason)
    if kind == "add":
        return LayerRow(
            name, kind, op, shapes, output, precision="int8", knobs=MINMAX, float_s=0.0, chosen_s=0.0,
            sensitivity=float(random.lognormal(-9.5, 0.5)), group=(name,), quantized_s=0.0,
        )  # fmt: skip
    return LayerRow(
        name, kind, op, shapes, output, precision="int8", knobs=MINMAX, float_s=0.8e-6, chosen_s=1.3e-6,
        sensitivity=3e-5, group=(name,), quantized_s=1.3e-6,
    )  # fmt: skip


def trials(count: int, seed: int = 1, best: float = 0.345) -> tuple[Record, ...]:
    """Trials as a search makes them: uniform ones, then mixed ones, some stopped early, one failed."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        ratio = best * random.uniform(0.97, 1.0) if number == 0 else best + random.gamma(1.6, 0.09)
        change = -0.0015 - abs(random.normal(0, 0.012)) * (1.2 - min(ratio, 1.0)) + random.normal(0, 0.002)
        change = round(change * 452) / 452
        label = "int8/per_channel everywhere, minmax" if number == 0 else f"trial {number}"
        more: dict[str, Any] = {"strategy": strategy(resnet_layers(seed=number))}
        if number % 11 == 7:
            more |= {"state": "pruned", "reason": "hopeless after 96 of 452 samples", "n_samples": 96}
            change -= 0.05
        found.append(record(number, label, ratio, change, **more))
    if count > 4:
        found[4] = record(
            4, "trial 4", None, None, state="failed", strategy=more["strategy"],
            reason="layer2.0.conv1: the kernel needs 33 registers, the hardware has 32",
        )  # fmt: skip
    return tuple(found)


def pareto(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """float32 and what no other beats, the fastest first."""
    points = [r for r in records if r.state == "ok" and r.latency_ratio is not None]
    front: list[Record] = []
    for point in sorted([*points, float_record()], key=lambda r: r.latency_ratio or 0.0):
        if not front or (point.accuracy_change or 0.0) > (front[-1].accuracy_change or 0.0):
            front.append(point)
    return tuple(front)


def report(**more: Any) -> ReportData:
    """A search that found what it was asked for: 2.9 times faster, 0.2 points lost."""
    layers = more.pop("layers", None) or resnet_layers()
    chosen = record(12, "trial 12", 0.345, -0.0035, strategy=strategy(layers))
    records = more.pop("records", None)
    if records is None:
        records = tuple(chosen if r.id == 12 else r for r in trials(38))
    values: dict[str, Any] = {
        "model_name": "resnet20", "model_source": "resnet20.onnx", "model_hash": "f" * 64,
        "hw_name": "x86-avx512-vnni", "hw_description": "x86-64 servers with AVX-512 and VNNI",
        "metric": TOP1, "goal": Goal(0.01), "outcome": "met", "float_search": float_record(),
        "chosen_search": chosen, "records": records, "front": pareto(records), "layers": layers, "split": SPLIT,
        "environment": ENVIRONMENT,
        "search": SearchFacts("tpe", 0, 58.3, "the front stood still for 15 trials", first_within_s=3.2),
        "float_test": float_record(part="test"),
        "chosen_test": record(12, "trial 12", 0.345, -0.002, part="test", strategy=strategy(layers)),
        "inputs": (TensorInfo("input", "float32", (1, 3, 32, 32)),),
        "float_other_s": 3e-6, "chosen_other_s": 9e-6, "rounds": 100,
    }  # fmt: skip
    return ReportData(**{**values, **more})


def floats(layers: tuple[LayerRow, ...]) -> tuple[LayerRow, ...]:
    """The same layers, all left in float32."""
    return tuple(replace(row, precision="float32", knobs=(), chosen_s=row.float_s) for row in layers)


def measured_again(**more: Any) -> ReportData:
    """The usual search, its best strategies timed once more, when the machine was faster."""
    found = report()
    faster = {r.id: replace(r, latency_s=0.9 * r.latency_s) for r in found.records if r.latency_s and r.id % 3 == 0}
    records = tuple(faster.get(r.id, r) for r in found.records)
    return report(**{"records": records, "front": pareto(records), "chosen_search": faster[12], **more})


def sized(found: Record) -> Record:
    """A record whose constants are the smaller the faster it is."""
    return (
        found if found.latency_ratio is None else replace(found, size_bytes=round(1.09e6 * found.latency_ratio * 0.75))
    )


def other_goal(goal: Goal, best: Record, **more: Any) -> ReportData:
    """The usual search with another goal, whose answer is ``best``."""
    layers = resnet_layers()
    best = replace(sized(best), strategy=strategy(layers))
    records = tuple(best if r.id == best.id else sized(r) for r in trials(38))
    values: dict[str, Any] = {
        "goal": goal, "records": records, "chosen_search": best, "chosen_test": replace(best, part="test"),
        "front": pareto_front([float_record(), *records], goal),
        "search": SearchFacts("tpe", 0, 58.3, "the front reached a plateau", objectives=goal.objectives),
    }  # fmt: skip
    return report(**{**values, **more})


def fast_enough(**more: Any) -> ReportData:
    """The most accurate of at most 0.2 ms."""
    goal = Goal(math.inf, max_latency_s=0.2e-3, scale=0.913)
    return other_goal(goal, record(12, "trial 12", 0.352, -0.002), **more)


def small_enough(**more: Any) -> ReportData:
    """The fastest within one point and 300 kB."""
    return other_goal(Goal(0.01, max_size=300_000), record(12, "trial 12", 0.345, -0.0035), **more)


def smallest(**more: Any) -> ReportData:
    """The smallest within one point."""
    return other_goal(Goal(0.01, objectives=("size", "accuracy")), record(12, "trial 12", 0.341, -0.005), **more)


GOALS: dict[str, Callable[..., ReportData]] = {
    "the fastest": report, "measured again": measured_again, "the most accurate of 0.2 ms": fast_enough,
    "the fastest of 300 kB": small_enough, "the smallest": smallest,
}  # fmt: skip


def not_faster(**more: Any) -> ReportData:
    """A small network on which integers gain nothing."""
    rows = resnet_layers(1, 3)
    rows = tuple(
        replace(r, quantized_s=None if r.quantized_s is None else (r.float_s or 0.0) * 1.08 + 2e-7) for r in rows
    )
    tried = tuple(
        record(n, f"trial {n}", 1.08 + n / 40, -0.001 * n, strategy=strategy(resnet_layers(1))) for n in range(6)
    )
    values: dict[str, Any] = {
        "model_name": "autoencoder", "outcome": "not faster", "layers": floats(rows), "records": tried,
        "front": (float_record(),), "chosen_search": float_record(), "chosen_test": float_record(part="test"),
        "blockers": (BlockerRow(("conv1",), "latency", 0.4), BlockerRow(("fc", "add"), "latency", 0.2)),
    }  # fmt: skip
    return report(**{**values, **more})


def not_met(**more: Any) -> ReportData:
    """A network that int8 breaks."""
    layers = resnet_layers(seed=3)
    tried = tuple(
        record(n, f"trial {n}", 0.4 + n / 60, -0.03 - 0.002 * n, strategy=strategy(layers)) for n in range(20)
    )
    best = record(20, "integer programme 3", 0.61, -0.024, strategy=strategy(layers))
    values: dict[str, Any] = {
        "outcome": "not met", "layers": layers, "records": (*tried, best),
        "front": pareto((*tried, best)), "chosen_search": best,
        "chosen_test": record(20, best.label, 0.61, -0.026, part="test", strategy=strategy(layers)),
        "blockers": (
            BlockerRow(("layer1.0.conv1",), "accuracy", 0.61), BlockerRow(("fc", "pool"), "accuracy", 0.204),
        ),
    }  # fmt: skip
    return report(**{**values, **more})
