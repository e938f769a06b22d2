"""Whether counted instructions order kernels as measured times do: on this machine, where both can be had.

    apt install qemu-user gcc
    python benchmarks/estimate_order.py

The kernels of the real models, compiled for AVX2 in float32, int8 and 7 bits, are timed on this processor and counted
in the emulator of an x86 processor, as Arm's are counted where there is no board.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import tvm
from common import arguments, integer_forms, load_bundle, markdown, provenance, write_table
from scipy.stats import spearmanr

from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.data import make_samples
from hago.device.counting import Counter, Machine
from hago.lower import lower
from hago.measure.latency import measure_latency
from hago.model import load_model
from hago.runners import TvmRunner
from hago.spec import load_spec
from hago.tuning.calibrating import calibrate_model

SPEC = "x86-avx2"
CALIBRATION = 16
CLEAR = 1.1  # of a pair the slower one takes this many times the faster one's time, at least


@dataclass(frozen=True)
class Row:
    """One kernel, or a whole network (``family`` "network")."""

    model: str
    precision: str
    layer: str
    family: str
    seconds: float
    instructions: int


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/estimate_order.md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, Counter(SPEC, machine=x86_machine()) as counter:
        cache = KernelCache(Path(place) / "kernels")
        rows = [row for name in options.only for row in measure(name, options.models, counter, cache, Path(place))]
    write_table(options.out, text(rows), [asdict(row) for row in rows])
    print(options.out.read_text())


def x86_machine() -> Machine:
    """This Python under QEMU's emulation of an x86 processor."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        sys.exit("no qemu-x86_64: apt install qemu-user")
    packages = Path(tvm.__file__).resolve().parent.parent
    environment = {
        "QEMU_CPU": "max", "TVM_USE_RUNTIME_LIB": "1", "TVM_NUM_THREADS": "1", "PYTHONPATH": str(packages),
        "PYTHONHASHSEED": "0", "QEMU_RAND_SEED": "0",
    }  # fmt: skip
    return Machine(emulator, os.path.realpath(sys.executable), environment, getppid=110)


def measure(name: str, models: Path, counter: Counter, cache: KernelCache, place: Path) -> list[Row]:
    """Every kernel of one model in every precision, and the whole networks."""
    bundle, spec = load_bundle(models, name), load_spec(SPEC)
    model = load_model(bundle["model"])
    samples = make_samples(bundle["calib"][0:CALIBRATION], model.inputs)
    calibration = calibrate_model(model, samples, spec, cache=cache)
    networks = {
        precision: build(lower(proto, spec), spec, threads=1, cache=cache)
        for precision, proto in {"float32": model.proto, **integer_forms(model, calibration, spec)}.items()
    }
    runners = [TvmRunner(net, name=precision) for precision, net in networks.items()]
    times = measure_latency(runners, samples.batch(0, 1), rounds=30)
    rows = []
    for precision, net in networks.items():
        assert net._built is not None
        library = place / "net.so"
        net.save(library)
        uses = net._built.uses()
        counts = counter.count_kernels(library, [(use.symbol, use.tensors) for use in uses])
        for use, count, (_, _, seconds) in zip(uses, counts, net.kernel_times(), strict=True):
            rows.append(Row(name, precision, use.layer or "", use.family, seconds, count.total))
        total = counter.count(library).total
        rows.append(Row(name, precision, "", "network", times[precision].median_s, total))
        print(name, precision, f"{1e3 * times[precision].median_s:.3f} ms, {total / 1e6:.2f} M", flush=True)
    return rows


def ordered(rows: Sequence[Row]) -> tuple[int, int]:
    """Of the pairs that differ clearly in time: how many the counts order as the times do, and how many there are."""
    pairs = [(a, b) for a, b in combinations(rows, 2) if max(a.seconds, b.seconds) > CLEAR * min(a.seconds, b.seconds)]
    right = sum((a.seconds < b.seconds) == (a.instructions < b.instructions) for a, b in pairs)
    return right, len(pairs)


def alternatives(rows: Sequence[Row]) -> list[list[Row]]:
    """Kernels of the same layer in different precisions: what a search chooses between."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.layer and row.family != "network":
            groups.setdefault((row.model, row.layer), []).append(row)
    found = []
    for group in groups.values():
        sums: dict[str, Row] = {}
        for row in group:
            old = sums.get(row.precision)
            more = (row.seconds + (old.seconds if old else 0), row.instructions + (old.instructions if old else 0))
            sums[row.precision] = Row(row.model, row.precision, row.layer, "layer", *more)
        found.append(list(sums.values()))
    return found


def text(rows: Sequence[Row]) -> str:
    kernels = [row for row in rows if row.family != "network"]
    networks = [row for row in rows if row.family == "network"]
    rank = spearmanr([row.seconds for row in kernels], [row.instructions for row in kernels]).statistic
    layers = [ordered(group) for group in alternatives(kernels)]
    same = sum(right for right, _ in layers), sum(count for _, count in layers)
    nets = [
        ordered([row for row in networks if row.model == name]) for name in dict.fromkeys(r.model for r in networks)
    ]
    whole = sum(right for right, _ in nets), sum(count for _, count in nets)
    lines = []
    for name in dict.fromkeys(row.model for row in rows):
        mine = {row.precision: row for row in networks if row.model == name}
        plain = mine["float32"]
        for precision, row in mine.items():
            if precision != "float32":
                ratios = row.seconds / plain.seconds, row.instructions / plain.instructions
                lines.append([name, precision, *(f"{ratio:.2f}" for ratio in ratios)])
    every = ordered(kernels)
    return f"""# Do instructions order kernels as times do?

The kernels of the real models for AVX2, timed on this processor and counted under QEMU's emulation of an x86 one, as
kernels for Arm are counted where there is no board. Pairs count where the slower one takes at least
{100 * (CLEAR - 1):.0f} % longer.

- {len(kernels)} kernels: rank correlation of times and instructions (Spearman) {rank:.3f}; of {every[1]:,} pairs
  {100 * every[0] / max(every[1], 1):.1f} % are ordered rightly.
- The same layer in another precision, which is what a search chooses between: {same[0]} of {same[1]} pairs
  ({100 * same[0] / max(same[1], 1):.1f} %) are ordered rightly.
- Whole networks in another precision: {whole[0]} of {whole[1]} pairs.

What counts do not tell is how much: instructions that start together, and memory, are not in them.

{markdown(["model", "precision", "time / float32", "instructions / float32"], lines)}
{provenance(1)}
"""


if __name__ == "__main__":
    main()
