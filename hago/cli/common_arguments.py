"""Arguments that several commands share, and the functions that read them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, StrategyError
from .flags import add_flags

if TYPE_CHECKING:
    import onnx

    from ..model import Model
    from ..spec import HardwareSpec


DATA = "samples: an npz file (x, y) or a folder of images"
CALIBRATION = "calibration samples (npz or a folder of images, no labels needed), or the calibration.npz of a search"


def add_model(parser: argparse.ArgumentParser, about: str = "an ONNX file") -> None:
    """MODEL, ``--batch`` and ``--input-shape``; `open_model` reads them."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=about)
    add_flags(parser, "batch")
    add("--input-shape", action="append", default=[], metavar="NAME=-1,3,224,224",
        help="shape of an input with free dimensions besides the batch (-1); may be repeated "
        "(default: taken from the samples)")  # fmt: skip


def add_hw(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """``--hw``."""
    if required:
        about = "hardware spec: a name (`hago hw list`) or a YAML file"
        parser.add_argument("--hw", metavar="NAME", required=True, help=about)
    else:
        add_flags(parser, "hw")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """``--cache``."""
    add_flags(parser, "cache")


def add_strategy(parser: argparse.ArgumentParser, needed: str = "") -> None:
    """``--strategy`` and ``--calibration``, which `quantized` reads; ``needed`` names the required one."""
    about = "YAML or JSON" if needed else "YAML or JSON; needs --calibration"
    parser.add_argument("--strategy", metavar="FILE", required=needed == "strategy", help=about)
    parser.add_argument("--calibration", metavar="PATH", required=needed == "calibration", help=CALIBRATION)


def leaf(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """A command whose one-line help ``about`` is also its description."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=f"{about[0].upper()}{about[1:]}."
    )
    return parser


def positive(text: str) -> int:
    """A positive integer, for argparse."""
    number = int(text)  # argparse reports a ValueError
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def input_shapes(arguments: argparse.Namespace) -> dict[str, tuple[int, ...]] | None:
    """``["x=-1,3,8"]`` as ``{"x": (-1, 3, 8)}``; None for none. Raises ModelError on anything else."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in arguments.input_shape:
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


def open_model(arguments: argparse.Namespace, data: Any = None) -> Model:
    """The model that `add_model` names; its free dimensions are taken from the samples ``data``."""
    from ..data.sample_shapes import sample_shapes
    from ..model import load_model

    told = None if data is None else (lambda: sample_shapes(data))
    return load_model(arguments.model, arguments.batch, input_shapes=input_shapes(arguments), sample_shapes=told)


def quantized(arguments: argparse.Namespace, spec: HardwareSpec) -> tuple[Model, onnx.ModelProto | None]:
    """The model, and its QDQ form (same batch) by `add_strategy`'s arguments; None without ``--strategy``."""
    from ..api import quantize_static

    if bool(arguments.strategy) != bool(arguments.calibration):
        raise StrategyError("--strategy and --calibration belong together", hint="the ranges come from the samples")
    model = open_model(arguments, arguments.calibration)
    if not arguments.strategy:
        return model, None
    calibration, cache = arguments.calibration, arguments.cache
    return model, quantize_static(model, arguments.strategy, calibration, spec=spec, cache=cache)
