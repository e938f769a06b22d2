"""Every real model, built for five architectures of NVIDIA GPUs without one: what is in the kernels' machine code.

    python benchmarks/gpu_build.py

float32, float16 and int8 wherever the spec offers them. Needs hago[cuda]. What is compiled is kept in build/gpu: an
interrupted run goes on where it was, and one after a change compiles what has changed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import EVERY_MODEL, arguments, markdown, provenance, write_table
from gpu_kernels import PRODUCTS, PROMISES, Compiled, Job, compile_job
from gpu_networks import PLACE, PRECISIONS, SPECS, RealModel

from hago.choice import Choice
from hago.compiler.cache import template_version
from hago.compiler.program import Refusal, emit
from hago.compiler.toolchain import toolchain_of
from hago.errors import HagoError
from hago.kernels.cuda.nvrtc import installed_version
from hago.spec import HardwareSpec, load_spec
from hago.ways import WEIGHTED_KINDS, find_way

_MOST = 40  # reasons that are listed


@dataclass(frozen=True)
class Network:
    """One model at one precision for one GPU. ``promises``: layer -> (instruction, keys of its kernels)."""

    model: str
    precision: str
    spec: str
    keys: tuple[str, ...]
    promises: dict[str, tuple[str, tuple[str, ...]]]
    refused: tuple[str, ...]  # reasons, one for each node


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/gpu_build.md"))
    parser.set_defaults(only=list(EVERY_MODEL))
    parser.add_argument("--specs", nargs="*", default=list(SPECS), help="(default: one for each architecture)")
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS), help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes that compile (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="write the table with what is compiled until then")
    options = parser.parse_args()
    if not installed_version():
        raise SystemExit("NVRTC is not installed: pip install 'hago[cuda]'")
    started = time.monotonic()
    kernels = PLACE / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    networks: list[Network] = []
    begun: dict[str, Future[Compiled]] = {}
    pool = ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"))
    version = template_version().rpartition("-")[2]
    try:
        for network, jobs in _networks(options):
            networks.append(network)
            for job in jobs:
                if job.key not in begun:
                    begun[job.key] = pool.submit(compile_job, job, kernels, version)
            print(network.spec, network.model, network.precision, len(network.keys), "kernels", flush=True)
        seconds = None if options.minutes is None else max(0.0, 60 * options.minutes + started - time.monotonic())
        for done, _ in enumerate(as_completed(begun.values(), seconds), 1):
            if done % 50 == 0 or done == len(begun):
                print(f"{done} of {len(begun)} kernels", flush=True)
    except (KeyboardInterrupt, OutOfTime):
        print("interrupted: the table has what is compiled")
    pool.shutdown(wait=True, cancel_futures=True)
    compiled = {key: one.result() for key, one in begun.items() if one.done() and not one.cancelled()}
    write_table(options.out, _text(networks, compiled, options), _data(networks, compiled))


def _networks(options: Any) -> Iterator[tuple[Network, list[Job]]]:
    """Every network that is asked for, and the kernels that it takes."""
    for name in options.only:
        real = RealModel(options.models, name, options.batch, PLACE)
        for precision in options.precisions:
            for spec in map(load_spec, options.specs):
                try:
                    yield _emitted(real, precision, spec)
                except HagoError as error:
                    yield Network(name, precision, spec.name, (), {}, (error.what,)), []


def _emitted(real: RealModel, precision: str, spec: HardwareSpec) -> tuple[Network, list[Job]]:
    toolchain, refused = toolchain_of(spec, 1), list[Refusal]()
    program = emit(real.lowered(precision, spec), toolchain, refused)
    target = dict(spec.target)
    jobs, kernels_of = {}, dict[str, list[str]]()
    for step in program.steps:
        if step.key is None or step.call is None:
            continue
        kernels_of.setdefault(step.call.layer or "", []).append(step.key)
        call = step.call
        jobs[step.key] = Job(step.key, call.family, call.template, call.params, toolchain.family.name, target)
    choices = real.strategy(precision, spec).choices
    promises = {}
    for layer in real.model.layers:
        if layer.kind in (*WEIGHTED_KINDS, "matmul") and layer.name in kernels_of:
            way = find_way(layer, choices.get(layer.name, Choice()).precision, spec)
            promises[layer.name] = (way.instruction or "", tuple(kernels_of[layer.name]))
    reasons = tuple(one.error.what for one in refused)
    return Network(real.name, precision, spec.name, tuple(jobs), promises, reasons), list(jobs.values())


def _data(networks: list[Network], compiled: dict[str, Compiled]) -> Any:
    return {
        "networks": [asdict(network) for network in networks],
        "kernels": [asdict(one) for one in compiled.values()],
    }


def _text(networks: list[Network], compiled: dict[str, Compiled], options: Any) -> str:
    parts = [_TITLE.format(version=installed_version(), batch=options.batch)]
    parts.append(_by_architecture(networks, compiled))
    parts.append("## Instructions of layers with products\n\n" + _by_promise(networks, compiled))
    parts.append(
        "## Networks\n\nKernels of each; *: not all of its operators build.\n\n" + _by_model(networks, compiled)
    )
    failures = Counter(reason for network in networks for reason in network.refused)
    failures.update(f"kernel of {one.family}: {one.error}" for one in compiled.values() if one.error)
    if failures:
        lines = "\n".join(f"- {reason} ({many} times)" for reason, many in failures.most_common(_MOST))
        parts.append(f"## What does not build: {sum(failures.values())}\n\n{lines}\n")
    parts.append(provenance(1) + "\n")
    return "\n".join(parts)


def _by_architecture(networks: list[Network], compiled: dict[str, Compiled]) -> str:
    rows = []
    for spec in dict.fromkeys(network.spec for network in networks):
        for precision in dict.fromkeys(network.precision for network in networks):
            own = [network for network in networks if (network.spec, network.precision) == (spec, precision)]
            wanted = dict.fromkeys(key for network in own for key in network.keys)
            found = [compiled[key] for key in wanted if key in compiled]
            good = [one for one in found if not one.error]
            whole = sum(not network.refused and _all_built(network, compiled) for network in own)
            rows.append([
                f"{_arch(spec)} ({spec.removeprefix('nvidia-')})", precision, f"{whole} of {len(own)}",
                f"{len(good)} of {len(wanted)}", str(max((one.registers for one in good), default=0)),
                str(sum(one.spills for one in good)), f"{max((one.shared_bytes for one in good), default=0):,}",
                f"{sum(one.seconds for one in good):.0f}",
            ])  # fmt: skip
    head = [
        "architecture",
        "precision",
        "networks",
        "kernels",
        "registers, most",
        "that spill",
        "static shared bytes, most",
        "CPU s",
    ]
    return markdown(head, rows)


def _all_built(network: Network, compiled: dict[str, Compiled]) -> bool:
    return all(key in compiled and not compiled[key].error for key in network.keys)


def _arch(spec: str) -> str:
    return str(load_spec(spec).target["arch"])


def _by_promise(networks: list[Network], compiled: dict[str, Compiled]) -> str:
    """Architecture, instruction: layers whose way promises it, those that have it, and what the others have instead."""
    found: dict[tuple[str, str, str], list[tuple[bool, str]]] = {}
    for network in networks:
        for promise, keys in network.promises.values():
            kernels = [compiled[key] for key in keys if key in compiled and not compiled[key].error]
            if len(kernels) == len(keys):
                kept = any(kernel.has(promise) for kernel in kernels) if promise in PROMISES else False
                found.setdefault((network.spec, network.precision, promise), []).append((kept, _main_product(kernels)))
    rows = []
    for (spec, precision, promise), layers in sorted(found.items()):
        others = Counter(product for kept, product in layers if not kept)
        instead = ", ".join(f"{name} {many}" for name, many in others.most_common()) or "-"
        have = Counter(product for kept, product in layers if kept)
        by = ", ".join(f"{name} {many}" for name, many in have.most_common()) or "-"
        rows.append([_arch(spec), precision, promise, str(len(layers)), by, instead])
    return markdown(["architecture", "precision", "promised", "layers", "found", "others have"], rows)


def _main_product(kernels: list[Compiled]) -> str:
    """The instruction that these kernels multiply with, without the types of its operands."""
    names = [name for kernel in kernels for name in kernel.products]
    for product in PRODUCTS:
        for name in sorted(names):
            if name.split(".")[0] == product:
                return ".".join(name.split(".")[:2]) if "MMA" in product or product == "IDP" else product
    return "no product"


def _by_model(networks: list[Network], compiled: dict[str, Compiled]) -> str:
    specs = list(dict.fromkeys(network.spec for network in networks))
    by_name: dict[tuple[str, str], dict[str, str]] = {}
    for network in networks:
        mark = "" if not network.refused and _all_built(network, compiled) else "*"
        by_name.setdefault((network.model, network.precision), {})[network.spec] = f"{len(network.keys)}{mark}"
    rows = [
        [model, precision, *(cells.get(spec, "") for spec in specs)] for (model, precision), cells in by_name.items()
    ]
    return markdown(["model", "precision", *(_arch(spec) for spec in specs)], rows)


_TITLE = """# Built for NVIDIA GPUs, without one

Every real model at batch {batch}, in each precision wherever the spec of the hardware offers it, compiled by TVM and
{version} to machine code for five architectures. No line of this has run on a GPU: that is not what this page shows.

- *networks*: those of which every operator has a kernel that compiles. *kernels*: distinct ones (shapes, types, tiles).
- *registers*: of a thread; 255 is the limit. *that spill*: kernels that keep in memory what belongs into registers.
- *CPU s*: TVM and NVRTC, one thread.
"""


if __name__ == "__main__":
    main()
