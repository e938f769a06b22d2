"""Which function lowers which standard operator, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import anchors, followers, tables
from .translate import MOVES, RESHAPES, Handler

_SPECIAL: Mapping[str, Sequence[Handler]] = {
    "Conv": (anchors.conv,),
    "Gemm": (anchors.gemm,),
    "MatMul": (anchors.matmul,),
    "QuantizeLinear": (followers.quantize_linear,),
    "DequantizeLinear": (followers.dequantize_linear,),
    "Cast": (followers.cast, followers.narrow),
    "Identity": (followers.identity,),
    "Dropout": (),
    "Add": (tables.unary, followers.add, followers.affine),
    "Sub": (tables.unary, followers.add),
    "Mul": (tables.unary, followers.mul, followers.affine),
    "BatchNormalization": (followers.affine,),
    "Concat": (followers.concat,),
    "MaxPool": (followers.max_pool,),
    "GlobalMaxPool": (followers.max_pool,),
    "AveragePool": (followers.average_pool,),
    "GlobalAveragePool": (followers.global_average_pool,),
    "ReduceMean": (followers.global_average_pool,),
}

HANDLERS: dict[str, Sequence[Handler]] = {
    **{op: (tables.unary,) for op in (*tables.CHEAP, *tables.COSTLY)},
    **{op: (followers.move,) for op in (*RESHAPES, *MOVES)},
    **_SPECIAL,
}
