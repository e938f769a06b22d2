"""``hago measure``: one strategy on several devices."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..visible import cell, visible
from .common_arguments import DATA, add_cache, add_model, add_strategy, open_model
from .exit_codes import EXIT_CUT_SHORT
from .screen import screen

_DESCRIPTION = """
Quantizes the model by a strategy, compiles it and the float model for every device, and runs both there. Prints the
ratio to float32, top-1 on some samples, and how many samples were checked: run on the device, with the same outputs as
on this machine. On emulated devices the ratio is estimated from executed instructions. A device that fails keeps its
row, with the reason; the others continue.
"""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``measure``."""
    parser = subparsers.add_parser("measure", help="measure one strategy on several devices", description=_DESCRIPTION)
    add_model(parser)
    add_strategy(parser, needed="strategy")
    add = parser.add_argument
    add("--data", metavar="PATH", required=True, help=DATA)
    add("--devices", metavar="A,B", required=True, help="names in the devices file, or local")
    add("--devices-file", "--file", metavar="FILE", help="the devices file (default: devices.yaml in this folder)")
    add("--samples", type=int, default=200, metavar="N", help="samples for top-1 (default: %(default)s)")
    add_cache(parser)
    add("--out", metavar="FILE", help="also write the results as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from rich.table import Table

    from ..api import quantize_static
    from ..arguments import names
    from ..compiler.cache import KernelCache
    from ..data import make_samples
    from ..device.measure_on import measure_on
    from ..device.places import find_place
    from ..files import write_atomic
    from ..spec import resolve_hw
    from ..strategy import Strategy

    places = [find_place(name, arguments.devices_file) for name in names("devices", arguments.devices)]
    model, cache = open_model(arguments, arguments.data), KernelCache(arguments.cache)
    strategy = Strategy.load(arguments.strategy)
    samples = make_samples(arguments.data, model.inputs)
    ranges = arguments.calibration or samples.subset(range(min(200, len(samples))))
    qdq = quantize_static(model, strategy, ranges, spec=resolve_hw(strategy.hw), cache=cache)
    chosen = samples.subset(range(min(arguments.samples, len(samples))))
    columns = ("device", "spec", "to float32", "how", "top-1 %", "samples", "checked")
    table = Table(*columns, box=None, header_style="bold")
    found = []
    for place in places:
        result = measure_on(place, model, qdq, chosen, cache=cache)
        found.append(result)
        ratio = "-" if result.ratio is None else f"{result.ratio:.3f}"
        right = "-" if result.accuracy is None else f"{100 * result.accuracy:.1f}"
        checked = "-" if result.checked is None else str(result.checked)
        table.add_row(cell(result.device), cell(result.spec), ratio, result.kind, right, str(result.samples), checked)
    screen().print(table)
    for result in found:
        if result.reason:
            print(visible(f"{result.device}: {result.reason}"))
    if arguments.out:
        write_atomic(Path(arguments.out), json.dumps([result.to_dict() for result in found], indent=1) + "\n")
    return EXIT_CUT_SHORT if all(result.kind == "failed" for result in found) else 0
