"""The command line: ``hago COMMAND ...``, one module per command."""

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
Hago finds out which layers of a network to quantize on this hardware, to which precision, and what that gains and
costs. It searches precision and granularity per layer, compiles every candidate with Apache TVM, and measures latency
and accuracy on that same compiled artifact.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(prog="hago", description=_DESCRIPTION)
    top.add_argument("--version", action="store_true", help="print the versions of Hago and TVM")
    top.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    for module in (tune, answer, inspect, compare, stages, build, device, measure, report, hw, cache):
        module.register(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code (exit_codes.py)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words  # anywhere, since users append it after a failure
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an ASCII terminal shows other characters as escapes
            stream.reconfigure(errors="backslashreplace")
    return guarded(lambda: dispatch([word for word in words if word != "--debug"]), words, debug)


def dispatch(words: Sequence[str]) -> int:
    """Parses the arguments and runs the command. Raises what the command raises."""
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
    """One line for Hago's warnings; Python's usual form, which names a line of code, for all others."""
    if issubclass(category, HagoWarning):
        print(f"warning: {visible(message, lines=True)}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, str(place[0]), int(place[1])), file=sys.stderr, end="")


__all__ = ["EXIT_ERROR", "EXIT_FAULT", "EXIT_INTERRUPTED", "dispatch", "main", "parser"]
