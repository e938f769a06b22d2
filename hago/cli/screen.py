"""The console that tables are printed to."""

from __future__ import annotations

from rich.console import Console

PIPED_WIDTH = 160
"""Width of a table that goes into a file or a pipe, in columns."""


class Screen(Console):
    """rich's console on standard output. Raises BrokenPipeError if the reader is gone, as `print` does."""

    def on_broken_pipe(self) -> None:
        """Lets the command end as it does where `print` finds that nobody reads its output."""
        raise BrokenPipeError


def screen(piped_width: int = PIPED_WIDTH) -> Screen:
    """Standard output: as wide as the terminal, or ``piped_width`` columns if it is not one."""
    console = Screen(highlight=False)
    return console if console.is_terminal else Screen(highlight=False, width=piped_width)
