"""Tables of what was measured on GPUs: networks beside other engines, and kernels against their floor."""

from __future__ import annotations

from collections.abc import Sequence

from ..text import NOTHING, duration, significant
from .gpu_results import GpuKernel, GpuNetwork, GpuResults
from .tables import Name, Table

PUBLISHED = (
    "Published by others, not measured here: HAGO, int8 1.97 times as fast as float32 on a T4 (arXiv 2103.14949); "
    "HAWQ-V3, ResNet-50 on a T4 at batch 8, 26.2 ms in float32 and 8.5 ms in int8 (arXiv 2011.10680)."
)
_OWN = ("float32", "float16", "int8", "mixed")
_SLOWEST = 12


def times_table(results: GpuResults, models: Sequence[str]) -> Table:
    """A row for each model and batch: milliseconds of one call in each engine and precision."""
    own = [f"hago {precision}" for precision in _OWN]
    rows = [(model, batch) for model in models for batch in results.batches(model)]
    others = dict.fromkeys(name for row in rows for name in results.times[row] if name not in own)
    columns = [*own, *others]
    cells = [
        (Name(model), str(batch), *(_milliseconds(results, model, batch, name) for name in columns))
        for model, batch in rows
    ]
    return Table.of(("model", "batch", *(f"{name}, ms" for name in columns)), cells, range(1, 2 + len(columns)))


def exactness_table(results: GpuResults, models: Sequence[str]) -> Table:
    """A row for each model: at which batches each precision gave the outputs expected."""
    rows = []
    for model in models:
        mine = [network for network in results.networks if network.model == model]
        rows.append((Name(model), *(_right([n for n in mine if n.precision == p]) for p in _OWN)))
    return Table.of(("outputs as expected", *_OWN), rows)


def kernels_table(results: GpuResults, models: Sequence[str]) -> Table:
    """The kernels that lose most against the least time for their bytes and operations."""
    found = [(kernel, network) for network in results.networks if network.model in models for kernel in network.kernels]
    found.sort(key=lambda one: one[0].floor_s - one[0].seconds)
    rows = [_kernel_row(kernel, network) for kernel, network in found[:_SLOWEST]]
    header = ("network", "layer", "kernel", "time", "floor", "time / floor", "bound by")
    return Table.of(header, rows, (3, 4, 5))


def _kernel_row(kernel: GpuKernel, network: GpuNetwork) -> tuple[str, ...]:
    ratio = significant(kernel.seconds / kernel.floor_s) if kernel.floor_s else NOTHING
    times = duration(kernel.seconds), duration(kernel.floor_s or None)
    return Name(network.name), Name(kernel.layer), kernel.family, *times, ratio, kernel.bound


def _milliseconds(results: GpuResults, model: str, batch: int, name: str) -> str:
    time = results.times[model, batch].get(name)
    return NOTHING if time is None else significant(1e3 * time.median_s)


def _right(networks: Sequence[GpuNetwork]) -> str:
    right = [str(network.batch) for network in networks if network.right]
    wrong = [str(network.batch) for network in networks if network.right is False]
    told = [f"batch {', '.join(right)}"] if right else []
    return "; ".join([*told, *([f"WRONG at batch {', '.join(wrong)}"] if wrong else [])]) or NOTHING
