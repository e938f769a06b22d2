"""Reads the YAML of a hardware spec strictly, follows ``extends:``, and remembers where each key stood.

The language is smaller than YAML 1.1, so that a file means what it seems to: text, whole numbers,
decimal numbers, true and false, null, lists and mappings. ``no`` and ``on`` are text, ``1:30`` is text,
anchors, tags and merge keys are refused, and so is a key said twice.

Merging a spec onto the one it extends: mappings are merged key by key, at every depth; anything else
(text, numbers, whole lists) replaces what was inherited; null takes it away. ``name``, ``description``
and ``abstract`` are never inherited.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import SpecError

KeyPath = tuple[str | int, ...]
OWN_KEYS = ("name", "description", "abstract")  # never inherited
_LARGEST_FILE = 1 << 20
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Place:
    """Where a key stands."""

    file: str
    line: int


@dataclass(frozen=True)
class Document:
    """The merged content of a spec file; ``places`` leads from each key path to the file that set it."""

    file: str
    data: dict[str, Any]
    places: Mapping[KeyPath, Place]

    def where(self, path: KeyPath) -> str:
        """``file:line: key.path``, at the closest key that exists; where inherited, from which line."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        place = self.places.get(known, Place(self.file, 1))
        if not known:
            return f"{self.file}: {dotted(path)}" if path else self.file
        if place.file == self.file:
            return f"{place.file}:{place.line}: {dotted(path)}"
        return f"{self.file}: {dotted(path)} (inherited from {place.file}:{place.line})"


def dotted(path: KeyPath) -> str:
    """``("ops", "conv", 0)`` is written ``ops.conv[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or the list of what is known where nothing is close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own protocol)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            problem = "anchors and aliases are not allowed (share through extends: or like:)"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return super().compose_node(parent, index)


for _name, _pattern, _first in (
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("bool", r"^(?:true|false)$", ["t", "f"]),
    ("int", r"^[-+]?[0-9]{1,18}$", list("-+0123456789")),
    ("float", r"^[-+]?[0-9]{1,18}\.[0-9]{1,18}$", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)  # type: ignore[no-untyped-call]


def read_document(path: Path) -> Document:
    """Reads one spec file, without what it extends.

    Raises SpecError: no such file, not text, broken YAML (with line and column), a repeated key,
    an anchor or tag, or anything but a mapping.
    """
    file = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", where=file) from error
    if len(raw) > _LARGEST_FILE:
        raise SpecError(f"is {len(raw)} bytes long: no hardware spec", where=file)
    try:
        loader = _Loader(raw.decode("utf-8"))
        node = loader.get_single_node()
        places: dict[KeyPath, Place] = {}
        data = _value(node, (), file, places)
    except UnicodeDecodeError as error:
        raise SpecError("is not UTF-8 text", where=file) from error
    except yaml.reader.ReaderError as error:
        raise SpecError(f"holds a character that YAML does not allow: {error.reason}", where=file) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise SpecError(f"broken YAML: {error.problem or error.context}", where=at) from error
    except RecursionError as error:
        raise SpecError("broken YAML: nested too deeply", where=file) from error
    if not isinstance(data, dict):
        raise SpecError("must be a mapping of keys to values", where=file)
    return Document(file, data, places)


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "null": lambda text: None,
    "bool": lambda text: text == "true",
}


def _value(node: yaml.Node | None, path: KeyPath, file: str, places: dict[KeyPath, Place]) -> Any:
    if node is None:
        return None
    places.setdefault(path, Place(file, node.start_mark.line + 1))
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            at = f"{file}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                at = f"{at}: {dotted(path)}" if path else at
                raise SpecError("a key must be text", where=at, hint="put it in quotes")
            key = key_node.value
            if key in result:
                text = f"the key stands here a second time, after line {places[(*path, key)].line}"
                raise SpecError(text, where=f"{at}: {dotted((*path, key))}")
            places[(*path, key)] = Place(file, key_node.start_mark.line + 1)
            result[key] = _value(value_node, (*path, key), file, places)
        return result
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_value(item, (*path, index), file, places) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        reader = _SCALARS.get(node.tag.removeprefix(_TAG))
        if reader is not None:
            try:
                return reader(node.value)
            except ValueError:  # an explicit tag, such as !!int on a word
                pass
    at = f"{file}:{node.start_mark.line + 1}: {dotted(path)}"
    raise SpecError(f"the tag {node.tag!r} is not allowed", where=at)


def read_with_bases(path: Path, shipped: Path) -> Document:
    """Reads a spec and everything that it extends, merged.

    ``extends`` is the name of a file in the folder ``shipped``, or, where it ends in ``.yaml`` or
    ``.yml``, a path relative to the file that says it. Raises SpecError on an unknown base or a cycle.
    """
    chain: list[Document] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        document = read_document(current)
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
    # Places of what was replaced stay behind, but no key path leads to them any more.
    return Document(own.file, merge(inherited, own.data), {**base.places, **own.places})
