"""Makes text from models, files and devices safe to print: on a terminal, in a report, in an error.

A name may contain escape sequences that clear a terminal, retitle its window or hide what follows, characters that
reverse the writing direction, or line breaks. All of them are escaped.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

# Controls (C0, DEL, C1), invisible marks, line and paragraph separators, direction overrides, surrogates.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: object, *, lines: bool = False) -> str:
    r"""``text`` with invisible characters escaped, such as ``\x1b`` or ``\u202e``.

    ``lines`` keeps the line breaks of a text that may have several lines.
    """
    shown = str(text)
    if lines:
        return "\n".join(visible(line) for line in shown.split("\n"))
    return _UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), shown)


def plain_markdown(text: str) -> str:
    """``text`` escaped for Markdown, on one line."""
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", visible(" ".join(text.split())))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cell(text: object, style: str = "") -> Text:
    """``text`` for a table or a line of rich, with markup printed literally."""
    from rich.text import Text

    return Text(visible(text), style=style)
