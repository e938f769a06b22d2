"""What a target registers: emitters of operators, and templates of the parameters that planners make."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from .calls import Emitter, Template


class Registry:
    """The emitters and templates of one target."""

    def __init__(self) -> None:
        self.emitters: dict[tuple[str, str], Emitter] = {}
        self.templates: dict[type, Template] = {}

    def emits(self, domain: str, *ops: str) -> Callable[[Emitter], Emitter]:
        """Registers the decorated function as the emitter of those operators."""

        def register(function: Emitter) -> Emitter:
            self.emitters.update({(domain, op): function for op in ops})
            return function

        return register

    def computes(self, *params: type) -> Callable[[Template], Template]:
        """Registers the decorated function as the template of those parameters (`hago.kernels.common.plans`)."""

        def register(function: Template) -> Template:
            self.templates.update(dict.fromkeys(params, function))
            return function

        return register


def import_modules(package: str) -> None:
    """Imports a target's modules, so that they register what they have; its backend is what asks for it."""
    for module in iter_modules(import_module(package).__path__):
        if module.name != "backend":
            import_module(f"{package}.{module.name}")
