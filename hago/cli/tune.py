"""``hago tune``: from a model and samples to a deployable model and a report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import names
from ..options import GoalOptions, JobOptions, SearchOptions
from ..result_files import HTML_FILE, LIBRARY_FILE, SCRIPT_FILE
from ..visible import visible
from .common_arguments import DATA, add_model, input_shapes
from .exit_codes import EXIT_CUT_SHORT, code_of
from .flags import add_flags, flag_names, from_arguments

if TYPE_CHECKING:
    from ..search import SearchResult
    from ..tuning.tuned import Result


_DESCRIPTION = """
Searches the precision and granularity of every layer, so that the network runs as fast as possible on this hardware
while its metric drops by at most --max-drop. --max-latency, --max-size and --objectives set other goals. Every
candidate is compiled and measured. The folder --out then holds the model (model.so, model.qdq.onnx), the strategy, all
records and a report.
"""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``tune``."""
    parser = subparsers.add_parser("tune", help="search, measure and report", description=_DESCRIPTION)
    add_search_arguments(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", metavar="NAME",
        help="measure on this device of the devices file; A+B: devices of one kind share the work")  # fmt: skip
    where.add_argument(
        "--devices",
        metavar="A,B",
        type=partial(names, "devices"),
        help="find one strategy that is good on all of these devices",
    )
    parser.set_defaults(run=_run)


def add_search_arguments(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """Adds the arguments of every search; `search_options` reads them."""
    add_model(parser)
    parser.add_argument("--data", metavar="PATH", required=True, help=DATA)
    add_flags(parser, *flag_names(JobOptions, GoalOptions, SearchOptions, without=("batch", *without)))


def search_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The options and the samples for `hago.tune`, from the parsed arguments."""
    return {**from_arguments(parsed), "data": parsed.data, "input_shapes": input_shapes(parsed)}


def announce(arguments: argparse.Namespace) -> None:
    """Prints the first line of progress before imports that take seconds."""
    if arguments.progress != "silent":
        print("0:00  starting", file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace) -> int:
    announce(arguments)
    from ..api import tune

    options = search_options(arguments)
    options["devices"] = arguments.device if arguments.devices is None else arguments.devices
    result = tune(arguments.model, **options)
    print(_summary(result))
    return tell_shortfall(result.search, result.folder)


def _summary(result: Result) -> str:
    """The text printed at the end."""
    lines = [result.summary()]
    if result.folder is not None:
        if (result.folder / HTML_FILE).is_file():  # a full disk may have prevented it
            lines.append(f"Report: {result.folder / HTML_FILE}")
        lines += [f"Run it: {how}" for how in _how_to_run(result.folder)]
    return "\n".join(map(visible, lines))


def _how_to_run(folder: Path) -> list[str]:
    """The command to run next, here or on the device."""
    boards = [script.parent for script in sorted([*folder.glob(SCRIPT_FILE), *folder.glob(f"*/{SCRIPT_FILE}")])]
    built = [library for library in sorted(folder.rglob(LIBRARY_FILE)) if library.parent not in boards]
    here = [f"hago run {shlex.quote(str(library))} --data SAMPLES.npz" for library in built]
    return here + [f"copy {board} to the board, and there: python run.py SAMPLES.npz" for board in boards]


def tell_shortfall(found: SearchResult, folder: Path | None, device: str = "") -> int:
    """Prints what kept the search from finishing or its files from being written; returns the exit code."""
    of = f"{device}: " if device else ""
    if found.error is not None:
        print(f"error: {of}{found.error}", file=sys.stderr)
    elif folder is not None and not any(folder.rglob(LIBRARY_FILE)):
        print(f"error: {of}everything but model.so was written: there is no linker", file=sys.stderr)
        print("  hint: on a machine with a linker, run: hago compile model.qdq.onnx --out model.so", file=sys.stderr)
        return EXIT_CUT_SHORT if found.signum is None else code_of(found)
    return code_of(found)
