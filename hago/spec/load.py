"""Loads and checks specs, by name or file."""

from __future__ import annotations

import functools
import os
from importlib import resources
from pathlib import Path

from .. import arguments
from ..documents import Document, did_you_mean
from ..errors import SpecError
from .rules import problems_of, to_hardware
from .schema import Problem, SpecFile, parse
from .types import HardwareSpec
from .yaml import read_with_bases

_FAMILIES = ("x86", "arm", "nvidia", "integer")


def shipped_folder() -> Path:
    """The folder of the specs that come with Hago."""
    return Path(str(resources.files("hago.hw_specs")))


@functools.cache
def _shipped() -> dict[str, HardwareSpec | None]:
    """Every shipped spec by name; None for a family, which is not hardware itself."""
    loaded = {path.stem: read_spec(path) for path in sorted(shipped_folder().glob("*.yaml"))}

    def rank(item: tuple[str, HardwareSpec | None]) -> tuple[int, int, int, str]:
        spec = item[1]
        if spec is None:
            return -1, 0, 0, item[0]
        family = _FAMILIES.index(spec.family)
        return family, spec.vector_bits, len(spec.cpu_features), spec.target.get("arch", spec.name)

    return dict(sorted(loaded.items(), key=rank))


def spec_names() -> list[str]:
    """The names of the shipped specs by family, from the simplest to the most capable."""
    return [name for name, spec in _shipped().items() if spec is not None]


def load_spec(name_or_path: str | os.PathLike[str]) -> HardwareSpec:
    """The shipped spec of that name, or the one in that YAML file (a name with ``/`` or ``.yaml``).

    Raises SpecError: unknown name, unreadable file, or a broken rule, with file, line and key path.
    """
    text = arguments.path("a hardware spec", name_or_path, SpecError)
    if not isinstance(name_or_path, str) or text.endswith((".yaml", ".yml")) or os.sep in text:
        spec = read_spec(Path(text))
    elif text in _shipped():
        spec = _shipped()[text]
    else:
        hint = f"{did_you_mean(text, spec_names())} (hago hw list; a file needs its .yaml)"
        raise SpecError("there is no such hardware spec", where=text, hint=hint)
    if spec is None:
        members = [name for name in spec_names() if name.startswith(Path(text).stem)]
        raise SpecError(
            "is a family of specs (abstract: true), not hardware",
            where=text,
            hint=f"choose from: {', '.join(members)}",
        )
    return spec


def read_spec(path: str | os.PathLike[str]) -> HardwareSpec | None:
    """The spec in that file, or None if it is a family (``abstract: true``). Raises SpecError."""
    path = Path(path)
    document, spec, problems = _examine(path)
    if problems:
        raise _error(document, problems, path)
    return None if spec is None or spec.abstract else to_hardware(spec, str(path))


def _examine(path: Path) -> tuple[Document, SpecFile | None, list[Problem]]:
    document = read_with_bases(path, shipped_folder())
    spec, problems = parse(document)
    if spec is not None and not spec.abstract:
        problems = problems_of(spec)
        taken = shipped_folder() / f"{spec.name}.yaml"
        if taken.is_file() and taken.resolve() != path.resolve():
            problems.append(Problem(("name",), f"{spec.name} is the name of a shipped spec: choose another"))
    return document, spec, problems


def check_spec(path: str | os.PathLike[str]) -> list[SpecError]:
    """Every rule that the file breaks, as the errors that `load_spec` would raise one at a time.

    A file that cannot be parsed gives one error, which says why.
    """
    try:
        document, _, problems = _examine(Path(path))
    except SpecError as error:
        return [error]
    return [SpecError(problem.text, where=document.where(problem.path), hint=problem.hint) for problem in problems]


def _error(document: Document, problems: list[Problem], path: Path) -> SpecError:
    first = problems[0]
    more = f"{len(problems) - 1} more: hago hw check {path}" if len(problems) > 1 else None
    hints = [hint for hint in (first.hint, more) if hint]
    return SpecError(first.text, where=document.where(first.path), hint="; ".join(hints) or None)
