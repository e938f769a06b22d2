"""Instructions that the real models execute on Arm processors: int8 and 7 bits against float32, counted.

    python scripts/aarch64_sysroot.py --install     # once; and apt install qemu-user gcc
    python benchmarks/instructions.py

An estimate, not a time: see hago/device/counting.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from common import (
    ARM_SPECS,
    EVERY_MODEL,
    arguments,
    integer_forms,
    load_bundle,
    markdown,
    provenance,
    write_table,
)

from hago.compiler.build import cross_build
from hago.compiler.cache import KernelCache
from hago.data import make_samples
from hago.device.counting import Counter, InstructionCount
from hago.lower import lower
from hago.model import load_model
from hago.spec import load_spec, resolve_hw
from hago.tuning.calibrating import calibrate_model

CALIBRATION = 16  # ranges change no instruction
CLASSES = ("dot", "multiply", "fused", "vector", "load", "store", "branch", "scalar")


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/instructions.md"))
    parser.set_defaults(only=list(EVERY_MODEL))
    parser.add_argument("--specs", nargs="*", default=list(ARM_SPECS))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place, ExitStack() as open_counters:
        cache = KernelCache(Path(place) / "kernels")
        counters = {hw: open_counters.enter_context(Counter(hw)) for hw in options.specs}
        for name in options.only:
            for row in count_model(name, options, cache, Path(place), counters):
                rows.append(row)
                print(" ".join(cells(row)), flush=True)
    write_table(options.out, _text(rows), rows)


def count_model(
    name: str, options: Any, cache: KernelCache, place: Path, counters: Mapping[str, Counter]
) -> list[dict[str, Any]]:
    bundle = load_bundle(options.models, name)
    model, host = load_model(bundle["model"]), resolve_hw("auto")
    samples = make_samples(bundle["calib"][0:CALIBRATION], model.inputs)
    calibration = calibrate_model(model, samples, host, cache=cache)
    macs = sum(layer.macs for layer in model.layers)
    rows = []
    for hw, counter in counters.items():
        spec = load_spec(hw)
        library = place / "model.so"
        protos = {"float32": model.proto, **integer_forms(model, calibration, spec)}
        counts: dict[str, InstructionCount] = {}
        for precision, proto in protos.items():
            cross_build(lower(proto, spec), spec, threads=1, cache=cache).save(library)
            counts[precision] = counter.count(library)
        for precision, count in counts.items():
            rows.append(
                {
                    "model": name, "hw": hw, "precision": precision, "macs": macs, "estimated": True,
                    "instructions": count.total, "by_class": dict(count.by_class),
                    "float_over_this": counts["float32"].total / count.total,
                }
            )  # fmt: skip
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    millions = [f"{row['by_class'].get(name, 0) / 1e6:.2f}" for name in CLASSES]
    total = f"{row['instructions'] / 1e6:.2f}"
    ratio = f"{row['float_over_this']:.2f}"
    per = f"{row['macs'] / row['instructions']:.2f}"
    return [row["model"], row["hw"], row["precision"], total, ratio, per, *millions]


_HEAD = ["model", "compiled for", "precision", "instructions M", "float32 / this", "multiply-adds each", *CLASSES]
_INTRODUCTION = """# Instructions on Arm processors

**Estimated**: instructions that one call executes at batch 1 on one thread, in millions, counted in the emulator,
all of them, runtime included. *float32 / this*: how many times more float32 executes. A count is no time: it knows no
caches, no latencies, and not which instructions a processor starts together.

HAGO (Jiang et al. 2021) reports 2.48 times over float32 for int8 on a Raspberry Pi 4 (Cortex-A72): measured there, on
other models, against TVM's float32 of that time. What is counted here is something else, against this project's own
float32 kernels, and stands beside it for orientation alone.

"""


def _text(rows: list[dict[str, Any]]) -> str:
    lines = []
    for key in dict.fromkeys((row["hw"], row["precision"]) for row in rows if row["precision"] != "float32"):
        ratios = [row["float_over_this"] for row in rows if (row["hw"], row["precision"]) == key]
        mean = geometric_mean(ratios)
        lines.append(f"- {key[0]}, {key[1]}: geometric mean {mean:.2f}, {min(ratios):.2f} to {max(ratios):.2f}")
    text = _INTRODUCTION + "\n".join(lines) + "\n\n"
    return text + markdown(_HEAD, [cells(row) for row in rows]) + "\n" + provenance(1) + "\n"


if __name__ == "__main__":
    main()
