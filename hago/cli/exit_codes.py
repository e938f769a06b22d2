"""The exit codes of ``hago``; docs/usage.md has the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..search import SearchResult

EXIT_NOT_MET = 1
"""The search is done, but no strategy keeps the bound."""
EXIT_ERROR = 2
"""An error that the user can fix; the message says how."""
EXIT_CUT_SHORT = 3
"""The command could not finish, or nothing could be measured."""
EXIT_FAULT = 70
"""A bug in Hago; a log is written for the bug report."""
EXIT_SIGNAL = 128
"""Plus the number of the signal: 143 is SIGTERM, 129 SIGHUP."""
EXIT_INTERRUPTED = EXIT_SIGNAL + 2
"""Ctrl-C."""


def code_of(result: SearchResult) -> int:
    """The exit code of a search: was it cut short, and does its answer keep the bound?"""
    if result.signum is not None:
        return EXIT_SIGNAL + result.signum
    if result.error is not None:
        return EXIT_CUT_SHORT
    return EXIT_NOT_MET if result.outcome == "not met" else 0
