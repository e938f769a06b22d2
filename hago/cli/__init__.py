"""The command line: ``hago COMMAND ...``. Each command lives in a module of its own."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ..errors import HagoError, HagoWarning
from . import build, cache, compare, device, hw, inspect, measure, report, stages, tune

_DESCRIPTION = """
Which layers of a network should run at which precision on this hardware, and what does it gain and lose?
Hago searches per-layer precision and granularity, compiles every candidate with Apache TVM, and measures
its latency and accuracy from that same compiled artifact.
"""

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(prog="hago", description=_DESCRIPTION)
    top.add_argument("--version", action="store_true", help="print the versions of Hago and TVM")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    for module in (tune, inspect, compare, stages, build, device, measure, report, hw, cache):
        module.register(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code (2 for an error that the user can mend)."""
    top = parser()
    arguments = top.parse_args(argv)
    if arguments.version:
        from importlib.metadata import version

        print(f"hago {version('hago')}, TVM {version('apache-tvm')}")
        return 0
    if not hasattr(arguments, "run"):
        top.print_help()
        return EXIT_ERROR
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", HagoWarning)
            warnings.showwarning = _show_warning
            return int(arguments.run(arguments))
    except HagoError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`hago ... | head`): nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """One line for what Hago warns of; Python's own form, which names a line of code, for the rest."""
    if issubclass(category, HagoWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, str(place[0]), int(place[1])), file=sys.stderr, end="")
