"""``hago tune``: the main job, a model and samples in, a deployable model and a report out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import DATA, add_cache, add_hw, add_model, input_shapes
from .exit_codes import EXIT_CUT_SHORT, code_of

if TYPE_CHECKING:
    from ..search import SearchResult

_DESCRIPTION = """
Searches which layers should run at which precision and granularity on this hardware, so that the network is
as fast as can be while its metric drops by at most --max-drop. Every candidate is compiled and measured.
The folder --out then holds the model (model.so, model.qdq.onnx), the strategy, all records and a report.
"""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``tune``."""
    parser = subparsers.add_parser("tune", help="search, measure, report: the main job", description=_DESCRIPTION)
    add_search_arguments(parser)
    add_hw(parser)
    add = parser.add_argument
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", metavar="NAME",
        help="measure there: a name in the devices file; A+B: devices of one kind share the work")  # fmt: skip
    where.add_argument("--devices", metavar="A,B", help="one strategy that is good on all of these devices")
    add("--joint", default="worst", choices=("worst", "mean"), help="of the ratios on --devices (default: %(default)s)")
    add("--storage", metavar="URL", help="where the study is kept (default: sqlite, study.db in --out)")
    add("--resume", action="store_true", help="go on with the search in --out")
    parser.set_defaults(run=_run)


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """What every search takes, wherever it runs; `search_options` reads it."""
    add_model(parser)
    add_cache(parser)
    add = parser.add_argument
    add("--data", metavar="PATH", required=True, help=DATA)
    add("--calibration", metavar="PATH", help="samples to calibrate on, no labels needed (default: part of --data)")
    add("--test", metavar="PATH", help="samples that only the final accuracy is told from (default: part of --data)")
    add("--devices-file", metavar="FILE", help="the devices file (default: devices.yaml in this folder)")
    add("--metric", default="top1", help="top1, top5, cosine, sqnr or mse; of one output: top1:NAME (default: top1)")
    add("--max-drop", default=0.01, metavar="D",
        help="allowed drop of the metric, in its unit, or 1%% (default: %(default)s, one point of top-1)")  # fmt: skip
    add("--min", metavar="V", dest="min_value", help="the metric must have at least this, in place of --max-drop: "
        "sqnr needs it, --min 30 is 30 dB")  # fmt: skip
    add("--max", metavar="V", dest="max_value", help="the same for metrics of which less is better: at most this")
    add("--margin", type=float, default=0.0, metavar="D", help="part of --max-drop kept free when choosing")
    add("--trials", type=int, default=40, metavar="N", help="candidates at most (default: %(default)s)")
    add("--budget", metavar="TIME", help="time at most, such as 10m, 90s or 1h30m")
    add("--patience", type=int, default=15, metavar="N",
        help="stop when the front stood still for N trials; 0: never (default: %(default)s)")  # fmt: skip
    add("--sampler", default="tpe", choices=("tpe", "nsga2", "gp", "random", "grid"), 
        help="proposes candidates (default: %(default)s; gp needs PyTorch)")  # fmt: skip
    add("--objectives", default="latency,accuracy", help="of latency, accuracy, size (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the split and the search (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="threads (default: one, or all cores where that is faster)")
    add("--out", metavar="DIR", default="hago-out", help="folder for the results (default: %(default)s)")
    add("--progress", default="auto", choices=("auto", "live", "plain", "silent"),
        help="how progress is shown; auto: live on a terminal, else plain (default: %(default)s)")  # fmt: skip


def search_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `hago.tune` that `add_search_arguments` declares."""
    names = (
        "data", "calibration", "test", "devices_file", "metric", "max_drop", "min_value", "max_value", "margin",
        "trials", "budget", "sampler", "seed", "threads", "batch", "cache", "out", "progress",
    )  # fmt: skip
    options = {name: getattr(arguments, name) for name in names}
    options["input_shapes"] = input_shapes(arguments)
    options["patience"] = arguments.patience or None
    options["objectives"] = tuple(part.strip() for part in arguments.objectives.split(","))
    return options


def announce(arguments: argparse.Namespace) -> None:
    """The first line of progress, before what takes seconds to import."""
    if arguments.progress != "silent":
        print("0:00  starting", file=sys.stderr, flush=True)


def _run(arguments: argparse.Namespace) -> int:
    announce(arguments)
    from ..api import tune
    from ..tuning.session import console_summary

    devices = arguments.device
    if arguments.devices is not None:
        devices = [name.strip() for name in arguments.devices.split(",")]
    result = tune(
        arguments.model,
        hw=arguments.hw,
        storage=arguments.storage,
        resume=arguments.resume,
        devices=devices,
        joint=arguments.joint,
        **search_options(arguments),
    )
    print(console_summary(result))
    return tell_shortfall(result.search, result.folder)


def tell_shortfall(found: SearchResult, folder: Path | None, device: str = "") -> int:
    """Says what kept a search from its end or its files from being written; returns its exit code."""
    from ..tuning.session import is_complete

    of = f"{device}: " if device else ""
    if found.error is not None:
        print(f"error: {of}{found.error}", file=sys.stderr)
    elif not is_complete(folder):
        print(f"error: {of}all but model.so was written: there is no linker", file=sys.stderr)
        print("  hint: where there is one: hago compile model.qdq.onnx --out model.so", file=sys.stderr)
        return EXIT_CUT_SHORT if found.signum is None else code_of(found)
    return code_of(found)
