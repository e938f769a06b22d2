"""The strategy that a search starts from: a strategy file, or a QDQ model of the same network from any tool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .. import arguments
from ..strategy import Strategy

if TYPE_CHECKING:
    from ..model import Model
    from ..spec import HardwareSpec


def read_start(start: Strategy | str | os.PathLike[str] | None, model: Model, spec: HardwareSpec) -> Strategy | None:
    """The strategy in ``start``: itself, from its file, or that of a QDQ model (.onnx); None for None.

    Choices that the hardware or the search space lacks are replaced by the nearest ones when the search begins. Raises
    StrategyError if it is for another model, ModelError for a file that is not a QDQ model of this one.
    """
    if start is None:
        return None
    if not isinstance(start, Strategy):
        path = arguments.path("start", start)
        if Path(path).suffix.lower() == ".onnx":
            from ..model import load_model
            from ..qdq.read_strategy import strategy_of

            return strategy_of(load_model(path, model.batch, input_shapes=model.input_shapes), model, spec)
        start = Strategy.load(path)
    return start.bound_to(model)
