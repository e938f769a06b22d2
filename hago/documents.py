"""Strict reader for YAML and JSON files: hardware specs, strategies, devices, preprocessing, and Hago's own files.

The language is a subset of YAML 1.1 without surprises: text, integers, decimal numbers, true and false, null, lists and
mappings. ``no``, ``on`` and ``1:30`` are text. Anchors, tags, merge keys and repeated keys are rejected. JSON is strict
too: no NaN, no infinity, no number too large for a float, no repeated key.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .errors import HagoError

KeyPath = tuple[str | int, ...]
Raise = Callable[..., HagoError]
_LARGEST_BYTES = 4 << 20
_DEEPEST = 64
_MOST_NAMES = 40
# libyaml reads a megabyte in half a second; PyYAML without libyaml takes half a minute.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"(?:null|~|)"), lambda text: None),
    (re.compile(r"(?:true|false)"), lambda text: text == "true"),
    (re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})"), int),
    (re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{1,18}"), float),
)


@dataclass(frozen=True)
class Location:
    """The file and line of a key."""

    file: str
    line: int


@dataclass(frozen=True)
class Document:
    """The content of a file; ``places`` maps each key path to the line that set it (not for JSON)."""

    file: str
    data: dict[str, Any]
    places: Mapping[KeyPath, Location]

    def where(self, path: KeyPath) -> str:
        """``file:line: key.path`` of the closest key that exists, and the origin of an inherited key."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        place = self.places.get(known, Location(self.file, 1))
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
    """``did you mean 'x'?``, or the list of known words if none is close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return f"known: {', '.join(known[:_MOST_NAMES])}{more}"


def is_json(path: str | os.PathLike[str]) -> bool:
    """Whether the file name ends in ``.json``; all others are YAML."""
    return Path(path).suffix.lower() == ".json"


def read_document(
    path: str | os.PathLike[str], *, error: Raise, hint: str | None = None, largest_bytes: int = _LARGEST_BYTES
) -> Document:
    """Reads one file: JSON if its name ends in ``.json``, else YAML. It must hold a mapping.

    Raises ``error``, a class of `HagoError`: no such file, too large, not UTF-8, invalid syntax (with line and column),
    a repeated key, an anchor or tag, nested deeper than 64, anything but a mapping. ``hint`` is used for a missing file
    and for one that holds no mapping.
    """
    file = str(path)
    try:
        with open(path, "rb") as stream:
            raw = stream.read(largest_bytes + 1)
    except (OSError, ValueError) as caught:
        reason = getattr(caught, "strerror", None) or caught
        raise error(f"cannot be read: {reason}", where=file, hint=hint) from caught
    if len(raw) > largest_bytes:
        raise error(f"is larger than {largest_bytes >> 20} MiB, too large for such a file", where=file)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as caught:
        raise error("is not UTF-8 text", where=file, hint="save it as UTF-8") from caught
    places: dict[KeyPath, Location] = {}
    if is_json(path):
        try:
            data = parse_json(text)
        except json.JSONDecodeError as caught:
            raise error(f"broken JSON: {caught.msg}", where=f"{file}:{caught.lineno}:{caught.colno}") from caught
        except ValueError as caught:
            raise error(f"broken JSON: {caught}", where=file) from caught
    else:
        data = _parse_yaml(text, file, places, error)
    if not isinstance(data, dict):
        raise error("must be a mapping of keys to values", where=file, hint=hint)
    return Document(file, data, places)


def mapping(data: Any, where: str | None, *, error: Raise, known: Iterable[str] | None = None) -> dict[str, Any]:
    """A copy of ``data``, which must be a mapping from text with only ``known`` keys. Raises ``error``."""
    if not isinstance(data, Mapping):
        raise error(f"must be a mapping, found {type(data).__name__}", where=where)
    for key in data:
        if not isinstance(key, str):
            raise error(f"a key must be text, found {key!r}", where=where, hint="put it in quotes")
        if known is not None and key not in known:
            raise error(f"unknown key {key!r}", where=where, hint=did_you_mean(key, known))
    return dict(data)


def parse_json(text: str) -> Any:
    """The value of a JSON text, parsed strictly. Raises ValueError."""
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
        if "\\ud" in text.lower():
            json.dumps(data, ensure_ascii=False).encode("utf-8")  # a lone surrogate cannot be written again
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half of a surrogate pair") from error
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(k for k in keys if keys.count(k) > 1)!r}")
    return result


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _parse_yaml(text: str, file: str, places: dict[KeyPath, Location], error: Raise) -> Any:
    """The value of a YAML text; fills ``places``. Raises ``error``."""
    try:
        return _YamlReader(text, file, places, error).document()
    except yaml.reader.ReaderError as caught:
        raise error(f"holds a character that YAML does not allow: {caught.reason}", where=file) from caught
    except yaml.MarkedYAMLError as caught:
        mark = caught.problem_mark or caught.context_mark
        at = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise error(f"broken YAML: {caught.problem or caught.context}", where=at) from caught
    except (UnicodeError, RecursionError) as caught:  # lone surrogates; unclosed brackets
        raise error(f"broken YAML: {caught}", where=file) from caught


class _YamlReader:
    """Builds values from the events of one document, ten times as fast as from PyYAML's nodes."""

    def __init__(self, text: str, file: str, places: dict[KeyPath, Location], error: Raise) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self._file, self._places, self._error = file, places, error

    def document(self) -> Any:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), ())
        next(self._events)  # the document's end
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            self._broken("there is a second document", following)
        return value

    def _value(self, event: Any, path: KeyPath) -> Any:
        self._check(event, path)
        self._places.setdefault(path, Location(self._file, event.start_mark.line + 1))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if len(path) >= _DEEPEST:
            self._broken("nested too deeply", event)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(event, (*path, len(items))))
            return items
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path, mapping)
            mapping[key] = self._value(next(self._events), (*path, key))
        return mapping

    def _key(self, event: Any, path: KeyPath, known: Mapping[str, Any]) -> str:
        self._check(event, path)
        line = event.start_mark.line + 1
        at = f"{self._file}:{line}"
        key = self._scalar(event) if isinstance(event, yaml.ScalarEvent) else None
        if not isinstance(key, str):
            at = f"{at}: {dotted(path)}" if path else at
            raise self._error("a key must be text", where=at, hint="put it in quotes")
        if key in known:
            text = f"duplicate key, first in line {self._places[(*path, key)].line}"
            raise self._error(text, where=f"{at}: {dotted((*path, key))}")
        self._places[(*path, key)] = Location(self._file, line)
        return key

    @staticmethod
    def _scalar(event: Any) -> Any:
        event.value.encode("utf-8")  # a lone surrogate, which PyYAML accepts, cannot be written again
        if event.implicit[0]:
            for pattern, read in _PLAIN:
                if pattern.fullmatch(event.value):
                    return read(event.value)
        return event.value

    def _check(self, event: Any, path: KeyPath) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self._broken("anchors and aliases are not allowed", event)
        if event.tag is not None:
            at = f"{self._file}:{event.start_mark.line + 1}"
            at = f"{at}: {dotted(path)}" if path else at
            raise self._error(f"the tag {event.tag!r} is not allowed", where=at)

    def _broken(self, problem: str, event: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
