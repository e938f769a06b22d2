"""Writes docs/errors.md: bad inputs and the message that each gets, found by giving them.

    python scripts/error_table.py

The cases are those of tests/bad_input_cases.py, and tests/test_bad_inputs.py holds the file to be up to date.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from bad_input_cases import CASES  # noqa: E402
from bad_inputs import BadInput  # noqa: E402

from hago.errors import HagoError  # noqa: E402

FILE = ROOT / "docs" / "errors.md"
_HEAD = """\
# Bad inputs, and what Hago says

Every error says what is wrong, where, and (where there is something to be done) what to do next. On the
command line it is one message and exit code 2 (3 for a full disk); `hago --debug ...` shows the traceback as well.
In Python it is a `hago.HagoError` of the type in the last column, with the parts as `.what`, `.where` and `.hint`.

This file is written by `python scripts/error_table.py`, which gives every input for real; a test holds it
to be up to date.
"""
# What depends on the versions installed.
_VARYING = (
    (re.compile(r"tvm-\d[\w.]*-[0-9a-f]{12}"), "tvm-VERSION"),
    (re.compile(r"\b7 to \d+ are supported"), "7 to N are supported"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "HASH"),
)


def row(case: BadInput, error: HagoError) -> str:
    """The line of the table for one case."""
    message = "<br>".join(f"`{line}`" for line in _lines(str(error)))
    command = "<br>".join(f"`{line}`" for line in case.command.splitlines())
    cells = (case.title, command, message, f"`{type(error).__name__}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _lines(message: str) -> list[str]:
    for pattern, name in _VARYING:
        message = pattern.sub(name, message)
    return [line.strip().replace("`", "'") for line in message.splitlines()]


def page(rows: dict[BadInput, str]) -> str:
    """The whole file."""
    parts = [_HEAD]
    for group, cases in groupby(rows, lambda case: case.group):
        parts.append(f"## {group}\n\n| what is wrong | given as | message | type |\n|---|---|---|---|")
        parts.append("\n".join(rows[case] for case in cases) + "\n")
    return "\n".join(parts)


def main() -> None:
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        for number, case in enumerate(CASES):
            folder = Path(place) / str(number)
            folder.mkdir()
            rows[case] = row(case, case.run(folder))
    FILE.write_text(page(rows), encoding="utf-8")
    print(f"{FILE.relative_to(ROOT)}: {len(rows)} bad inputs")


if __name__ == "__main__":
    main()
