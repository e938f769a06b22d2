"""Everything needed to compile for a processor; importing this registers all emitters of the folder."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..common.backend import Backend, Code
from ..common.calls import KernelCall
from ..common.elementwise_ops import supported
from ..common.fusion import fuse_elementwise
from ..common.plans import emitters
from ..common.registry import import_modules
from .executor import EXECUTOR
from .fallback import emit_fallback, fallback
from .families import FAMILIES, Isa
from .pipeline import compile_template
from .registry import EMITTERS, TEMPLATES

import_modules(__package__ or "")


def compile_call(call: KernelCall, isa: Isa, threads: int, symbol: str, target: Any) -> Code:
    """The kernel of ``call`` under the name ``symbol``."""
    function = call.template(call.params, isa, threads)
    return Code(compile_template(function, symbol, target, general=call.template is fallback).mod)


EMITTERS.update({key: emitter for key, emitter in emitters(TEMPLATES, emit_fallback).items() if key not in EMITTERS})
fuse = partial(fuse_elementwise, supported=supported)

BACKEND = Backend("cpu", FAMILIES, EMITTERS, emit_fallback, fuse, compile_call, EXECUTOR)
