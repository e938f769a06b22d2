"""AArch64 code, run in an emulator, against this machine: the same integers, bit for bit.

    python scripts/aarch64_sysroot.py --install     # once
    python benchmarks/aarch64.py

Every real model in every precision that an Arm spec offers, compiled for it and sent to an RPC server that runs under
QEMU: every node against the numpy reference, whole networks against those compiled for this machine, and accuracy over
RPC against this machine's.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import (
    ARM_SPECS,
    CLASSIFIERS,
    EVERY_MODEL,
    arguments,
    integer_forms,
    load_bundle,
    markdown,
    provenance,
    write_table,
)

from hago.calibrate import Calibration
from hago.compiler.build import build, cross_build
from hago.compiler.cache import KernelCache
from hago.compiler.conformance import Conformance
from hago.data import make_samples
from hago.device.config import Device
from hago.device.emulated import emulated_server, processor_of
from hago.device.remote import RemoteNet, RemoteSession, connect
from hago.lower import LoweredGraph, lower
from hago.model import Model, load_model
from hago.qdq import Quantizer
from hago.spec import HardwareSpec, load_spec, resolve_hw
from hago.strategy import uniform
from hago.tuning.calibrating import calibrate_model

CALIBRATION = 32


@dataclass(frozen=True)
class Row:
    """One model on one emulated machine."""

    model: str
    spec: str
    precision: str
    nodes: int
    values: int
    differing: int
    float_nodes: int
    samples: int
    outputs: int
    outputs_differing: int
    error: float
    same_class: float | None
    accuracy: float | None
    accuracy_here: float | None
    seconds: float


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/aarch64.md"))
    parser.set_defaults(only=list(EVERY_MODEL))
    parser.add_argument("--samples", type=int, default=100, help="per network at most (default: %(default)s)")
    parser.add_argument("--least", type=int, default=8, help="per network at least (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=15.0, help="seconds for a network's samples beyond these")
    parser.add_argument("--specs", nargs="*", default=list(ARM_SPECS))
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
    """One model at each precision of the device's spec."""
    bundle = load_bundle(options.models, name)
    model, host, spec = load_model(bundle["model"]), resolve_hw("auto"), load_spec(device.spec)
    samples = make_samples(bundle["calib"][0:CALIBRATION], model.inputs)
    calibration = calibrate_model(model, samples, host, threads=options.threads, cache=cache)
    entry = model.inputs[0].name
    found = []
    for precision, qdq in forms(model, calibration, spec).items():
        started = time.perf_counter()
        here = build(lower(qdq, host), host, threads=1, cache=cache)
        feeds = [{entry: bundle["x"][i : i + 1]} for i in range(min(options.samples, len(bundle["x"])))]
        graph = lower(qdq, spec)
        with connect(device) as session:
            send = partial(_send, spec, session, cache, place / f"{name}-{precision}-{device.spec}")
            checks = Conformance(graph, spec, make=partial(send, "nodes")).check(feeds[0]).nodes
            net = send("net", graph)
            begin, answers = time.perf_counter(), []
            for feed in feeds:
                if len(answers) >= options.least and time.perf_counter() - begin > options.budget:
                    break
                answers.append(net.run(feed)[0])
        theirs, count = np.concatenate(answers), len(answers)
        ours = np.concatenate([here.run(feed)[0] for feed in feeds[:count]])
        classes = right = right_here = None
        if name in CLASSIFIERS:
            labels = bundle["y"][:count]
            classes = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
            right, right_here = (float((out.argmax(-1) == labels).mean()) for out in (theirs, ours))
        seconds = time.perf_counter() - started
        differing = int((ours != theirs).sum())
        error = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        exact = [check for check in checks if check.exact]
        values, wrong = sum(check.elements for check in exact), sum(check.differing for check in exact)
        nodes = len(exact), values, wrong, len(checks) - len(exact)
        about = (count, ours.size, differing, error, classes, right, right_here)
        found.append(Row(name, device.spec, precision, *nodes, *about, seconds))
    return found


def forms(model: Model, calibration: Calibration, spec: HardwareSpec) -> dict[str, onnx.ModelProto]:
    """Precision -> network: the integer ones per channel, the short floats, and float32."""
    quantizer = Quantizer(model, calibration, spec)
    offered = dict.fromkeys(choice.precision for choice in spec.choices("conv"))
    short = {p: quantizer.qdq(uniform(model, spec, p)) for p in offered if p in ("bfloat16", "float16")}
    return {**integer_forms(model, calibration, spec), **short, "float32": model.proto}


def _send(
    spec: HardwareSpec, session: RemoteSession, cache: KernelCache, path: Path, kind: str, graph: LoweredGraph
) -> RemoteNet:
    """The graph, compiled for ``spec`` and opened on the device."""
    made = cross_build(graph, spec, threads=1, cache=cache)
    library = path.with_name(f"{path.name}-{kind}.so")
    made.save(library)
    return session.load(library, made.meta)


def cells(row: Row) -> list[str]:
    same, right, here = (
        "-" if share is None else f"{100 * share:.1f}" for share in (row.same_class, row.accuracy, row.accuracy_here)
    )
    nodes = [str(row.nodes), f"{row.values:,}", str(row.differing), str(row.float_nodes)]
    outputs = [str(row.samples), f"{row.outputs:,}", str(row.outputs_differing), f"{row.error:.0e}", same, right, here]
    return [row.model, row.spec, row.precision, *nodes, *outputs]


_HEAD = ["model", "compiled for", "precision", "exact nodes", "values", "differing", "float nodes"]
_HEAD += ["samples", "outputs", "differing", "error", "same class %", "top-1 % over RPC", "top-1 % here"]


def _text(rows: list[Row]) -> str:
    wrong = [row for row in rows if row.differing]
    whole = [row for row in rows if not row.float_nodes]
    same = sum(not row.outputs_differing for row in whole)
    told = [row for row in whole if row.accuracy is not None]
    equal = sum(row.accuracy == row.accuracy_here for row in told)
    mixed = [row for row in rows if row.float_nodes and row.accuracy is not None]
    alike = sum(row.accuracy == row.accuracy_here for row in mixed)
    most = max((round(abs((row.accuracy or 0) - (row.accuracy_here or 0)) * row.samples) for row in mixed), default=0)
    values, differing = sum(row.values for row in rows), sum(row.differing for row in rows)
    machines = ", ".join(f"{spec} on QEMU's {processor_of(spec)}" for spec in dict.fromkeys(row.spec for row in rows))
    text = f"""# AArch64 against this machine

Each network compiled for an Arm spec and run under QEMU's user emulation ({machines}),
reached over TVM's RPC. The emulated processor ends the program at an instruction that it does not have.

- *exact nodes* have one right answer (integer operators, conversions, what moves elements): each is given the inputs
  that the network on the device gave it, and the numpy reference of the node must give the same *values*, bit for bit;
  *differing* counts those that are not. One sample.
- *outputs*: of the whole network, beside the same network compiled for this machine, on all *samples*. Where *float
  nodes* lie between (softmax, layer normalization), the last bits may differ, and with them codes after them; *error*
  is then the largest difference relative to the largest output.

- Nodes: {differing} of {values:,} values differ, in {len(wrong)} of {len(rows)} networks.
- Outputs: of the {len(whole)} networks without float nodes, {same} give exactly this machine's.
- Accuracy over RPC is this machine's, on the same samples, in {equal} of {len(told)} classifiers without float nodes;
  with float nodes (float32, short floats) in {alike} of {len(mixed)}, in the others it differs by {most} sample(s) at
  most.

"""
    return text + markdown(_HEAD, [cells(row) for row in rows]) + "\n" + provenance(1) + "\n"


if __name__ == "__main__":
    main()
