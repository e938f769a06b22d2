"""Signals that ask for the end: Ctrl-C, SIGTERM (Slurm, Kubernetes, ``docker stop``) and SIGHUP (a terminal closed)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or another signal that asks for the end."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__()
        self.signum = signum


class Interrupts:
    """Ctrl-C, SIGTERM and SIGHUP, taken where they do no harm.

    Inside :meth:`allowed` the first one raises :class:`Stopped` at once; within :meth:`careful` and outside of
    `allowed` (while a result is being written) it is kept and raised at the next `allowed`. A second one raises
    at once, wherever it comes. ``signum`` is the first, None as long as none came. Outside the main thread signals are
    left alone, and so are those that are ignored (nohup) or, but for Ctrl-C, that the program takes itself. One within
    another takes them for its time.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._pending = False
        self._allowed = True

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self.signum = self.signum is not None, self.signum or signum
        if again or self._allowed:
            self._pending = False
            raise Stopped(self.signum)
        self._pending = True

    @contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Takes the signals for the time of the block."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        kept = {}
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and _is_free(signal.getsignal(number)):
                kept[number] = signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, before in kept.items():
                signal.signal(number, before)

    @contextmanager
    def careful(self) -> Iterator[None]:
        """A block that the first signal may leave within :meth:`allowed` alone."""
        before, self._allowed = self._allowed, False
        try:
            yield
        finally:
            self._allowed = before

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A block that a signal may leave at any point."""
        before, self._allowed = self._allowed, True
        try:
            if self._pending:
                self._pending = False
                raise Stopped(self.signum or signal.SIGINT)
            yield
        finally:
            self._allowed = before


def name_of(signum: int) -> str:
    """What people call the signal."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def _is_free(handler: Callable[..., Any] | int | None) -> bool:
    """Whether the program does nothing of its own with a signal."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    return handler in usual or isinstance(getattr(handler, "__self__", None), Interrupts)
