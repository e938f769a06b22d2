"""``hago inspect``: the layers of a model, and what the hardware can do with each."""

from __future__ import annotations

import argparse
from typing import Any

from .common_arguments import add_hw, add_model, open_model
from .screen import screen

_LAYER_PER_LINE = 1000  # columns of piped output


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds the ``inspect`` command; ``run`` is a function of the parsed arguments -> exit code."""
    parser = subparsers.add_parser(
        "inspect",
        help="show the layers of a model, and what the hardware can do with each",
        description="Prints every layer: operator, shapes, multiply-adds, parameters, and the precisions and "
        "granularities that the hardware supports, or why the layer cannot be quantized.",
    )
    add_model(parser)
    add_hw(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..inspect import inspect_model, render, to_json
    from ..spec import resolve_hw

    spec = resolve_hw(arguments.hw)
    inspection = inspect_model(open_model(arguments), spec)
    if arguments.json:
        print(to_json(inspection))
        return 0
    console = screen(_LAYER_PER_LINE)
    console.print(render(inspection, wrap=console.is_terminal))
    return 0
