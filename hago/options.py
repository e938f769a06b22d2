"""The options of a tuning job, as three values: the goal, the search, and the job around it.

Every option is declared once, as a field with its default, check, command-line flag and help text. The signatures of
`hago.tune` and `hago.compare_devices`, the flags of the commands (cli/flags.py) and the table in docs/api.md are
generated from these fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from . import arguments
from .documents import did_you_mean
from .errors import SearchError
from .goal import DEFAULT_OBJECTIVES, MAX_DROP, OBJECTIVES
from .option_fields import (
    JOINT_RULES,
    SAMPLERS,
    Default,
    OptionValues,
    check_rule,
    option,
    read_budget,
    read_devices,
    read_knob_values,
    read_limit,
    read_metric,
    read_name,
    read_path,
    read_sampler,
    read_seed,
    trials_or_none,
)


@dataclass(frozen=True)
class GoalOptions(OptionValues):
    """What the answer must satisfy, as the user wrote it; `read_goal` interprets it once the metric is known."""

    max_drop: float | str = option(
        Default(MAX_DROP),
        "largest allowed drop of the metric, in its unit or as 1%% (default: %(default)s, one point of top-1)",
        metavar="D",
    )
    min_value: float | str | None = option(
        None,
        "smallest allowed value of the metric, instead of --max-drop; sqnr needs it: --min 30 is 30 dB",
        flag="--min",
        metavar="V",
    )
    max_value: float | str | None = option(
        None, "largest allowed value, for metrics where less is better", flag="--max", metavar="V"
    )
    margin: float = option(0.0, "part of --max-drop to keep in reserve when choosing", type=float, metavar="D")
    max_latency: float | str | None = option(
        None,
        "largest allowed latency, such as 0.2ms; without --max-drop the answer is the most accurate strategy within it",
        metavar="TIME",
    )
    max_size: int | str | None = option(
        None, "largest allowed size of the constants, such as 200kB or 2MB", metavar="SIZE"
    )
    objectives: str | Sequence[str] = option(
        DEFAULT_OBJECTIVES,
        f"what to optimize, in order: {', '.join(OBJECTIVES)}; the answer is the best in the first without a bound "
        "(default: %(default)s)",
        arguments.names,
        shell=",".join(DEFAULT_OBJECTIVES),
    )


@dataclass(frozen=True)
class SearchOptions(OptionValues):
    """How to search, and where to keep the study. ``budget`` is in seconds."""

    trials: int | None = option(
        40, "maximum number of candidates (default: %(default)s)", read_limit, type=int, metavar="N"
    )
    budget: Any = option(None, "maximum time, such as 10m, 90s or 1h30m", read_budget, metavar="TIME")
    patience: int | None = option(
        15,
        "stop at a plateau: N trials without improvement of the Pareto front; 0: never (default: %(default)s)",
        read_limit,
        type=trials_or_none,
        metavar="N",
    )
    sampler: Any = option(
        "tpe", "what proposes candidates (default: %(default)s; gp needs PyTorch)", read_sampler, choices=SAMPLERS
    )
    seed: int = option(
        0, "seed of the sample split and of the search (default: %(default)s)", read_seed, type=int, metavar="N"
    )
    knobs: Any = option(
        None,
        "values of a knob: one fixes it, several are searched, such as correction=none,bias; may be repeated",
        read_knob_values,
        flag="--knob",
        action="append",
        metavar="NAME=V,V",
    )
    keep: Any = option(
        None,
        "keep layers at a precision, by name, pattern or operator, such as: float32 'head.*'; may be repeated",
        action="append",
        nargs=2,
        metavar=("PRECISION", "LAYERS"),
    )
    start: Any = option(None, "strategy to try first: a strategy.yaml or a QDQ ONNX file", metavar="FILE")
    reproducible: bool = option(
        True, "whether the same seed gives the same proposals, regardless of noise in the latencies", flag=None
    )
    storage: Any = option(None, "where to keep the study (default: sqlite, study.db in --out)", metavar="URL")
    study_name: str = option("hago", "name of the study in a storage that several share", read_name, flag=None)
    resume: bool = option(False, "continue the search in --out", action="store_true")

    def words(self) -> tuple[str, ...]:
        """What restricts or starts the search, for reports: ``head.* in float32``, ``correction none or bias``."""
        pairs = self.keep.items() if isinstance(self.keep, Mapping) else self.keep or ()
        kept = [f"{p if isinstance(p, str) else ', '.join(p)} kept in {precision}" for precision, p in pairs]
        named = self.start if isinstance(self.start, (str, os.PathLike)) else "a strategy"
        begun = [] if self.start is None else [f"begun with {named}"]
        usual = SearchOptions().knobs
        turned = [f"{name} {' or '.join(values)}" for name, values in self.knobs.items() if values != usual.get(name)]
        return (*kept, *begun, *turned)


@dataclass(frozen=True)
class JobOptions(OptionValues):
    """The surroundings of a search: hardware, samples, metric, and where results go."""

    hw: Any = option(
        "auto", "hardware spec: a name (`hago hw list`) or a YAML file; auto: this machine", metavar="NAME"
    )
    calibration: Any = option(
        None, "samples for calibration, no labels needed (default: part of --data)", metavar="PATH"
    )
    test: Any = option(None, "samples for the final accuracy alone (default: part of --data)", metavar="PATH")
    metric: Any = option(
        "top1", "top1, top5, cosine, sqnr or mse; for one output: top1:NAME (default: %(default)s)", read_metric
    )
    batch: int = option(1, "samples per call (default: %(default)s)", type=int, metavar="N")
    input_shapes: Any = option(
        None, "full shapes of inputs with free dimensions besides the batch, by name; -1 is the batch", flag=None
    )
    threads: int | None = option(
        None, "number of threads (default: one, or all cores where that is faster)", type=int, metavar="N"
    )
    out: Any = option(None, "folder for the results (default: %(default)s)", read_path, shell="hago-out", metavar="DIR")
    cache: Any = option(None, "folder of the kernel cache (default: the user's cache)", metavar="DIR")
    progress: Any = option(
        "silent",
        "how to show progress; auto: live on a terminal, plain lines elsewhere (default: %(default)s)",
        shell="auto",
        choices=("auto", "live", "plain", "silent"),
    )
    devices: Any = option(
        (),
        "where candidates run, by their names in the devices file: one, or several for a joint strategy",
        read_devices,
        flag=None,
    )
    devices_file: Any = option(None, "the devices file (default: devices.yaml in this folder)", metavar="FILE")
    joint: str = option(
        "worst", "how to combine the ratios of --devices (default: %(default)s)", check_rule, choices=JOINT_RULES
    )


@dataclass(frozen=True)
class Options:
    """Everything a tuning job takes besides the model and the samples."""

    goal: GoalOptions = field(default_factory=GoalOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    job: JobOptions = field(default_factory=JobOptions)


OF_ONE_SEARCH: Mapping[str, str] = {
    "hw": "each device has its own spec",
    "storage": "each search has its own folder",
    "resume": "an existing search always continues",
    "joint": "each device has its own search",
}
"""Options that make no sense for one search per device, and why."""

OF_A_NEW_SEARCH: Mapping[str, str] = {
    item.name: "the search is finished" for cls in (SearchOptions, JobOptions) for item in fields(cls)
}
"""Options that make no sense for a finished search, and why."""

KINDS: Mapping[str, type] = {"goal": GoalOptions, "search": SearchOptions, "job": JobOptions}


def each_option(without: Sequence[str] = ()) -> Iterator[Field[Any]]:
    """The fields of all three values."""
    for kind in KINDS.values():
        yield from (item for item in fields(kind) if item.name not in without)


def read_options(
    given: Mapping[str, Any], *, caller: str = "tune", without: Mapping[str, str] | None = None
) -> Options:
    """Options from keywords, given by name or grouped in the values ``goal``, ``search`` and ``job``.

    ``without`` maps options that this caller does not support to the reason. Raises SearchError for these, for an
    unknown name and for an option given twice, and whatever the options themselves raise.
    """
    left, values = dict(given), dict[str, Any]()
    known = [item.name for item in each_option(tuple(without or ()))]
    for name, why in (without or {}).items():
        if name in left:
            raise SearchError(f"{caller} takes no {name}: {why}")
    for kind, cls in KINDS.items():
        value, mine = (
            left.pop(kind, None),
            {item.name: left.pop(item.name) for item in fields(cls) if item.name in left},
        )
        if value is not None and not isinstance(value, cls):
            raise SearchError(f"{kind} must be of type {cls.__name__}, got {value!r}")
        if value is not None and mine:
            raise SearchError(f"{next(iter(mine))} is given beside {kind}=", hint=f"give it in {cls.__name__}(...)")
        values[kind] = cls(**mine) if value is None else value
    for name in left:
        raise SearchError(f"{caller} takes no {name!r}", hint=did_you_mean(name, known))
    for kind, cls in KINDS.items():
        usual = cls()
        for item in fields(cls):
            if item.name in (without or {}) and getattr(values[kind], item.name) != getattr(usual, item.name):
                raise SearchError(f"{caller} takes no {item.name}: {(without or {})[item.name]}")
    return Options(**values)
