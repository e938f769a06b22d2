"""The functions that lower each standard operator, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import conversions, data_movement, dot_products, elementwise, lookup_tables, pools
from .lookahead import DATA_MOVEMENT, RESHAPES
from .translate import Handler

_SPECIAL: Mapping[str, Sequence[Handler]] = {
    "Conv": (dot_products.conv,),
    "Gemm": (dot_products.gemm,),
    "MatMul": (dot_products.matmul,),
    "QuantizeLinear": (conversions.quantize_linear,),
    "DequantizeLinear": (conversions.dequantize_linear,),
    "Cast": (conversions.cast, conversions.narrow),
    "Identity": (conversions.identity,),
    "Dropout": (),
    "Add": (lookup_tables.unary, elementwise.add, elementwise.affine),
    "Sub": (lookup_tables.unary, elementwise.add),
    "Mul": (lookup_tables.unary, elementwise.mul, elementwise.affine),
    "BatchNormalization": (elementwise.affine,),
    "Split": (data_movement.split,),
    "Resize": (data_movement.resize,),
    "Concat": (data_movement.concat,),
    "MaxPool": (pools.max_pool,),
    "GlobalMaxPool": (pools.max_pool,),
    "AveragePool": (pools.average_pool,),
    "GlobalAveragePool": (pools.global_average_pool,),
    "ReduceMean": (pools.global_average_pool,),
}

HANDLERS: dict[str, Sequence[Handler]] = {
    **{op: (lookup_tables.unary,) for op in (*lookup_tables.CHEAP, *lookup_tables.COSTLY)},
    **{op: (data_movement.move,) for op in (*RESHAPES, *DATA_MOVEMENT)},
    **_SPECIAL,
}
