"""Reading a strategy file as plain data, strictly: no tags, anchors or duplicate keys, clear refusals."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import StrategyError

_MAX_FILE_BYTES = 16 << 20


def read_plain(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file, or a JSON file where the name ends in ``.json``, as plain data.

    Raises StrategyError naming the file.
    """
    where = str(path)
    try:
        if os.path.getsize(path) > _MAX_FILE_BYTES:
            raise StrategyError("is too large for a strategy (16 MB)", where=where)
        text = Path(path).read_text(encoding="utf-8")
        if is_json(path):
            return json.loads(text, object_pairs_hook=_unique_pairs)
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader, only stricter
    except OSError as error:
        raise StrategyError(f"cannot be read: {error.strerror}", where=where) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StrategyError(f"is not valid: {error}", where=where) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def is_json(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() == ".json"


def mapping(data: Any, where: str | None, known: tuple[str, ...] | None) -> dict[str, Any]:
    """A copy of ``data``, which must be a mapping from strings, with no key that is not ``known``."""
    if not isinstance(data, Mapping):
        raise StrategyError(f"must be a mapping, found {type(data).__name__}", where=where)
    for key in data:
        if not isinstance(key, str):
            raise StrategyError(f"a key must be a string, found {key!r}", where=where, hint="quote it")
        if known is not None and key not in known:
            raise StrategyError(
                f"unknown key {key!r}{did_you_mean(key, known)}",
                where=where,
                hint=f"known keys: {', '.join(known)}",
            )
    return dict(data)


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands there twice")
    return result


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases (they can blow up a small file) and without duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.YAMLError(f"aliases are not allowed (line {mark.line + 1})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} stands there twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)
