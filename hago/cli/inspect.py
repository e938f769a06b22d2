"""``hago inspect MODEL --hw NAME``: the layers of a model, and what this hardware can do with each."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import ModelError
from .screen import screen

_LAYER_PER_LINE = 1000  # columns, where the output is piped


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds the ``inspect`` command; ``run`` is a function of the parsed arguments -> exit code."""
    parser = subparsers.add_parser(
        "inspect",
        help="the layers of a model, and what this hardware can do with each",
        description="Prints every layer: operator, shapes, multiply-adds, parameters, and the precisions and "
        "granularities that the hardware allows, or why the layer cannot be quantized.",
    )
    parser.add_argument("model", metavar="MODEL", help="an ONNX file")
    parser.add_argument("--hw", default="auto", metavar="NAME", help="a spec, a YAML file, or auto (default)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="NAME=-1,3,224,224",
        help="the shape of an input with more dynamic dimensions than the batch (-1); may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run)


def parse_input_shapes(texts: list[str]) -> dict[str, tuple[int, ...]] | None:
    """``["x=-1,3,8"]`` as ``{"x": (-1, 3, 8)}``; None for none. Raises ModelError on anything else."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, numbers = text.rpartition("=")
        try:
            shape = tuple(int(n) for n in numbers.split(","))
        except ValueError:
            shape = ()
        if not name or not equals or not shape:
            raise ModelError(
                f"--input-shape must be NAME=D0,D1,..., not {text!r}",
                hint="for instance --input-shape input=-1,3,224,224 (-1 is the batch)",
            )
        shapes[name] = shape
    return shapes or None


def _run(arguments: argparse.Namespace) -> int:
    from ..inspect import inspect_model, render, to_json
    from ..model import load_model
    from ..spec import resolve_hw

    spec = resolve_hw(arguments.hw)
    shapes = parse_input_shapes(arguments.input_shape)
    model = load_model(arguments.model, arguments.batch, input_shapes=shapes)
    inspection = inspect_model(model, spec)
    if arguments.json:
        print(to_json(inspection))
        return 0
    console = screen(_LAYER_PER_LINE)
    console.print(render(inspection, wrap=console.is_terminal))
    return 0
