"""Which function lowers which standard operator, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import anchors, elementwise, moves, pools, quantizers, tables
from .lookahead import MOVES, RESHAPES
from .translate import Handler

_SPECIAL: Mapping[str, Sequence[Handler]] = {
    "Conv": (anchors.conv,),
    "Gemm": (anchors.gemm,),
    "MatMul": (anchors.matmul,),
    "QuantizeLinear": (quantizers.quantize_linear,),
    "DequantizeLinear": (quantizers.dequantize_linear,),
    "Cast": (quantizers.cast, quantizers.narrow),
    "Identity": (quantizers.identity,),
    "Dropout": (),
    "Add": (tables.unary, elementwise.add, elementwise.affine),
    "Sub": (tables.unary, elementwise.add),
    "Mul": (tables.unary, elementwise.mul, elementwise.affine),
    "BatchNormalization": (elementwise.affine,),
    "Split": (moves.split,),
    "Resize": (moves.resize,),
    "Concat": (moves.concat,),
    "MaxPool": (pools.max_pool,),
    "GlobalMaxPool": (pools.max_pool,),
    "AveragePool": (pools.average_pool,),
    "GlobalAveragePool": (pools.global_average_pool,),
    "ReduceMean": (pools.global_average_pool,),
}

HANDLERS: dict[str, Sequence[Handler]] = {
    **{op: (tables.unary,) for op in (*tables.CHEAP, *tables.COSTLY)},
    **{op: (moves.move,) for op in (*RESHAPES, *MOVES)},
    **_SPECIAL,
}
