"""float32 to bfloat16 by Arm's instruction bfcvtn, which TVM's types cannot express: as LLVM IR.

Half to even, NaN stays NaN: `hago.kernels.cpu.elements.rounded` does the same in eight integer operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import tirx as T

from ..common.flat import Expr, typed
from .families import Isa

_WIDTHS = (1, 2, 4, 8, 16)
_CODE = """
define {i16} @hago_narrow_{n}({float} %x) alwaysinline {{
  %y = fptrunc {float} %x to {bfloat}
  %r = bitcast {bfloat} %y to {i16}
  ret {i16} %r
}}
"""


def can_narrow(isa: Isa) -> bool:
    """Whether there is such an instruction."""
    return isa.narrows_bf16


@contextmanager
def narrowing() -> Iterator[None]:
    """Encloses all uses of `narrow`: defines its functions."""
    kinds = ("i16", "float", "bfloat")
    functions = [_CODE.format(n=n, **{kind: kind if n == 1 else f"<{n} x {kind}>" for kind in kinds}) for n in _WIDTHS]
    with T.attr(T.int32(0), "pragma_import_llvm", "".join(functions)):
        yield


def narrow(value: Expr, lanes: int) -> Any:
    """float32 [lanes] -> uint16 [lanes]: the bits of the values as bfloat16."""
    return T.call_extern(typed("uint16", lanes), f"hago_narrow_{lanes}", value)
