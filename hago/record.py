"""The measurement of one candidate: a Record, one line of ``records.jsonl`` (record_file.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .errors import HagoError, StorageError
from .measure.instructions import INSTRUCTION_S, InstructionEstimate
from .record_fields import json_value, plain_fields
from .strategy import Strategy

if TYPE_CHECKING:
    from .bench import Timing
    from .measure.accuracy import Accuracy
    from .measure.latency import Latency

STATES = ("ok", "failed", "pruned")
PARTS = ("search", "test")
WORTH_TELLING = 0.95  # of float32's latency: smaller gains do not count
_VERSION = 1
_LEFT_OUT = ("estimated", "ratios", "accuracy_parts")  # of lines without a value for them


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Record:
    """One candidate: its strategy, the measurements, and their cost.

    ``id`` is the trial's number (negative outside the search, such as float32's). ``state`` is "ok", "failed" or
    "pruned" (accuracy stopped early), the last two with a ``reason``. Accuracy is in the metric's unit (top-1: a
    fraction) on ``n_samples`` of the ``part`` "search" or "test"; changes are relative to float32 on the same samples.
    The latency ratio is to float32 by the same compiler, interleaved (below 1: faster). ``accuracy_parts`` are the
    values of each quantity among the outputs, if there are several. ``expected_change`` is the likely change on other
    samples (measure/expected.py). Intervals are (low, high) at 95 %. What was not measured is None. ``layer_times`` are
    seconds per layer, ``environment`` is :meth:`Environment.key`, ``created`` is ISO 8601 in UTC.

    On another machine: ``device`` is the one that measured, ``trouble`` describes earlier failures of devices of its
    kind, ``checked`` is the number of samples whose outputs there were compared with this machine's. If ``estimated``,
    no time was measured: ``latency_ratio`` compares ``instructions``, counted in the emulator. ``ratios`` are those of
    every device, if one strategy was measured for several.

    ``clock`` is the clock behind the latency (measure/clocks.py) and ``disturbed`` the share of calls that other work
    interrupted; on a machine too busy to measure, there is no latency. ``aa_ratio``, in float32's records, is that of
    the A/A test: float32 against a second runner of itself.

    Raises StorageError for an invalid field.
    """

    id: int
    label: str
    strategy: Strategy | None = None
    state: str = "ok"
    reason: str | None = None
    metric: str | None = None
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    accuracy_change: float | None = None
    accuracy_change_interval: tuple[float, float] | None = None
    expected_change: float | None = None
    p_value: float | None = None
    n_samples: int | None = None
    part: str = "search"
    latency_s: float | None = None
    latency_interval: tuple[float, float] | None = None
    latency_ratio: float | None = None
    latency_ratio_interval: tuple[float, float] | None = None
    size_bytes: int | None = None
    build_s: float | None = None
    trial_s: float | None = None
    layer_times: Mapping[str, float] = field(default_factory=dict)
    threads: int | None = None
    environment: str | None = None
    created: str = field(default_factory=_now)
    device: str | None = None
    trouble: str | None = None
    checked: int | None = None
    estimated: bool = False
    instructions: int | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    accuracy_parts: Mapping[str, float] = field(default_factory=dict)
    clock: str | None = None
    disturbed: float | None = None
    aa_ratio: float | None = None
    aa_ratio_interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, value in plain_fields(self).items():
            object.__setattr__(self, name, value)
        for name, allowed in (("state", STATES), ("part", PARTS)):
            if getattr(self, name) not in allowed:
                raise StorageError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.strategy is not None and not isinstance(self.strategy, Strategy):
            raise StorageError(f"strategy must be a Strategy, not {type(self.strategy).__name__}")

    def __hash__(self) -> int:
        return hash((self.id, self.label, self.part, self.created))

    def __reduce__(self) -> tuple[Any, ...]:  # a mappingproxy can be neither copied nor sent
        return Record.from_dict, (self.to_dict(),)

    @property
    def is_trial(self) -> bool:
        """Whether this is a trial of a search: neither float32 nor a test."""
        return self.id >= 0 and self.part == "search" and self.strategy is not None

    @property
    def key(self) -> str:
        """The key of its strategy; empty without one."""
        return "" if self.strategy is None else self.strategy.key()

    def measured_by(self, timing: Timing, name: str) -> Record:
        """The same record with a bench's measurement of ``name``."""
        record = self.with_latency(timing.latency[name])
        return replace(record, device=timing.device, trouble=timing.trouble or self.trouble, checked=timing.checked)

    @property
    def cost_s(self) -> float | None:
        """The latency; if estimated, the instructions times `INSTRUCTION_S`, only for comparisons."""
        return self.latency_s if self.instructions is None else self.instructions * INSTRUCTION_S

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the latency, in seconds."""
        return self.latency_interval

    def with_latency(self, latency: Latency | InstructionEstimate) -> Record:
        """The same record with a measured latency, or with an instruction estimate in its place."""
        if isinstance(latency, InstructionEstimate):
            return replace(
                self,
                estimated=True,
                instructions=latency.instructions,
                latency_ratio=latency.ratio,
                latency_ratio_interval=(latency.ratio, latency.ratio),
                threads=latency.threads,
            )
        how: dict[str, Any] = {"threads": latency.threads, "clock": latency.clock, "disturbed": latency.disturbed}
        if not latency.reliable:
            how |= dict.fromkeys(("latency_s", "latency_interval", "latency_ratio", "latency_ratio_interval"))
            return replace(self, **how)
        return replace(
            self,
            latency_s=latency.median_s,
            latency_interval=(latency.low_s, latency.high_s),
            latency_ratio=latency.ratio,
            latency_ratio_interval=(latency.ratio_low, latency.ratio_high),
            **how,
        )

    def with_latency_of(self, other: Record) -> Record:
        """The same record with the latency of another record of the same candidate."""
        names = ("latency_s", "latency_interval", "latency_ratio", "latency_ratio_interval", "clock", "disturbed")
        return replace(self, **{name: getattr(other, name) for name in names})

    def with_aa_test(self, latency: Latency | InstructionEstimate) -> Record:
        """float32's record with the result of the A/A test: a second runner beside the first."""
        if isinstance(latency, InstructionEstimate):
            return self  # counts are the same every time
        if not latency.reliable:
            return replace(self, aa_ratio=None, aa_ratio_interval=None, disturbed=latency.disturbed)
        interval = latency.ratio_low, latency.ratio_high
        return replace(self, aa_ratio=latency.ratio, aa_ratio_interval=interval, disturbed=latency.disturbed)

    @property
    def aa_holds(self) -> bool | None:
        """Whether the A/A test passed: float32 was as fast as itself, so the machine was quiet enough to measure.

        None if it was not tested.
        """
        if self.aa_ratio_interval is None:
            return None
        return self.aa_ratio_interval[0] <= 1.0 <= self.aa_ratio_interval[1]

    @property
    def is_faster(self) -> bool:
        """Whether it beats float32 by more than the noise: the whole interval of the ratio is below 1."""
        if self.latency_ratio is None or self.state == "failed":
            return False
        high = self.latency_ratio_interval[1] if self.latency_ratio_interval else self.latency_ratio
        return high < 1

    @property
    def is_inconclusive(self) -> bool:
        """Whether a gain that counts (5 %) can be neither shown nor ruled out: the interval of the ratio contains 1, or
        the machine was too busy to measure."""
        if self.state != "ok" or (self.strategy is not None and self.strategy.is_float):
            return False
        if self.latency_ratio is None:
            return True
        low, high = self.latency_ratio_interval or (self.latency_ratio, self.latency_ratio)
        return low < WORTH_TELLING and high >= 1

    def with_accuracy(self, accuracy: Accuracy, part: str = "search") -> Record:
        """The same record with a measured accuracy on this part of the samples; one stopped early is "pruned"."""
        low, high = accuracy.change_low, accuracy.change_high
        state, reason = self.state, self.reason
        if accuracy.partial and state == "ok":
            total = accuracy.n if accuracy.scores is None else len(accuracy.scores)
            state, reason = "pruned", f"accuracy out of reach after {accuracy.n} of {total} samples"
        return replace(
            self,
            state=state,
            reason=reason,
            metric=accuracy.metric,
            accuracy=accuracy.value,
            accuracy_interval=None if accuracy.low is None or accuracy.high is None else (accuracy.low, accuracy.high),
            accuracy_change=accuracy.change,
            accuracy_change_interval=None if low is None or high is None else (low, high),
            p_value=accuracy.p_value,
            n_samples=accuracy.n,
            part=part,
            accuracy_parts=accuracy.parts,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without fields that are None."""
        data: dict[str, Any] = {"hago_record": _VERSION}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Strategy):
                value = value.to_dict()
            elif isinstance(value, Mapping):
                value = {layer: json_value(time) for layer, time in value.items()}
            elif isinstance(value, tuple):
                value = [json_value(number) for number in value]
            if value is not None and (item.name not in _LEFT_OUT or value):
                data[item.name] = json_value(value)
        return data

    @classmethod
    def from_dict(cls, data: Any, where: str | None = None) -> Record:
        """Reads plain data. Raises StorageError naming ``where`` and the wrong key."""
        if not isinstance(data, Mapping) or data.get("hago_record") != _VERSION:
            raise StorageError(f"is not a record of version {_VERSION}", where=where)
        known = {item.name for item in fields(cls)}
        values = {key: value for key, value in data.items() if key != "hago_record"}
        if unknown := sorted(set(values) - known):
            raise StorageError(f"unknown keys {unknown}", where=where, hint="was it written by a newer hago?")
        try:
            if values.get("strategy") is not None:
                values["strategy"] = Strategy.from_dict(values["strategy"], where)
            return cls(**values)
        except StorageError as error:
            raise StorageError(error.what, where=where) from None
        except (HagoError, TypeError) as error:
            raise StorageError(f"is not a record: {error}", where=where) from error

    def to_line(self) -> str:
        """One line of JSON, without the line end."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))
