"""The command-line flags of the options, generated from their fields."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ..options import each_option


def add_flags(parser: Any, *names: str) -> None:
    """Adds the flags of these options to a parser or an argument group."""
    items = {item.name: item for item in each_option()}
    for name in names:
        known = items[name].metadata
        flag = known["flag"] or f"--{name.replace('_', '-')}"
        parser.add_argument(flag, dest=name, default=known["shell"], help=known["help"], **known["argument"])


def flag_names(*kinds: type, without: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the options in these values that have a flag."""
    items = [item for kind in kinds for item in fields(kind)]
    return tuple(i.name for i in items if i.metadata["flag"] is not None and i.name not in without)


def from_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """The options among a command's arguments, as keywords for `read_options`."""
    return {item.name: getattr(parsed, item.name) for item in each_option() if hasattr(parsed, item.name)}
