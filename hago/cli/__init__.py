"""The command line: ``hago COMMAND ...``. Each command lives in a module of its own."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any

from ..errors import HagoWarning
from ..visible import visible
from . import answer, build, cache, compare, device, hw, inspect, measure, report, stages, tune
from .exit_codes import EXIT_ERROR, EXIT_FAULT, EXIT_INTERRUPTED
from .faults import guarded, version_of

_DESCRIPTION = """
Which layers of a network should run at which precision on this hardware, and what does it gain and lose?
Hago searches per-layer precision and granularity, compiles every candidate with Apache TVM, and measures
its latency and accuracy from that same compiled artifact.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(prog="hago", description=_DESCRIPTION)
    top.add_argument("--version", action="store_true", help="print the versions of Hago and TVM")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    for module in (tune, answer, inspect, compare, stages, build, device, measure, report, hw, cache):
        module.register(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, or what the command says, or one of `hago.cli.faults`."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words  # anywhere: one thinks of it after the command has failed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that knows ASCII alone shows the rest as escapes
            stream.reconfigure(errors="backslashreplace")
    return guarded(lambda: dispatch([word for word in words if word != "--debug"]), words, debug)


def dispatch(words: Sequence[str]) -> int:
    """Parses the arguments and runs the command. Raises whatever it raises."""
    top = parser()
    arguments = top.parse_args(words)
    if arguments.version:
        print(f"hago {version_of('hago')}, TVM {version_of('apache-tvm')}")
        return 0
    if not hasattr(arguments, "run"):
        top.print_help()
        return EXIT_ERROR
    with warnings.catch_warnings():
        warnings.simplefilter("always", HagoWarning)
        warnings.showwarning = _show_warning
        return int(arguments.run(arguments))


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """One line for what Hago warns of; Python's own form, which names a line of code, for the rest."""
    if issubclass(category, HagoWarning):
        print(f"warning: {visible(message, lines=True)}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, str(place[0]), int(place[1])), file=sys.stderr, end="")


__all__ = ["EXIT_ERROR", "EXIT_FAULT", "EXIT_INTERRUPTED", "dispatch", "main", "parser"]
