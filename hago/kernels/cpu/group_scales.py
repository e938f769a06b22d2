"""Groups of channels with one scale each whose size is no multiple of four.

The kernels multiply four neighbouring channels at once, and all four must share a multiplier. Other group
sizes are rare (opset 21 allows any `block_size`). For them the input's channels are first copied apart, so
that every group begins at a multiple of four; the gaps meet zero weights.

    C input channels of one convolution group, S group size, G groups of channels, S' = S rounded up to four
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...tensor import TensorType
from ..common.calls import KernelCall, NodeView
from .families import Isa
from .registry import EMITTERS

_STEP = 4


def spread_groups(node: NodeView, isa: Isa) -> tuple[NodeView, Sequence[KernelCall]]:
    """The node with a group size that kernels can take, and the calls that make its input, if any are needed.

    ``node`` is a QConv or QGemm; one without group scales is returned unchanged.
    """
    name = node.inputs[4] if len(node.inputs) > 4 else ""
    size = int(node.attrs.get("group_size", 0))
    if not name or size % _STEP == 0:
        return node, ()
    weights = node.constants[node.inputs[1]]
    depth, count = weights.shape[-1], node.types[name].shape[1]
    if count == 1:
        return replace(node, attrs={**node.attrs, "group_size": -(-depth // _STEP) * _STEP}), ()
    wide = -(-size // _STEP) * _STEP
    targets = [wide * (c // size) + c % size for c in range(depth)]  # [C]: channel -> where it is copied to
    apart = np.zeros((*weights.shape[:-1], wide * count), weights.dtype)
    apart[..., targets] = weights  # [O, (KH, KW,) C] -> [O, (KH, KW,) G*S']
    sources = np.zeros(wide * count, np.int64)
    sources[targets] = np.arange(depth)  # [G*S']: where each channel comes from; gaps repeat channel 0
    x = node.type(node.inputs[0])
    indices = np.concatenate([sources + depth * g for g in range(x.shape[-1] // depth)])
    copied, apart_name, table = (f"{node.outputs[0]}:{part}" for part in ("spread", "apart", "sources"))
    types = {
        **node.types,
        copied: TensorType(x.dtype, (*x.shape[:-1], len(indices))),
        apart_name: TensorType(apart.dtype.name, apart.shape),
        table: TensorType("int64", indices.shape),
    }
    attrs = {"axis": len(x.shape) - 1}
    view = NodeView(
        f"{node.name}:spread", "Gather", "", (node.inputs[0], table), (copied,), attrs, types, {table: indices}
    )
    calls = [
        replace(
            call,
            inputs=tuple(indices if item == table else item for item in call.inputs),
            layer=node.layer,
            temporaries={**call.temporaries, copied: types[copied]},
        )
        for call in EMITTERS["", "Gather"](view, isa)
    ]
    changed = replace(
        node,
        inputs=(copied, apart_name, *node.inputs[2:]),
        attrs={**node.attrs, "group_size": wide},
        types=types,
        constants={**node.constants, apart_name: apart},
    )
    return changed, calls
