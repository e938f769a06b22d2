"""Signals that end a run: Ctrl-C, SIGTERM (Slurm, Kubernetes, ``docker stop``) and SIGHUP (a closed terminal)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """Raised for Ctrl-C or another signal that ends the run."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__()
        self.signum = signum


class Interrupts:
    """Handles Ctrl-C, SIGTERM and SIGHUP where they do no harm.

    Inside :meth:`allowed` the first signal raises :class:`Stopped` at once. Inside :meth:`careful` and outside
    `allowed` (while a result is being written) it is deferred to the next `allowed`. A second signal always raises at
    once. ``signum`` is the first signal, or None. Signals are left alone outside the main thread, if they are ignored
    (nohup), or if the program handles them itself (except Ctrl-C). Nested handlers take over for their block.
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
        """Handles the signals during the block."""
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
        """A block that the first signal may interrupt only inside :meth:`allowed`."""
        before, self._allowed = self._allowed, False
        try:
            yield
        finally:
            self._allowed = before

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A block that a signal may interrupt at any point."""
        before, self._allowed = self._allowed, True
        try:
            if self._pending:
                self._pending = False
                raise Stopped(self.signum or signal.SIGINT)
            yield
        finally:
            self._allowed = before


def name_of(signum: int) -> str:
    """The common name of the signal."""
    return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


def _is_free(handler: Callable[..., Any] | int | None) -> bool:
    """Whether the program does not handle the signal itself."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    return handler in usual or isinstance(getattr(handler, "__self__", None), Interrupts)
