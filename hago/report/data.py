"""The contents of a report, as plain values: everything the page needs and nothing else.

`from_search` fills a `ReportData` from a finished search; anyone else can fill one by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..data import SplitRecord
from ..goal import Goal
from ..knobs import KNOBS, Knob, find_knob
from ..measure.environment import Environment
from ..measure.metric_text import MetricInfo
from ..outcomes import OUTCOMES
from ..record import Record
from ..result_files import ANSWER_FILES, SEARCH_FILES
from ..strategy import Strategy
from ..tensor import TensorInfo
from .cost_text import CostText

# The repeatability of kernel times: smaller differences mean nothing.
NOISE = 0.03
NOISE_S = 5e-8


@dataclass(frozen=True)
class LayerRow:
    """One layer of the model and what was chosen for it.

    ``precision`` is the chosen one, ``knobs`` the values of the other knobs (hago/knobs.py) that matter for it:
    (name, value), none where it stays in float32. ``group`` are the layers that change together with it, itself
    included; empty where it has no choice. ``sensitivity`` is the noise power over the signal power of the
    final outputs when the group alone is quantized, None where not probed, infinite where that failed.
    ``float_s`` and ``chosen_s`` are seconds of its kernels; ``quantized_s`` those with the whole model
    quantized, the fastest precision that was timed. None where not timed, 0 where a neighbour's kernel does
    its work. ``reason`` says why a layer that is not ``quantizable`` is not.
    """

    name: str
    kind: str
    op_type: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    macs: int = 0
    params: int = 0
    precision: str = "float32"
    knobs: tuple[tuple[str, str], ...] = ()
    sensitivity: float | None = None
    group: tuple[str, ...] = ()
    float_s: float | None = None
    chosen_s: float | None = None
    quantized_s: float | None = None
    quantizable: bool = True
    reason: str | None = None

    @property
    def moves_data(self) -> bool:
        """Whether it computes nothing and has the type of its neighbours."""
        return self.kind == "shape"

    @property
    def is_quantized(self) -> bool:
        """Whether it computes in a precision other than float32."""
        return not self.moves_data and self.precision != "float32"

    @property
    def saved_s(self) -> float | None:
        """Seconds saved against float32 (negative: lost); None if not timed."""
        return None if self.float_s is None or self.chosen_s is None else self.float_s - self.chosen_s

    @property
    def is_slower(self) -> bool:
        """Whether it is quantized and slower than in float32, beyond the noise."""
        return self.is_quantized and _longer(self.chosen_s, self.float_s)

    @property
    def would_be_slower(self) -> bool:
        """Whether it stays in float32 and would be slower if quantized, beyond the noise."""
        return self.quantizable and not self.is_quantized and _longer(self.quantized_s, self.float_s)


def _longer(time_s: float | None, float_s: float | None) -> bool:
    # If layers share a kernel, one has all the time and the others 0, which cannot be compared.
    return bool(time_s and float_s) and (time_s or 0.0) > (float_s or 0.0) * (1 + NOISE) + NOISE_S


@dataclass(frozen=True)
class BlockerRow:
    """Layers that prevent the goal from being met; ``cause`` is "accuracy" or "latency".

    ``share`` is their share of the whole loss, or of float32's time.
    """

    layers: tuple[str, ...]
    cause: str
    share: float

    @property
    def name(self) -> str:
        """The first layer, and the number of layers that go with it."""
        more = len(self.layers) - 1
        return self.layers[0] if not more else f"{self.layers[0]} (with {more} more that must agree)"


@dataclass(frozen=True)
class PeerRow:
    """The model in one engine, measured next to the others; ``note`` says why a value is None."""

    label: str
    latency_s: float | None = None
    latency_interval: tuple[float, float] | None = None
    latency_ratio: float | None = None
    latency_ratio_interval: tuple[float, float] | None = None
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    accuracy_change: float | None = None
    accuracy_change_interval: tuple[float, float] | None = None
    size_bytes: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class SearchFacts:
    """Facts about the search. ``stopped`` says why it ended, ``error`` what ended it early."""

    sampler: str
    seed: int
    seconds: float
    stopped: str = ""
    error: str | None = None
    first_within_s: float | None = None
    objectives: tuple[str, ...] = ("latency", "accuracy")


@dataclass(frozen=True)
class ReportData:
    """One search and its answer.

    ``model_source`` is a base name, without folders. ``goal`` is what was asked for; ``asked`` says in words what
    else was: layers kept at a precision, a strategy to begin with, knobs. ``float_search`` and ``chosen_search``
    were measured on the search part, ``float_test`` and ``chosen_test`` (None where the search was cut short) on
    the test part; where float32 is the answer, they are float32's. ``outcome`` is one of `OUTCOMES`, as in
    ``SearchResult``. ``records`` are all trials, ``front`` those that no other beats, the fastest first.
    ``float_other_s`` and ``chosen_other_s`` are the kernel times that belong to no layer (layout changes,
    conversions); ``rounds`` counts those of the final latency. ``where`` names the device, empty for this machine.
    Where ``estimated``, all times are instructions counted in the emulator, each taken for `INSTRUCTION_S` seconds
    (cost_text.py writes them as instructions). ``joint``: several devices at once; records then have ratios but no
    latency, and layers' times are parts of float32's. ``remarks`` are caveats about the metric.
    """

    model_name: str
    model_source: str
    model_hash: str
    hw_name: str
    hw_description: str
    metric: MetricInfo
    goal: Goal
    outcome: str
    float_search: Record
    chosen_search: Record
    records: tuple[Record, ...]
    front: tuple[Record, ...]
    layers: tuple[LayerRow, ...]
    split: SplitRecord
    environment: Environment
    search: SearchFacts
    float_test: Record | None = None
    chosen_test: Record | None = None
    blockers: tuple[BlockerRow, ...] = ()
    peers: tuple[PeerRow, ...] = ()
    inputs: tuple[TensorInfo, ...] = ()
    batch: int = 1
    float_other_s: float | None = None
    chosen_other_s: float | None = None
    rounds: int | None = None
    files: tuple[str, ...] = (*ANSWER_FILES, *SEARCH_FILES)
    where: str = ""
    estimated: bool = False
    joint: bool = False
    remarks: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, not {self.outcome!r}")

    @property
    def chosen(self) -> Record:
        """The answer's record: on the test part if it was measured there, else on the search part."""
        test = self.chosen_test
        return test if test is not None and test.state == "ok" else self.chosen_search

    @property
    def cost(self) -> CostText:
        """How this report writes times, or what replaces them."""
        if not self.joint:
            return CostText(self.estimated)
        return CostText(self.estimated, self.float_kernels_s)

    @property
    def float_kernels_s(self) -> float:
        """Seconds of all kernels of float32, as far as they were timed."""
        return (self.float_other_s or 0.0) + sum(row.float_s or 0.0 for row in self.layers)

    @property
    def chosen_kernels_s(self) -> float:
        """Seconds of all kernels of the answer, as far as they were timed."""
        return (self.chosen_other_s or 0.0) + sum(row.chosen_s or 0.0 for row in self.layers)

    @property
    def is_float(self) -> bool:
        """Whether the answer is float32 itself."""
        strategy = self.chosen_search.strategy
        return strategy is None or all(c.precision == "float32" for c in strategy.choices.values())

    @property
    def resumed(self) -> bool:
        """Whether earlier runs contributed trials: together they took longer than the last run."""
        return sum(record.trial_s or 0.0 for record in self.records) > self.search.seconds

    def drop(self, record: Record) -> float | None:
        """How much worse than float32 the record is, in the metric's unit; None where not measured."""
        change = record.accuracy_change
        return change if change is None or not self.metric.higher_is_better else -change

    @property
    def asks_for_value(self) -> bool:
        """Whether the bound is on the metric's value rather than on its change against float32."""
        return self.metric.against_float or self.limit is not None

    @property
    def limit(self) -> float | None:
        """The bound on the metric's value, or None."""
        return self.goal.limit

    @property
    def max_drop(self) -> float:
        """The allowed drop, in the metric's unit; where a value was asked for, what that allows on the search samples.

        Infinite where the accuracy is not bounded.
        """
        value = self.float_search.accuracy
        return self.goal.max_drop if self.limit is None or value is None else abs(value - self.limit)

    def within(self, record: Record) -> bool:
        """Whether the record keeps every bound, as measured."""
        return self.goal.keeps(record)

    def gains(self, record: Record) -> bool:
        """Whether it is better than float32 in what the goal asks for, or keeps a bound that float32 breaks."""
        float_keeps = self.goal.keeps(replace(self.float_search, accuracy_change=0.0))
        return not float_keeps or self.goal.primary.gains(self.goal, record, self.baseline)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs besides the precision that are shown: those of all strategies, and those that a trial changed."""
        tried = {name for record in self.records if record.strategy is not None for name in _changed(record.strategy)}
        tried |= {name for row in self.layers for name, value in row.knobs if value != find_knob(name).default}
        return tuple(knob for knob in KNOBS if knob.name != "precision" and (knob.always or knob.name in tried))

    @property
    def baseline(self) -> Record:
        """float32 on the part of `chosen`."""
        if self.chosen.part == "test" and self.float_test is not None and self.float_test.state == "ok":
            return self.float_test
        return self.float_search


def _changed(strategy: Strategy) -> Iterable[str]:
    """The knobs that it has at another value than the usual one in some layer."""
    return (name for choice in set(strategy.choices.values()) for name, _ in choice.methods)
