"""Layers kept at a precision during a search, by name, glob or operator.

read_keep({"float32": ["head.*", "Softmax"], "int8": ["stem"]})
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ..documents import did_you_mean
from ..errors import SearchError, StrategyError
from ..strategy import op_kind
from .groups import Group
from .option import FLOAT32, granularity_of, precision_of

if TYPE_CHECKING:
    from ..model import Layer


@dataclass(frozen=True)
class Keep:
    """Keeps the layers that match ``pattern`` (glob of names, ONNX operator, or kind of layer) in ``precision``."""

    precision: str
    pattern: str

    def names(self, layer: Layer) -> bool:
        """Whether the pattern matches this layer."""
        return fnmatchcase(layer.name, self.pattern) or self.pattern in (layer.op_type, layer.kind)

    def __str__(self) -> str:
        return f"keep {self.precision} {self.pattern!r}"


def read_keep(asked: Mapping[str, str | Sequence[str]] | Iterable[Sequence[str]] | None) -> tuple[Keep, ...]:
    """Reads what a user wants kept: precision -> patterns, or pairs of both. Raises SearchError."""
    if asked is None:
        return ()
    pairs: list[Any] = []
    if isinstance(asked, Mapping):
        for precision, patterns in asked.items():
            several = [patterns] if isinstance(patterns, str) or not isinstance(patterns, Iterable) else patterns
            pairs += [(precision, pattern) for pattern in several]
    elif isinstance(asked, Iterable) and not isinstance(asked, str):
        pairs = list(asked)
    else:
        pairs = [asked]
    found = []
    for pair in pairs:
        is_pair = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not is_pair or not all(isinstance(part, str) and part for part in pair):
            raise SearchError(
                f"keep must name precisions and their layers, got {asked!r}",
                hint="keep={'float32': ['head.*', 'Softmax']}, or --keep float32 'head.*'",
            )
        found.append(Keep(*pair))
    return tuple(dict.fromkeys(found))


def check_keep(keep: Collection[Keep], layers: Sequence[Layer], searched: Collection[str]) -> None:
    """Raises StrategyError for a pattern that matches no layer, or only layers that always run in float32.

    ``searched`` are the layers that have a choice.
    """
    for each in keep:
        named = [layer for layer in layers if each.names(layer)]
        if not named:
            known = dict.fromkeys([*(layer.name for layer in layers), *(layer.op_type for layer in layers)])
            raise StrategyError(
                f"no layer is named by {each.pattern!r}", where=str(each), hint=did_you_mean(each.pattern, known)
            )
        if each.precision == FLOAT32:
            continue
        for layer in named:
            if layer.name not in searched:
                raise StrategyError(
                    f"{layer.name} cannot run in {each.precision}: {layer.reason or 'this hardware has no other way'}",
                    where=str(each),
                    hint="name the layers apart: `hago inspect MODEL` lists them",
                )


def allowed_options(group: Group, knobs: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The options of a group with the precisions and granularities asked for; its last option if there are none."""
    precisions, granularities = knobs.get("precision"), knobs.get("granularity")

    def is_allowed(option: str) -> bool:
        granularity = granularity_of(option)
        is_wanted = granularities is None or granularity is None or str(granularity) in granularities
        return is_wanted and (precisions is None or precision_of(option) in precisions)

    return tuple(filter(is_allowed, group.options)) or group.options[-1:]


def kept_options(group: Group, layers: Mapping[str, Layer], keep: Collection[Keep]) -> tuple[str, ...]:
    """The options that remain for a group. Raises StrategyError if there are none."""
    left = group.options
    for each in keep:
        for member in group.members:
            if not each.names(layers[member.layer]):
                continue
            fitting = tuple(
                option for option in left if each.precision in (precision_of(option), member.ways[option].precision)
            )
            if not fitting:
                others = [name for name in group.layers if name != member.layer]
                offered = ", ".join(dict.fromkeys(map(precision_of, left)))
                raise StrategyError(
                    f"{member.layer} has no {each.precision} here: {offered} are left",
                    where=str(each),
                    hint=f"{op_kind(layers[member.layer])} must agree with {', '.join(others)}" if others else None,
                )
            left = fitting
    return left
