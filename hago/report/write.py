"""Writes a report: ``report.html``, one self-contained file, and ``report.md``."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from ..files import write_atomic
from ..result_files import HTML_FILE, MARKDOWN_FILE
from ..text import no_break
from ..visible import visible
from .data import ReportData
from .page import colour_class, make_page
from .tables import Name, markdown

_FOLDER = Path(__file__).parent


def write_report(report: ReportData, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes both files into ``folder``, each whole or not at all; returns their paths.

    Raises StorageError if they cannot be written.
    """
    target = Path(folder)
    page = {"page": make_page(report), "report": report}
    html, text = templates().get_template("report.html.j2"), templates().get_template("report.md.j2")
    write_atomic(target / HTML_FILE, html.render(page))
    write_atomic(target / MARKDOWN_FILE, text.render(page))
    return target / HTML_FILE, target / MARKDOWN_FILE


def _shown(value: Any) -> Any:
    """What a template prints: names from models and files may contain invisible characters."""
    return visible(value, lines=True) if isinstance(value, str) and not hasattr(value, "__html__") else value


@cache
def templates() -> jinja2.Environment:
    """The templates. All values are escaped except for our style sheet."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=lambda name: name is not None and not name.endswith(".md.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters.update(nb=no_break, md=markdown, colour=colour_class)
    environment.filters["code"] = lambda text: markdown(Name(text))
    environment.tests["name"] = lambda value: isinstance(value, Name)
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    environment.globals["style"] = jinja2.utils.markupsafe.Markup(style)
    return environment
