"""Generates the table of options in docs/api.md from the fields of hago/options.py.

    python scripts/option_table.py

tests/test_options.py checks that the file is up to date.
"""

from __future__ import annotations

import re
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from hago.options import KINDS

FILE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
_BEGIN, _END = "<!-- options: written by scripts/option_table.py -->\n", "<!-- end of options -->\n"


def table() -> str:
    """A row for each option, grouped by the value that holds it."""
    rows = ["| option | default | flag | meaning |", "|---|---|---|---|"]
    for kind, cls in KINDS.items():
        rows.append(f"| **`{kind}=hago.{cls.__name__}(...)`** | | | |")
        rows += [_row(item) for item in fields(cls)]
    return "\n".join(rows) + "\n"


def _row(item: Field[Any]) -> str:
    known = item.metadata
    flag = "" if known["flag"] is None else f"`{known['flag'] or '--' + item.name.replace('_', '-')}`"
    what = re.sub(r" \(default: (%\(default\)s(; |, )?)?([^)]*)\)", _note, known["help"]).replace("%%", "%")
    return f"| `{item.name}` | `{item.default!r}` | {flag} | {what} |"


def _note(match: re.Match[str]) -> str:
    """The text in parentheses without the default, which has its own column, unless it is described in words."""
    described = "" if match[1] else "default: "
    return f" ({described}{match[3]})" if match[3] else ""


def page(text: str) -> str:
    """The file with its table regenerated."""
    before, rest = text.split(_BEGIN)
    return before + _BEGIN + table() + _END + rest.split(_END)[1]


def main() -> None:
    FILE.write_text(page(FILE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
