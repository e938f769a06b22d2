"""The last guard of the command line: every exception becomes one message and an exit code."""

from __future__ import annotations

import os
import platform
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from ..errors import HagoError, reason_of
from ..files import is_full, write_failure
from ..interrupts import Interrupts, name_of
from ..visible import visible
from .exit_codes import EXIT_CUT_SHORT, EXIT_ERROR, EXIT_FAULT, EXIT_SIGNAL

_PACKAGES = ("hago", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnx-ir", "optuna", "scipy", "pydantic", "rich")


def guarded(command: Callable[[], int], words: Sequence[str], debug: bool = False) -> int:
    """Runs a command; returns its exit code, or that of its exception. ``debug`` prints the traceback as well."""
    try:
        with Interrupts().installed():
            code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of the output is gone (`hago ... | head`)
        _say_no_more()
        return 0
    except KeyboardInterrupt as stopped:
        signum = int(getattr(stopped, "signum", signal.SIGINT))
        print(f"stopped by {name_of(signum)}: what was not finished has not been written", file=sys.stderr)
        return EXIT_SIGNAL + signum
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError) and is_full(error):
            error = write_failure(error, error.filename or "what was to be written")
            _say_no_more()  # it may be the output itself
        if isinstance(error, HagoError):
            print(f"error: {error}", file=sys.stderr)
            return EXIT_CUT_SHORT if is_full(error) else EXIT_ERROR
        if isinstance(error, MemoryError):
            print(f"error: out of memory: {reason_of(error)}", file=sys.stderr)
            print("  hint: a smaller --batch, fewer samples, or a machine with more memory", file=sys.stderr)
            return EXIT_ERROR
        print(f"fault of Hago's: {visible(reason_of(error))}", file=sys.stderr)
        log = write_log(error, words)
        if log is not None:
            print(f"  the log for a report of it: {log}", file=sys.stderr)
        print("  hint: `hago --debug ...` shows where; the search in --out, if any, can be resumed", file=sys.stderr)
        return EXIT_FAULT


def write_log(error: BaseException, words: Sequence[str]) -> Path | None:
    """Writes versions, the command and the traceback to a file; None if no folder is writable."""
    lines = [
        f"command    hago {shlex.join(words)}",
        f"time       {datetime.now(timezone.utc).isoformat(timespec='seconds')}",
        f"system     {platform.platform()}, Python {platform.python_version()}",
        *(f"{name:10} {version_of(name)}" for name in _PACKAGES),
        "",
        *(line for part in traceback.format_exception(error) for line in part.rstrip("\n").split("\n")),
    ]
    text = "\n".join(visible(line) for line in lines) + "\n"
    name = f"fault-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{os.getpid()}.log"
    for folder in _log_folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
            return path
    return None


def _log_folders() -> list[Path]:
    """The user's state folder, then the temporary folder."""
    folders = [Path(tempfile.gettempdir())]
    with suppress(RuntimeError):  # a user without a home
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        folders.insert(0, Path(state) / "hago")
    return folders


def version_of(name: str) -> str:
    """The version of an installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _say_no_more() -> None:
    """Discards what is still buffered, so that Python does not complain about it at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
