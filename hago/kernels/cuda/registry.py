"""The emitters of NVIDIA GPUs: operator -> the function that turns a node into kernel calls."""

from __future__ import annotations

from collections.abc import Callable

from ..common.calls import Emitter

EMITTERS: dict[tuple[str, str], Emitter] = {}


def emits(domain: str, *ops: str) -> Callable[[Emitter], Emitter]:
    """Registers the decorated function as the emitter of those operators."""

    def register(function: Emitter) -> Emitter:
        for op in ops:
            EMITTERS[domain, op] = function
        return function

    return register
