"""``hago build``: a network compiled for another machine, and a script that runs it there."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

_DESCRIPTION = """
Compiles a model for any hardware that there are kernels for, also another than this machine's, into a folder to be
copied there: model.so, and run.py, which needs TVM's runtime and numpy alone. With --strategy and --calibration the
model is quantized first; a QDQ file is taken as it is.
"""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``build``."""
    parser = subparsers.add_parser("build", help="compile for another machine", description=_DESCRIPTION)
    add = parser.add_argument
    add("model", metavar="MODEL", help="an ONNX file, float or QDQ")
    add("--hw", required=True, help="hardware spec: a name (`hago hw list`) or a YAML file")
    add("--strategy", metavar="FILE", help="YAML or JSON; needs --calibration")
    add("--calibration", metavar="PATH", help="samples, no labels needed: npz or a folder of images")
    add("--batch", type=int, default=1, metavar="N", help="samples per call (default: %(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="threads on that machine (default: %(default)s)")
    add("--cache", metavar="DIR", help="folder of the kernel cache (default: the user's cache)")
    add("-o", "--out", metavar="DIR", required=True, help="the folder to write")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..api import quantize
    from ..compiler.cache import KernelCache
    from ..compiler.linker import require_linker
    from ..device.package import make_package
    from ..errors import StrategyError
    from ..model import load_model
    from ..runtime.threads import check_threads
    from ..spec import resolve_hw

    started = time.perf_counter()
    if bool(arguments.strategy) != bool(arguments.calibration):
        raise StrategyError("--strategy and --calibration belong together", hint="the ranges come from the samples")
    spec, cache = resolve_hw(arguments.hw), KernelCache(arguments.cache)
    require_linker(spec.triple, arguments.out)
    model = load_model(arguments.model, arguments.batch)
    proto = model.proto
    if arguments.strategy:
        proto = quantize(model, arguments.strategy, arguments.calibration, hw=spec, cache=cache)
    threads = check_threads(arguments.threads)
    package = make_package(model, proto, spec, Path(arguments.out), threads=threads, cache=cache)
    kib = package.library.stat().st_size / 1024
    print(f"{package.library}: {kib:,.0f} KiB for {spec.name}, built in {time.perf_counter() - started:.1f} s")
    print(f"Copy {package.folder} to the machine and run there: python run.py SAMPLES.npz")
    return 0
