"""``hago answer``: another bound, answered by a search that has been made."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..visible import cell, visible
from .arguments import add_cache
from .screen import screen

if TYPE_CHECKING:
    from ..record import Record

_DESCRIPTION = """
Tells which strategy a search that `hago tune` made would give for another bound, and writes its files: strategy.yaml,
model.qdq.onnx, model.so and answer.md. Nothing is searched and nothing is measured again. Without --max-drop it lists
the answers that there are: the front, with the drop from which on each is the answer.
"""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``answer``."""
    about = "another bound, answered by a finished search"
    parser = subparsers.add_parser("answer", help=about, description=_DESCRIPTION)
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="the --out of `hago tune`")
    add("--max-drop", type=float, metavar="D", help="allowed drop of the metric, in its unit")
    add("--margin", type=float, default=0.0, metavar="D", help="part of --max-drop kept free when choosing")
    add("--model", metavar="MODEL", help="the model's file, where it has been moved since")
    add("--out", metavar="DIR", help="folder for the files (default: max-drop-D in FOLDER)")
    add_cache(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..answering import answer

    if arguments.max_drop is None:
        return _list(arguments.folder)
    found = answer(
        arguments.folder,
        max_drop=arguments.max_drop,
        margin=arguments.margin,
        model=arguments.model,
        out=arguments.out,
        cache=arguments.cache,
    )
    print(visible(found.summary()))
    print(visible(f"Files: {found.folder}"))
    return 0


def _list(folder: str) -> int:
    from pathlib import Path

    from rich.table import Table

    from ..answering import Job, measured
    from ..search import Goal, pareto_front

    (floats, records), job = measured(folder), Job.load(Path(folder))
    goal = Goal(higher_is_better=job.higher_is_better)
    table = Table(box=None, header_style="bold")
    for index, title in enumerate(("answer", "from a drop of", "times faster", job.metric, "KiB of weights")):
        table.add_column(cell(title), justify="right" if index else "left")
    for record in pareto_front([floats, *records], goal):
        table.add_row(
            cell(_name(record)),
            f"{max(0.0, goal.likely_drop(record)):.3g}",
            "-" if not record.latency_ratio else f"{1 / record.latency_ratio:.2f}",
            "-" if record.accuracy is None else f"{record.accuracy:.4g}",
            "-" if record.size_bytes is None else f"{record.size_bytes / 1024:,.0f}",
        )
    screen().print(table)
    print(visible(f"One of them, with its files: hago answer {folder} --max-drop D"))
    return 0


def _name(record: Record) -> str:
    """``trial 5``, with its label where that says more."""
    if record.strategy is None:
        return "float32"
    trial = f"trial {record.id + 1}"
    return trial if trial in record.label else f"{trial}: {record.label}"
