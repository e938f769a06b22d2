"""The terminal that tables go to."""

from __future__ import annotations

from rich.console import Console

PIPED_WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""


class Screen(Console):
    """rich's console on standard output; a reader that has gone is told to the caller, as `print` does."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def screen(piped_width: int = PIPED_WIDTH) -> Screen:
    """Standard output: as wide as the terminal, or ``piped_width`` where there is none."""
    console = Screen(highlight=False)
    return console if console.is_terminal else Screen(highlight=False, width=piped_width)
