"""An option of a group, as text: a precision and, where weights are quantized, their granularity: int8/per_channel."""

from __future__ import annotations

from ..precision import FLOAT32
from ..scheme import Granularity

__all__ = ["FLOAT32", "granularity_of", "kind_of", "option_of", "precision_of"]


def option_of(precision: str, granularity: Granularity | None = None) -> str:
    """The text of a precision and the granularity of its weights (None: no weights)."""
    return precision if granularity is None else f"{precision}/{granularity}"


def precision_of(option: str) -> str:
    """Its precision."""
    return option.partition("/")[0]


def granularity_of(option: str) -> Granularity | None:
    """The granularity of an option's weights; None without weights."""
    text = option.partition("/")[2]
    return Granularity.parse(text) if text else None


def kind_of(option: str) -> str:
    """The kind of that granularity, without the size of groups; empty without weights."""
    return option.partition("/")[2].partition(":")[0]
