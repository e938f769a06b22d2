"""Reads the YAML of a hardware spec and follows ``extends:``; the syntax is that of `hago.documents`.

Merging a spec into the one it extends: mappings are merged key by key, at every depth; anything else
(text, numbers, whole lists) replaces what was inherited; null removes it. ``name``, ``description``
and ``abstract`` are never inherited.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..documents import Document, did_you_mean, read_document
from ..errors import SpecError

OWN_KEYS = ("name", "description", "abstract")  # never inherited
_LARGEST_BYTES = 1 << 20


def read_with_bases(path: Path, shipped: Path) -> Document:
    """Reads a spec and everything that it extends, merged.

    ``extends`` is the name of a file in the folder ``shipped`` or, if it ends in ``.yaml`` or ``.yml``,
    a path relative to the file that contains it. Raises SpecError for an unknown base or a cycle.
    """
    chain: list[Document] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        document = read_document(current, error=SpecError, largest_bytes=_LARGEST_BYTES)
        seen.append(current.resolve())
        chain.append(document)
        base = document.data.get("extends")
        if base is None:
            break
        where = document.where(("extends",))
        if not isinstance(base, str):
            raise SpecError(f"must be the name of a spec, found {base!r}", where=where)
        following = _base_path(base, current, shipped)
        if not following.is_file():
            hint = did_you_mean(base, sorted(p.stem for p in shipped.glob("*.yaml")))
            raise SpecError(f"there is no spec {base!r} to extend", where=where, hint=hint)
        if following.resolve() in seen:
            names = " -> ".join(p.stem for p in [*seen, following])
            raise SpecError(f"a spec cannot extend itself: {names}", where=where)
        current = following
    merged = chain[-1]
    for document in reversed(chain[:-1]):
        merged = _merge(merged, document)
    return merged


def _base_path(base: str, file: Path, shipped: Path) -> Path:
    if base.endswith((".yaml", ".yml")):
        return file.parent / base
    # A bare name never leaves the shipped folder.
    return shipped / f"{Path(base).name}.yaml" if base == Path(base).name else file.parent / base


def _merge(base: Document, own: Document) -> Document:
    def merge(old: Any, new: Any) -> Any:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return new
        return {**old, **{key: merge(old[key], value) if key in old else value for key, value in new.items()}}

    inherited = {key: value for key, value in base.data.items() if key not in (*OWN_KEYS, "extends")}
    # Positions of replaced values remain, but no key path leads to them any more.
    return Document(own.file, merge(inherited, own.data), {**base.places, **own.places})
