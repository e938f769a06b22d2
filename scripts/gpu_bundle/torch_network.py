"""A network of the bundle as a PyTorch module: the same operators and shapes, with weights from a generator.

Times do not depend on the values of weights, so weights do not travel a second time. What nodes need to know exactly
(bounds, pads, axes, indices) does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class TorchNetwork(torch.nn.Module):
    """``graph`` is what scripts/packing/graph.py wrote of an ONNX graph."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.nodes = graph["inputs"], graph["outputs"], graph["nodes"]
        self.known: dict[str, Any] = {}
        self.places = {name: f"c{i}" for i, name in enumerate(graph["constants"])}
        generator = torch.Generator().manual_seed(0)
        for name, about in graph["constants"].items():
            if "values" in about:
                self.known[name] = about["values"]
                if not about["dtype"].startswith("float"):
                    continue
                value = torch.tensor(about["values"], dtype=torch.float32).reshape(about["shape"])
            else:
                value = _weights(about["shape"], generator)
            self.register_buffer(self.places[name], value)

    def forward(self, *inputs: Tensor) -> Sequence[Tensor]:
        """The outputs, in the graph's order."""
        values = dict(zip(self.inputs, inputs, strict=True))

        def tensor(name: str) -> Any:
            if name in values:
                return values[name]
            return getattr(self, self.places[name]) if name else None

        for node in self.nodes:
            given = [tensor(name) if self._is_tensor(name, values) else None for name in node["inputs"]]
            exact = [self.known.get(name) for name in node["inputs"]]
            values[node["output"]] = _OPERATORS[node["op"]](given, exact, node["attributes"])
        return [values[name] for name in self.outputs]

    def _is_tensor(self, name: str, values: Mapping[str, Tensor]) -> bool:
        return name in values or hasattr(self, self.places.get(name, "?"))


def _weights(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Weights that keep the size of activations; vectors are positive, since some are variances."""
    value = torch.randn(shape, generator=generator)
    return value * math.sqrt(2 / max(math.prod(shape[1:]), 1)) if len(shape) > 1 else value.abs() * 0.1 + 0.9


def _padded(x: Tensor, attributes: Mapping[str, Any], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """The input and symmetric pads; pads that are not the same on both sides are applied first."""
    pads = attributes.get("pads", [0] * 2 * (x.dim() - 2))
    half = len(pads) // 2
    if pads[:half] == pads[half:]:
        return x, pads[:half]
    both = [pad for i in reversed(range(half)) for pad in (pads[i], pads[half + i])]
    return F.pad(x, both, value=value), [0] * half


def _conv(given: Sequence[Any], exact: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, pads = _padded(given[0], attributes)
    function = F.conv1d if x.dim() == 3 else F.conv2d
    strides, dilations = attributes.get("strides", 1), attributes.get("dilations", 1)
    bias = given[2] if len(given) > 2 else None
    return function(x, given[1], bias, strides, pads, dilations, attributes.get("group", 1))


def _max_pool(given: Sequence[Any], exact: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, pads = _padded(given[0], attributes, -math.inf)
    ceil = bool(attributes.get("ceil_mode", 0))
    return F.max_pool2d(x, attributes["kernel_shape"], attributes.get("strides", 1), pads, ceil_mode=ceil)


def _average_pool(given: Sequence[Any], exact: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, pads = _padded(given[0], attributes)
    ceil, counted = bool(attributes.get("ceil_mode", 0)), bool(attributes.get("count_include_pad", 0))
    return F.avg_pool2d(x, attributes["kernel_shape"], attributes.get("strides", 1), pads, ceil, counted)


def _gemm(given: Sequence[Any], exact: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    a, b, *c = given
    a, b = (m.t() if attributes.get(f"trans{k}", 0) else m for m, k in ((a, "A"), (b, "B")))
    y = attributes.get("alpha", 1.0) * (a @ b) if attributes.get("alpha", 1.0) != 1 else a @ b
    return y + c[0] if c else y


def _slice(given: Sequence[Any], exact: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    starts, ends = exact[1], exact[2]
    axes = exact[3] if len(exact) > 3 and exact[3] is not None else range(len(starts))
    steps = exact[4] if len(exact) > 4 and exact[4] is not None else [1] * len(starts)
    cuts = [slice(None)] * given[0].dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[axis] = slice(start, end, step)
    return given[0][tuple(cuts)]


def _pad(given: Sequence[Any], exact: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    half = len(exact[1]) // 2
    both = [pad for i in reversed(range(half)) for pad in (exact[1][i], exact[1][half + i])]
    value = exact[2] if len(exact) > 2 and exact[2] is not None else [0.0]
    return F.pad(given[0], both, value=float(value[0]))


def _gather(given: Sequence[Any], exact: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    axis, index = attributes.get("axis", 0), exact[1]
    if attributes["scalar"]:
        return given[0].select(axis, index[0])
    return given[0].index_select(axis, torch.tensor(index, device=given[0].device))


def _norm(given: Sequence[Any], exact: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    axis = attributes.get("axis", -1) % given[0].dim()
    bias = given[2] if len(given) > 2 else None
    return F.layer_norm(given[0], given[0].shape[axis:], given[1], bias, attributes.get("epsilon", 1e-5))


def _batch_norm(given: Sequence[Any], exact: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    x, scale, bias, mean, variance = given
    return F.batch_norm(x, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _bound(exact: Sequence[Any], i: int) -> float | None:
    return float(exact[i][0]) if len(exact) > i and exact[i] is not None else None


_OPERATORS: Mapping[str, Any] = {
    "Add": lambda x, e, a: x[0] + x[1],
    "Sub": lambda x, e, a: x[0] - x[1],
    "Mul": lambda x, e, a: x[0] * x[1],
    "Div": lambda x, e, a: x[0] / x[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": lambda x, e, a: torch.clamp(x[0], _bound(e, 1), _bound(e, 2)),
    "Concat": lambda x, e, a: torch.cat(list(x), a["axis"]),
    "Conv": _conv,
    "Flatten": lambda x, e, a: x[0].flatten(1) if a.get("axis", 1) == 1 else x[0].flatten(0, -1)[None],
    "Gather": _gather,
    "Gelu": lambda x, e, a: F.gelu(x[0], approximate=a.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x, e, a: x[0].mean(tuple(range(2, x[0].dim())), keepdim=True),
    "LayerNormalization": _norm,
    "MatMul": lambda x, e, a: x[0] @ x[1],
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Relu": lambda x, e, a: F.relu(x[0]),
    "Reshape": lambda x, e, a: x[0].reshape(a["shape"]),
    "Resize": lambda x, e, a: F.interpolate(x[0], size=a["size"], mode="nearest"),
    "Slice": _slice,
    "Softmax": lambda x, e, a: torch.softmax(x[0], a.get("axis", -1)),
    "Squeeze": lambda x, e, a: x[0].reshape(a["shape"]),
    "Transpose": lambda x, e, a: x[0].permute(a["perm"]),
    "Unsqueeze": lambda x, e, a: x[0].reshape(a["shape"]),
}


def unknown(graph: Mapping[str, Any]) -> list[str]:
    """The operators of a graph that have no meaning here."""
    return sorted({node["op"] for node in graph["nodes"]} - set(_OPERATORS))
