"""AArch64 code, run in an emulator, against this machine: the same integers, bit for bit.

    python scripts/aarch64_sysroot.py --install     # once
    python benchmarks/aarch64.py

Every real model in int8 (and, where the spec has it, 7 bits), compiled for each Arm spec, sent to an RPC server that
runs under QEMU, and for this machine; the same samples through both.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import CLASSIFIERS, arguments, load_bundle, markdown, provenance, write_table

from hago.calibrating import calibrate_model
from hago.compiler.build import build, cross_build
from hago.compiler.cache import KernelCache
from hago.data import make_samples
from hago.device.config import Device
from hago.device.emulated import emulated_server, processor_of
from hago.device.remote import connect
from hago.lower import lower
from hago.model import load_model
from hago.qdq import Quantizer
from hago.spec import load_spec, resolve_hw
from hago.strategy import uniform

SPECS = ("arm-cortex-a72", "arm-cortex-a76", "arm-neoverse-v1")
MODELS = (*CLASSIFIERS, "ad_toycar_ae")
CALIBRATION = 32


@dataclass(frozen=True)
class Row:
    """One model on one emulated machine."""

    model: str
    spec: str
    precision: str
    samples: int
    values: int
    differing: int
    same_class: float | None
    seconds: float


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/aarch64.md"))
    parser.set_defaults(only=list(MODELS))
    parser.add_argument("--samples", type=int, default=20, help="per model (default: %(default)s)")
    parser.add_argument("--specs", nargs="*", default=list(SPECS))
    parser.add_argument("--cache", type=Path, help="kernel cache (default: a new, empty one)")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        cache = KernelCache(options.cache or Path(place) / "kernels")
        for name in options.specs:
            with emulated_server(name) as address:
                device = Device(name, name, rpc=address, timeout_s=300)
                for model in options.only:
                    for row in compare(model, device, cache, Path(place), options):
                        rows.append(row)
                        print(" ".join(cells(row)), f"{row.seconds:.1f} s", flush=True)
    write_table(options.out, _text(rows), [asdict(row) for row in rows])


def compare(name: str, device: Device, cache: KernelCache, place: Path, options: Any) -> list[Row]:
    """One model at each integer precision of the device's spec."""
    bundle = load_bundle(options.models, name)
    model, host, spec = load_model(bundle["model"]), resolve_hw("auto"), load_spec(device.spec)
    samples = make_samples(bundle["calib"][0:CALIBRATION], model.inputs)
    calibration = calibrate_model(model, samples, host, threads=options.threads, cache=cache)
    quantizer = Quantizer(model, calibration, spec)
    entry = model.inputs[0].name
    offered = dict.fromkeys(choice.precision for choice in spec.choices("conv"))
    found = []
    for precision in (kind for kind in offered if kind.startswith("int")):
        started = time.perf_counter()
        qdq = quantizer.qdq(uniform(model, spec, precision))
        here = build(lower(qdq, host), host, threads=1, cache=cache)
        there = cross_build(lower(qdq, spec), spec, threads=1, cache=cache)
        path = place / f"{name}-{precision}-{device.spec}.so"
        there.save(path)
        count = min(options.samples, len(bundle["x"]))
        feeds = [{entry: bundle["x"][i : i + 1]} for i in range(count)]
        with connect(device) as session:
            net = session.load(path, there.meta)
            theirs = np.concatenate([net.run(feed)[0] for feed in feeds])
        ours = np.concatenate([here.run(feed)[0] for feed in feeds])
        classes = float((ours.argmax(-1) == theirs.argmax(-1)).mean()) if name in CLASSIFIERS else None
        seconds = time.perf_counter() - started
        differing = int((ours != theirs).sum())
        found.append(Row(name, device.spec, precision, count, ours.size, differing, classes, seconds))
    return found


def cells(row: Row) -> list[str]:
    same = "-" if row.same_class is None else f"{100 * row.same_class:.1f}"
    return [row.model, row.spec, row.precision, str(row.samples), f"{row.values:,}", str(row.differing), same]


_HEAD = ["model", "compiled for", "precision", "samples", "outputs", "differing", "same class %"]


def _text(rows: list[Row]) -> str:
    wrong = [row for row in rows if row.differing]
    machines = ", ".join(f"{spec} on QEMU's {processor_of(spec)}" for spec in dict.fromkeys(row.spec for row in rows))
    text = f"""# AArch64 against this machine

Each network compiled for an Arm spec and run under QEMU's user emulation ({machines}), reached over TVM's RPC, and
compiled for this machine: *differing* counts output values that are not equal, bit for bit. The emulated processor
ends the program at an instruction that it does not have.

- {len(rows) - len(wrong)} of {len(rows)} networks give exactly this machine's outputs.

"""
    return text + markdown(_HEAD, [cells(row) for row in rows]) + "\n" + provenance(1) + "\n"


if __name__ == "__main__":
    main()
