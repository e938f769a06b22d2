"""Tables of text, for HTML and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..text import NOTHING
from ..visible import plain_markdown, visible


class Name(str):
    """A literal name, such as a layer's or a file's. Set in fixed width."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header. The first column names its row; those in ``numbers`` align right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    caption: str = ""

    @classmethod
    def of(
        cls,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        numbers: Sequence[int] = (),
        caption: str = "",
    ) -> Table:
        """The table without its empty columns."""
        kept = [i for i in range(len(header)) if i == 0 or any(row[i] not in ("", NOTHING) for row in rows)]
        return cls(
            tuple(header[i] for i in kept),
            tuple(tuple(row[i] for i in kept) for row in rows),
            frozenset(kept.index(i) for i in numbers if i in kept),
            caption,
        )

    def markdown(self) -> str:
        """The table in GitHub's Markdown, with escaped cells."""
        marks = ["---:" if i in self.numbers else "---" for i in range(len(self.header))]
        lines = [[markdown(cell) for cell in self.header], marks]
        lines += [[markdown(cell) for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(text: str) -> str:
    """``text`` escaped for Markdown, on one line; a `Name` becomes code."""
    return _code(visible(text).strip()) if isinstance(text, Name) else plain_markdown(text)


def _code(text: str) -> str:
    """A code span, fenced by more backticks than the text has in a row; pipes are escaped for tables."""
    if not text:
        return ""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")
