"""What ``hago`` tells by its exit code; docs/usage.md has the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..search import SearchResult

EXIT_NOT_MET = 1
"""The search is done, and no strategy keeps the bound."""
EXIT_ERROR = 2
"""The user can mend it: the message says what."""
EXIT_CUT_SHORT = 3
"""What was begun could not be done to the end, or nothing of it could be measured."""
EXIT_FAULT = 70
"""A fault of Hago's, with a log for its report."""
EXIT_SIGNAL = 128
"""And the number of the signal: 143 is SIGTERM, 129 SIGHUP."""
EXIT_INTERRUPTED = EXIT_SIGNAL + 2
"""Ctrl-C."""


def code_of(result: SearchResult) -> int:
    """That of a search: whether it was cut short, and whether its answer keeps the bound."""
    if result.signum is not None:
        return EXIT_SIGNAL + result.signum
    if result.error is not None:
        return EXIT_CUT_SHORT
    return EXIT_NOT_MET if result.outcome == "not met" else 0
