"""Removes sequences of tensors: PyTorch exports ``torch.split`` as a sequence that is read at fixed positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .edit import Editor, attr_int, constant, dims, scalar


def unpack(editor: Editor) -> None:
    """SequenceAt(SplitToSequence(x), i) becomes a Slice of x if i and the sizes are constant."""
    for node in editor.nodes("SequenceAt"):
        value, place = node.inputs[0], scalar(node.inputs[1])
        split = value.producer() if value is not None else None
        if split is None or split.op_type != "SplitToSequence" or split.domain or place is None:
            continue
        part = _part(split, int(place))
        source = split.inputs[0]
        if part is None or source is None:
            continue
        axis, start, end = part
        starts, ends, axes = (
            editor.initializer(np.array([x], np.int64), f"{node.name}_{name}")
            for name, x in (("start", start), ("end", end), ("axis", axis))
        )
        result = editor.node("Slice", [source, starts, ends, axes], node)
        if not attr_int(split, "keepdims", 1) and len(split.inputs) == 1:
            result.name = f"{result.name}_kept"
            result = editor.node("Squeeze", [result, axes], node, name=f"{node.name}_squeeze")
        editor.forward(node.outputs[0], result)


def _part(split: ir.Node, place: int) -> tuple[int, int, int] | None:
    """Axis, start and end of one piece of a SplitToSequence; None if they are not known."""
    shape = dims(split.inputs[0])
    if shape is None:
        return None
    axis = attr_int(split, "axis", 0) % len(shape)
    given = split.inputs[1] if len(split.inputs) > 1 else None
    if given is None:
        sizes = [1] * shape[axis]
    else:
        lengths = constant(given)
        if lengths is None:
            return None
        if lengths.ndim:
            sizes = [int(s) for s in lengths]
        else:
            step = int(lengths)
            sizes = [min(step, shape[axis] - i) for i in range(0, shape[axis], step)]
    if not -len(sizes) <= place < len(sizes):
        return None
    start = sum(sizes[: place % len(sizes)])
    return axis, start, start + sizes[place]
