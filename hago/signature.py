"""Lists all options of a search in the signature of a function that takes ``**options``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from .options import KINDS, each_option

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

# The order of parameters that `hago.tune` has always had; newer options follow.
_PROMISED = ("hw", "data", "calibration", "metric", "max_drop", "trials", "budget", "seed", "threads", "out", "test")


def takes_options(*without: str) -> Callable[[AnyFunction], AnyFunction]:
    """Decorates a function of ``**options``: its signature lists all but those ``without``, for help() and editors."""

    def decorate(function: AnyFunction) -> AnyFunction:
        own = inspect.signature(function)
        shown = {p.name: p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD}
        for item in each_option(without):
            shown.setdefault(item.name, _parameter(item.name, item.default, item.type))
        for kind, cls in KINDS.items():
            if any(item.name not in without for item in fields(cls)):
                shown[kind] = _parameter(kind, None, f"{cls.__name__} | None")
        places = {name: number for number, name in enumerate(_PROMISED)}
        ordered = sorted(shown.values(), key=lambda p: (p.kind, places.get(p.name, len(places))))
        function.__signature__ = own.replace(parameters=ordered)  # type: ignore[attr-defined]
        return function

    return decorate


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
