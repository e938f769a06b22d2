"""``hago report``: one model on several devices, side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..options import OF_ONE_SEARCH
from ..visible import visible
from .exit_codes import EXIT_CUT_SHORT
from .tune import add_search_arguments, announce, search_options, tell_shortfall

_DESCRIPTION = """
Searches the best strategy for every device, each in a sub-folder of --out (an existing search continues), then runs
every answer on every other device. Writes devices.html, devices.md, devices.json, devices.csv and fronts.csv: the
Pareto front and the best strategy of each device, what an answer loses on the others, and which layers change precision
and why. Results of emulated devices are instruction counts, marked as estimates.
"""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``report``."""
    about = "compare one model on several devices"
    parser = subparsers.add_parser("report", help=about, description=_DESCRIPTION)
    add_search_arguments(parser, without=tuple(OF_ONE_SEARCH))
    parser.add_argument("--devices", metavar="A,B,C", required=True, help="names in the devices file, or local")
    about = "results of a bundle that ran on a GPU (gpu.json); adds a column and tables, and may be repeated"
    parser.add_argument("--gpu", metavar="FILE", action="append", default=[], help=about)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    announce(arguments)
    from ..tuning.cross_device import compare_devices

    comparison = compare_devices(
        arguments.model,
        gpu=arguments.gpu,
        say=lambda text: print(visible(text), file=sys.stderr, flush=True),
        **search_options(arguments),
    )
    for device in comparison.devices:
        cell = comparison.cell(device.name, device.name)
        ratio = cell.how if cell.ratio is None else f"{cell.ratio:.3f} of float32 ({cell.how})"
        print(visible(f"{device.name}: {ratio}"))
    for name, reason in comparison.gone.items():
        print(visible(f"error: {name}: {reason}"), file=sys.stderr)
    out = Path(arguments.out)
    codes = [tell_shortfall(device.result, out / device.name, visible(device.name)) for device in comparison.devices]
    if comparison.error is None:
        print(visible(f"Report: {out / 'devices.html'}"))
    else:
        print(f"error: {comparison.error}", file=sys.stderr)
    return max(EXIT_CUT_SHORT if comparison.gone or comparison.error else 0, *codes)
