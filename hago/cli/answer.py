"""``hago answer``: the answer of a finished search to another bound."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..visible import cell, visible
from .common_arguments import add_cache
from .exit_codes import code_of
from .flags import add_flags
from .screen import screen

if TYPE_CHECKING:
    from ..record import Record

_MORE = ("max_latency", "max_size")

_DESCRIPTION = """
Answers another bound from a finished `hago tune` search and writes the files: strategy.yaml, model.qdq.onnx, model.so
and answer.md. Nothing is searched or measured again. Without a bound, lists the Pareto front and the drop from which
each strategy is the answer.
"""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``answer``."""
    about = "answer another bound from a finished search"
    parser = subparsers.add_parser("answer", help=about, description=_DESCRIPTION)
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="the --out of `hago tune`")
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--max-drop", metavar="D", help="largest allowed drop of the metric, in its unit or as 1%%")
    bound.add_argument("--min", metavar="V", dest="min_value", help="smallest allowed value of the metric")
    bound.add_argument("--max", metavar="V", dest="max_value", help="largest allowed value of the metric (mse)")
    add_flags(parser, *_MORE, "margin")
    add("--model", metavar="MODEL", help="the model file, if it has moved since")
    add("--out", metavar="DIR", help="folder for the files (default: max-drop-D in FOLDER)")
    add_cache(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..tuning.answering import answer

    names = ("max_drop", "min_value", "max_value", *_MORE)
    bound = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if not bound:
        return _list(arguments.folder)
    found = answer(
        arguments.folder,
        **bound,
        margin=arguments.margin,
        model=arguments.model,
        out=arguments.out,
        cache=arguments.cache,
    )
    print(visible(found.summary()))
    print(visible(f"Files: {found.folder}"))
    return code_of(found.result)


def _list(folder: str) -> int:
    """Prints the Pareto front as a table."""
    from rich.table import Table

    from ..measure.metric_text import MetricText
    from ..search import Goal, pareto_front
    from ..text import size
    from ..tuning.answering import measured
    from ..tuning.job import Job

    (floats, records), job = measured(folder), Job.load(Path(folder))
    goal, metric = Goal(higher_is_better=job.higher_is_better), MetricText.of_record(floats)
    columns: dict[str, Callable[[Record], str]] = {"answer": _name}
    if job.unit != "dB":  # float32 against itself has no value to drop from
        columns["from a drop of"] = lambda record: f"{max(0.0, goal.likely_drop(record)):.3g}"
    columns["times faster"] = lambda record: "-" if not record.latency_ratio else f"{1 / record.latency_ratio:.2f}"
    columns[metric.info.name] = lambda record: metric.value(record.accuracy)
    columns["size"] = lambda record: size(record.size_bytes)
    table = Table(box=None, header_style="bold")
    for title in columns:
        table.add_column(cell(title), justify="left" if title == "answer" else "right")
    for record in pareto_front([floats, *records], goal):
        table.add_row(*(cell(tell(record)) for tell in columns.values()))
    screen().print(table)
    bound = "--min DB" if job.unit == "dB" else "--max-drop D"
    print(visible(f"To select one and write its files: hago answer {folder} {bound}"))
    return 0


def _name(record: Record) -> str:
    """``trial 5``, with its label if that adds anything."""
    if record.strategy is None:
        return "float32"
    trial = f"trial {record.id + 1}"
    return trial if trial in record.label else f"{trial}: {record.label}"
