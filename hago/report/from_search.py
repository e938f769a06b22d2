"""Turns the result of a search into the contents of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from ..data import SplitRecord
from ..measure.environment import Environment
from ..measure.metric_text import describe_metric
from ..measure.metrics import Metric
from ..result_files import ANSWER_FILES, SEARCH_FILES
from ..strategy import WEIGHTED_KINDS, Choice, Strategy
from .data import BlockerRow, LayerRow, PeerRow, ReportData, SearchFacts

if TYPE_CHECKING:
    from ..compare import Comparison
    from ..model import Layer, Model
    from ..search import SearchResult, SearchSpace
    from ..spec import HardwareSpec

Times = Mapping[str, float]
"""Layer -> seconds of its kernels; what belongs to no layer is under ``""``."""


@dataclass(frozen=True)
class Measured:
    """The inputs of a search and where it was measured: everything that its result does not contain.

    ``name`` is the model's name in the report (default: that of its file). ``peers`` are other engines,
    measured on the same samples; ``rounds`` are those of the final latency. ``where``, ``estimated``, ``joint``,
    ``remarks`` and ``asked`` are as in `ReportData`.
    """

    model: Model
    spec: HardwareSpec
    space: SearchSpace
    metric: Metric
    split: SplitRecord
    environment: Environment
    sampler: str = "tpe"
    seed: int = 0
    where: str = ""
    estimated: bool = False
    joint: bool = False
    remarks: Sequence[str] = ()
    asked: Sequence[str] = ()
    files: Sequence[str] = (*ANSWER_FILES, *SEARCH_FILES)
    name: str | None = None
    rounds: int | None = None
    peers: Comparison | None = None


def from_search(
    result: SearchResult,
    measured: Measured,
    strategy: Strategy | None = None,
    *,
    float_times: Times | None = None,
    chosen_times: Times | None = None,
) -> ReportData:
    """The contents of a report on ``result``.

    ``strategy`` is the answer (that of ``result.best`` by default), ``float_times`` and ``chosen_times`` the
    kernel times of float32 and of it.
    """
    model, spec = measured.model, measured.spec
    chosen = strategy or result.best.strategy or Strategy(model.hash, spec.name)
    floats = float_times or result.times.times.get("float32") or {}
    layers = _Layers(result, measured, chosen, floats, chosen_times or {})
    return ReportData(
        model_name=measured.name or model_name(model.source),
        model_source=PurePath(model.source).name,
        model_hash=model.hash,
        hw_name=spec.name,
        hw_description=spec.description,
        metric=describe_metric(measured.metric),
        goal=result.goal,
        asked=tuple(measured.asked),
        remarks=tuple(measured.remarks),
        outcome=result.outcome,
        float_search=result.float,
        chosen_search=result.best,
        float_test=result.float_test,
        chosen_test=result.test,
        records=result.records,
        front=result.front,
        layers=tuple(layers.row(layer) for layer in model.layers),
        split=measured.split,
        environment=measured.environment,
        search=SearchFacts(
            sampler=measured.sampler,
            seed=measured.seed,
            seconds=result.seconds,
            stopped=result.stopped,
            error=None if result.error is None else result.error.what,
            first_within_s=result.first_within_s,
            objectives=result.goal.objectives,
        ),
        blockers=tuple(BlockerRow(b.layers, b.cause, b.share) for b in result.blockers),
        peers=() if measured.peers is None else _peers(measured.peers),
        inputs=model.inputs,
        batch=model.batch,
        float_other_s=floats.get(""),
        chosen_other_s=None if chosen_times is None else chosen_times.get(""),
        rounds=measured.rounds,
        files=tuple(measured.files),
        where=measured.where,
        estimated=measured.estimated,
        joint=measured.joint,
    )


def model_name(source: str) -> str:
    """The name of a model: its file name, or its folder's if the file is called model.onnx."""
    path = PurePath(source)
    if path.stem.lower() in ("model", "network", "net") and path.parent.name:
        return path.parent.name
    return path.stem or "the model"


class _Layers:
    """Builds the rows of layers from the tables of the search."""

    def __init__(
        self, result: SearchResult, measured: Measured, strategy: Strategy, floats: Times, chosen: Times
    ) -> None:
        self._known, space = result.sensitivities, measured.space
        self._spec, self._strategy = measured.spec, strategy
        self._groups = {name: group for group in space.groups for name in group.layers}
        self._floats, self._chosen = floats, chosen
        timed = {k: v for k, v in result.times.times.items() if k.split("/")[0] != "float32"}
        self._quantized = [times for times in timed.values() if times]

    def row(self, layer: Layer) -> LayerRow:
        choice = self._strategy.choice(layer.name)
        group = self._groups.get(layer.name)
        quantizable, reason = layer.quantizable, layer.reason
        if quantizable and group is None and layer.kind != "shape":
            quantizable, reason = (
                False,
                f"{self._spec.name} runs {layer.kind.replace('_', ' ')} in float32 only",
            )
        knobs = choice.values(layer.kind in WEIGHTED_KINDS) if choice.is_quantized else {}
        return LayerRow(
            name=layer.name,
            kind=layer.kind,
            op_type=layer.op_type,
            input_shapes=layer.input_shapes,
            output_shape=layer.output_shape,
            macs=layer.macs,
            params=layer.params,
            precision=choice.precision,
            knobs=tuple((name, value) for name, value in knobs.items() if name != "precision"),
            sensitivity=self._sensitivity(layer.name, choice),
            group=group.layers if group is not None and len(group.options) > 1 else (),
            float_s=_of(self._floats, layer.name),
            chosen_s=_of(self._chosen, layer.name),
            quantized_s=self._quantized_s(layer.name),
            quantizable=quantizable,
            reason=reason,
        )

    def _sensitivity(self, name: str, choice: Choice) -> float | None:
        """The smallest loss probed for the group at the chosen precision, or else at any."""
        group = self._groups.get(name)
        if group is None:
            return None
        probed = self._losses(group.name)
        exact = [probed[o] for o in group.options if o in probed and o.partition("/")[0] == choice.precision]
        return min(exact or probed.values(), default=None)

    def _losses(self, group: str) -> dict[str, float]:
        """Option -> smallest loss over the calibrators probed."""
        least: dict[str, float] = {}
        for (name, option, _), loss in self._known.losses.items():
            if name == group:
                least[option] = min(loss, least.get(option, math.inf))
        return least

    def _quantized_s(self, name: str) -> float | None:
        times = [table[name] for table in self._quantized if name in table]
        return min(times, default=None)


def _of(times: Times, name: str) -> float | None:
    """A layer's time: 0 if others were timed and it was not, because it is fused into a neighbour's kernel."""
    return None if not times else float(times.get(name, 0.0))


def _peers(comparison: Comparison) -> tuple[PeerRow, ...]:
    measured = comparison.rows[0].latency is not None
    rows = []
    for row in comparison.rows:
        latency, accuracy = row.latency, row.accuracy
        change = None if accuracy is None else accuracy.change
        whole = None if accuracy is None else _interval(accuracy.low, accuracy.high)
        ends = None if accuracy is None else _interval(accuracy.change_low, accuracy.change_high)
        rows.append(
            PeerRow(
                label=row.label,
                latency_s=None if latency is None else latency.median_s,
                latency_interval=None if latency is None else (latency.low_s, latency.high_s),
                latency_ratio=latency.ratio if latency is not None and measured else None,
                latency_ratio_interval=(latency.ratio_low, latency.ratio_high) if latency and measured else None,
                accuracy=None if accuracy is None else accuracy.value,
                accuracy_interval=whole,
                accuracy_change=change,
                accuracy_change_interval=ends,
                size_bytes=row.size_bytes,
                note=row.note,
            )
        )
    return tuple(rows)


def _interval(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)
