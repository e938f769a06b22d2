"""A model's outputs as metrics read them: by name, and quantity by quantity.

Notation: ``n`` samples, ``m`` a few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..tensor import TensorInfo

if TYPE_CHECKING:
    from ..model import Model
    from ..model.joins import Block

Array = npt.NDArray[Any]

# Magnitudes (root mean squares) that differ by less belong to one quantity, if one operator computes both.
_ALIKE = 10.0


@dataclass(frozen=True)
class Part:
    """One quantity among the outputs: an output [n, ...], or the block ``start:stop`` of one of its axes."""

    name: str
    output: int
    axis: int = 0
    start: int = 0
    stop: int = 0

    def of(self, outputs: Sequence[Array]) -> npt.NDArray[np.float64]:
        """Its values [n, elements]."""
        array = np.asarray(outputs[self.output])
        if self.axis:
            array = array[(slice(None),) * self.axis + (slice(self.start, self.stop),)]
        return array.astype(np.float64).reshape(len(array), -1)


@dataclass(frozen=True)
class ModelOutputs:
    """The outputs of one model: names and shapes, the blocks they join, and float32's values on a few samples.

    ``blocks`` are those of the graph, by output (model/joins.py). ``few`` runs float32 on ``m`` samples.
    """

    infos: tuple[TensorInfo, ...]
    blocks: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    few: Callable[[], Sequence[Array]] | None = None

    @classmethod
    def of(cls, model: Model, few: Callable[[], Sequence[Array]] | None = None) -> ModelOutputs:
        """The outputs of a model."""
        from ..model.joins import joined_blocks

        graph, shapes = model.proto.graph, model.tensor_shapes
        return cls(model.outputs, {o.name: joined_blocks(graph, shapes, o.name) for o in model.outputs}, few)

    def __len__(self) -> int:
        return len(self.infos)

    def find(self, name: str, metric: str) -> int:
        """The output of that name, or of that number. Raises DataError listing the outputs."""
        names = [info.name for info in self.infos]
        if name in names:
            return names.index(name)
        if name in map(str, range(len(names))):
            return int(name)
        raise DataError(f"the metric {metric} names the output {name!r}, the model has {self.listed()}")

    def listed(self) -> str:
        """``logits [10], boxes [100, 4]``: names, and shapes of one sample."""
        return ", ".join(f"{info.name} {list(info.shape[1:])}" for info in self.infos)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Every quantity: outputs of real numbers, and those that join several block by block.

        Blocks come from the graph; neighbours of similar magnitude that one kind of operator computed count as one.
        Outputs of whole numbers (counts, indices) are left out, unless there are no others.
        """
        real = [i for i, info in enumerate(self.infos) if _is_real(info.dtype)] or range(len(self.infos))
        return tuple(part for i in real for part in self._parts_of(i))

    @cached_property
    def magnitudes(self) -> dict[str, float]:
        """Root mean square of each part, over a few samples."""
        few = self._few
        return {} if few is None else {part.name: _magnitude(part, few) for part in self.parts}

    @property
    def left_out(self) -> tuple[str, ...]:
        """The outputs without a part."""
        held = {part.output for part in self.parts}
        return tuple(info.name for i, info in enumerate(self.infos) if i not in held)

    @cached_property
    def _few(self) -> Sequence[Array] | None:
        return None if self.few is None else self.few()

    def _parts_of(self, output: int) -> list[Part]:
        name = self.infos[output].name
        groups: list[tuple[Part, str, list[float]]] = []  # a part, the operator that computed it, its magnitudes
        for block in self.blocks.get(name, ()):
            text = f"{name}[{':, ' * block.axis}{block.start}:{block.stop}]"
            part = Part(text, output, block.axis, block.start, block.stop)
            size = 1.0 if self._few is None else _magnitude(part, self._few)
            if groups and groups[-1][1] == block.kind and are_alike([*groups[-1][2], size]):
                last, kind, sizes = groups.pop()
                text = f"{name}[{':, ' * block.axis}{last.start}:{block.stop}]"
                groups.append((Part(text, output, block.axis, last.start, block.stop), kind, [*sizes, size]))
            else:
                groups.append((part, block.kind, [size]))
        return [part for part, _, _ in groups] if len(groups) > 1 else [Part(name, output)]


def are_alike(magnitudes: Sequence[float]) -> bool:
    """Whether values of these root mean squares can be added up without one of them vanishing."""
    return max(magnitudes, default=0.0) <= _ALIKE * min(magnitudes, default=0.0)


def _magnitude(part: Part, outputs: Sequence[Array]) -> float:
    values = part.of(outputs)
    return float(np.sqrt(np.mean(np.square(values[np.isfinite(values)])))) if np.isfinite(values).any() else 0.0


def _is_real(dtype: str) -> bool:
    return "float" in dtype
