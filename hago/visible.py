"""Text that came with a model, a file or a device, made safe to show: on a terminal, in a report, in an error.

A name may hold escape sequences that clear a terminal, retitle its window or hide what follows, characters that
turn the direction of writing, or line ends that begin a line of their own. All of them are shown, none is sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

# Controls (C0, DEL, C1), marks that nobody sees, line and paragraph ends, overrides of direction, halves of characters.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: object, *, lines: bool = False) -> str:
    r"""``text`` with everything that a reader cannot see written out, such as ``\x1b`` or ``\u202e``.

    ``lines`` keeps the line ends of a text that is meant to have several lines.
    """
    shown = str(text)
    if lines:
        return "\n".join(visible(line) for line in shown.split("\n"))
    return _UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), shown)


def plain_markdown(text: str) -> str:
    """``text`` such that Markdown shows it as it is, on one line."""
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", visible(" ".join(text.split())))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cell(text: object, style: str = "") -> Text:
    """``text`` for a table or a line of rich's: markup in it is printed as it stands."""
    from rich.text import Text

    return Text(visible(text), style=style)
