"""``hago build``: compiles a network for another machine and adds a script that runs it there."""

from __future__ import annotations

import argparse
import time
from typing import Any

from .common_arguments import add_cache, add_hw, add_model, add_strategy, quantized

_DESCRIPTION = """
Compiles a model for any hardware that has kernels, including other machines, into a folder to copy there: model.so, and
run.py, which needs only TVM's runtime and numpy. With --strategy and --calibration the model is quantized first; a QDQ
file is compiled as it is.
"""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``build``."""
    parser = subparsers.add_parser("build", help="compile for another machine", description=_DESCRIPTION)
    add_model(parser, "an ONNX file, float or QDQ")
    add_hw(parser, required=True)
    add_strategy(parser)
    add_cache(parser)
    add = parser.add_argument
    add("--threads", type=int, default=1, metavar="N", help="threads on that machine (default: %(default)s)")
    add("-o", "--out", metavar="DIR", required=True, help="the folder to write")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..compiler.cache import KernelCache
    from ..compiler.linker import require_linker
    from ..device.package import make_package
    from ..folder_lock import filled_folder
    from ..runtime.threads import check_threads
    from ..spec import resolve_hw
    from ..text import size

    started = time.perf_counter()
    spec, cache = resolve_hw(arguments.hw), KernelCache(arguments.cache)
    require_linker(spec.triple, arguments.out)
    model, qdq = quantized(arguments, spec)
    proto = model.proto if qdq is None else qdq
    threads = check_threads(arguments.threads)
    with filled_folder(arguments.out) as folder:
        package = make_package(model, proto, spec, folder, threads=threads, cache=cache)
    written, seconds = size(package.library.stat().st_size), time.perf_counter() - started
    print(f"{package.library}: {written} for {spec.name}, built in {seconds:.1f} s")
    print(f"Copy {package.folder} to the machine and run there: python run.py SAMPLES.npz")
    return 0
