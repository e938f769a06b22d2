"""The first candidates: everything in integers, then the best strategies by the additive model.

An integer programme chooses the option of each group: the least time such that the losses of all groups add up to at
most a budget. A row of budgets gives a front, from the fastest strategy to nearly float32, and a bisection over that
front finds the bound by measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from ..knobs import read_setting
from ..precision import find_fitting
from .grouping import Flow
from .groups import Group
from .option import FLOAT32, granularity_of, option_of, precision_of
from .sensitivity import Sensitivities, main_option
from .space import SearchSpace
from .timing import TimeTable

BUDGETS = 32
_FIRST_CALIBRATOR = "mse"  # the safest one for an unknown model
_SPAN = 1e-3  # the tightest budget, relative to the loss of the fastest strategy
_NODE_LIMIT = 2000  # a limit in nodes, not seconds: the same answer on every machine
_GAP = 1e-3


@dataclass(frozen=True)
class WarmStartCandidate:
    """A strategy to measure, with its predicted time and loss."""

    params: Mapping[str, str]
    label: str
    time_s: float = math.nan
    loss: float = math.nan


def first_candidates(space: SearchSpace) -> list[WarmStartCandidate]:
    """Everything at the hardware's favourite option, and at one that it fits in (7 bits in 8); no tables needed."""
    main = main_option(space)
    if main == FLOAT32:
        return []
    precision, every = precision_of(main), (precision_of(option) for group in space.groups for option in group.options)
    roomier = find_fitting(precision, (other for other in every if other != precision))
    options = [main, *([option_of(roomier, granularity_of(main))] if roomier else [])]
    setting = next((s for s in space.settings if read_setting(s)["calibrator"] == _FIRST_CALIBRATOR), space.settings[0])
    return [WarmStartCandidate(space.uniform(s, setting), f"{s} everywhere, {setting}") for s in options]


def uniform_candidates(space: SearchSpace, known: Sensitivities) -> list[WarmStartCandidate]:
    """Everything at the hardware's favourite option and best setting; more precise; at the next setting.

    The second best setting only if its loss is within twice the best's.
    """
    main = main_option(space)
    if main == FLOAT32:
        return []
    by_rank = known.settings(space, main)
    losses = [known.losses.get(("", main, c), math.inf) for c in by_rank]
    good = [
        setting
        for setting, loss in zip(by_rank[:2], losses, strict=False)
        if loss <= 2 * losses[0] or math.isinf(losses[0])
    ]
    found = [WarmStartCandidate(space.uniform(main, c), f"{main} everywhere, {c}") for c in good]
    others: dict[str, str] = {}
    for group in space.groups:
        for option in group.options:
            if precision_of(option) not in (FLOAT32, precision_of(main)):
                others.setdefault(precision_of(option), option)
    precise = [
        WarmStartCandidate(space.uniform(option, by_rank[0]), f"{option} everywhere") for option in others.values()
    ]
    return [*found[:1], *precise, *found[1:]]


class Cost(Protocol):
    """What an integer programme minimises or bounds: a sum over groups, and over converted tensors."""

    def group_cost(self, space: SearchSpace, group: Group, option: str) -> float:
        """The cost of a group's layers under one of its options."""
        ...

    def to_integer(self, flow: Flow) -> float:
        """The cost of converting this tensor to integers."""
        ...

    def to_float(self, flow: Flow) -> float:
        """The cost of converting this tensor to floats."""
        ...


Limit = tuple[Cost, float]
"""A cost, and its limit for all groups and conversions together."""


def fastest(
    space: SearchSpace, times: TimeTable, known: Sensitivities, limit_s: float | None = None
) -> WarmStartCandidate | None:
    """The fastest strategy by the time model, at any loss; None if the programme has no solution."""
    setting = known.settings(space, main_option(space))[0]
    options = solve(space, times, [[0.0] * len(group.options) for group in space.groups], math.inf, limit_s)
    if options is None:
        return None
    return WarmStartCandidate(
        space.make_params(options, setting), "fastest by kernel times", times.predict_s(space, options)
    )


class Programme:
    """The integer programme for a row of loss budgets: no bound first, then ever tighter ones.

    ``cost`` (by default time) is minimised within the ``limits``. ``candidate(i)`` is solved when first needed, within
    ``limit_s()`` seconds.
    """

    count = BUDGETS

    def __init__(
        self,
        space: SearchSpace,
        times: TimeTable,
        known: Sensitivities,
        limit_s: Callable[[], float | None] = lambda: None,
        cost: Cost | None = None,
        limits: Sequence[Limit] = (),
    ) -> None:
        self._space, self._times, self._limit_s = space, times, limit_s
        self._cost, self._limits = cost or times, limits
        self._table = [[known.loss(space, group, option) for option in group.options] for group in space.groups]
        self._losses = [[loss for loss, _ in row] for row in self._table]
        self._solved: dict[int, WarmStartCandidate | None] = {}

    def candidate(self, i: int) -> WarmStartCandidate | None:
        """The strategy of least cost within the i-th budget; None if that is float32, or there is none."""
        if i not in self._solved:
            self._solved[i] = self._solve(i)
        return self._solved[i]

    def _solve(self, i: int) -> WarmStartCandidate | None:
        budget = math.inf
        if i > 0:
            fastest_one = self.candidate(0)
            if fastest_one is None:
                return None
            budget = fastest_one.loss * _SPAN ** (i / (self.count - 1))
        options = solve(self._space, self._cost, self._losses, budget, self._limit_s(), self._limits)
        if options is None or all(option == FLOAT32 for option in options):
            return None
        return make_candidate(self._space, self._times, self._table, options, f"integer programme {i + 1}")


def bisect(
    count: int,
    candidate: Callable[[int], WarmStartCandidate | None],
    verdict: Callable[[WarmStartCandidate], bool | None],
    exact_first: bool = False,
    float_keeps: bool = True,
) -> WarmStartCandidate | None:
    """The next candidate to measure in the bisection for the bound; None once the bound is found.

    Candidates go from fast to exact. ``verdict`` says whether one keeps the bound, or returns None if it was not
    measured. The fastest comes first: if it keeps the bound, no other is needed. With ``exact_first`` the bound is on
    latency or size, and the bisection looks for the most exact candidate that keeps it, from that end. float32 takes
    the place of a candidate that is None.
    """
    fails, keeps, i = -1, count, 0
    while keeps - fails > 1:
        found = candidate(count - 1 - i if exact_first else i)
        answer = float_keeps if found is None else verdict(found)
        if answer is None:
            return found
        if answer:
            keeps = i
        else:
            fails = i
        i = (fails + keeps) // 2
    return None


def make_candidate(
    space: SearchSpace,
    times: TimeTable,
    table: Sequence[Sequence[tuple[float, str]]],
    options: Sequence[str],
    label: str,
) -> WarmStartCandidate:
    """The candidate with these options. ``table``: loss and best setting of each group and option."""
    chosen = [row[group.options.index(option)] for group, row, option in zip(space.groups, table, options, strict=True)]
    settings = {group.name: name for group, (_, name) in zip(space.groups, chosen, strict=True)}
    return WarmStartCandidate(
        space.make_params(options, settings),
        label,
        times.predict_s(space, options),
        sum(loss for loss, _ in chosen),
    )


def solve(
    space: SearchSpace,
    cost: Cost,
    losses: Sequence[Sequence[float]],
    budget: float,
    limit_s: float | None = None,
    limits: Sequence[Limit] = (),
) -> tuple[str, ...] | None:
    """The option of each group that costs least with losses summing to at most ``budget``, within the ``limits``.

    Variables: one 0/1 per group and option; per flow between groups, how much of a conversion to integers and of one
    to floats it needs (continuous, but 0 or 1 at the optimum). Ties go to the smaller loss. None if no solution exists,
    or none was found within ``limit_s`` seconds.
    """
    offsets = np.cumsum([0, *(len(group.options) for group in space.groups)])
    n_choices, n = int(offsets[-1]), int(offsets[-1]) + 2 * len(space.flows)
    if n_choices == 0:
        return ()
    loss, upper = np.zeros(n), np.ones(n)
    for g, group in enumerate(space.groups):
        for c in range(len(group.options)):
            i = offsets[g] + c
            if math.isfinite(losses[g][c]):
                loss[i] = losses[g][c]
            else:
                upper[i] = 0.0  # it could not even be run
    rows: list[dict[int, float]] = []
    lower_bounds: list[float] = []
    upper_bounds: list[float] = []

    def add_row(row: dict[int, float], low: float, high: float) -> None:
        rows.append(row)
        lower_bounds.append(low)
        upper_bounds.append(high)

    for g, group in enumerate(space.groups):
        add_row({int(offsets[g]) + c: 1.0 for c in range(len(group.options))}, 1.0, 1.0)

    def integer_part(g: int | None, sign: float) -> dict[int, float]:
        if g is None:
            return {}
        group = space.groups[g]
        return {int(offsets[g]) + c: sign for c, s in enumerate(group.options) if s in group.integer}

    for f, flow in enumerate(space.flows):
        to_integer, to_float = n_choices + 2 * f, n_choices + 2 * f + 1
        for reader in flow.readers:
            # to_integer >= integer(reader) - integer(maker), and the other way round
            made = integer_part(flow.maker, 1.0)
            add_row({to_integer: 1.0, **made, **integer_part(reader, -1.0)}, 0.0, np.inf)
            made = integer_part(flow.maker, -1.0)
            add_row({to_float: 1.0, **made, **integer_part(reader, 1.0)}, 0.0, np.inf)
        if flow.float_reader:
            add_row({to_float: 1.0, **integer_part(flow.maker, -1.0)}, 0.0, np.inf)
    if math.isfinite(budget):
        add_row({int(i): float(loss[i] / budget) for i in np.flatnonzero(loss)}, -np.inf, 1.0)
    for bounded, most in limits:
        if most <= 0:
            return None
        used = _coefficients(space, bounded)
        add_row({int(i): float(used[i] / most) for i in np.flatnonzero(used)}, -np.inf, 1.0)
    minimised = _coefficients(space, cost)
    largest = float(np.max(minimised)) or 1.0
    objective = minimised / largest + 1e-6 * loss / (float(np.max(loss)) or 1.0)
    data = [value for row in rows for value in row.values()]
    columns = [i for row in rows for i in row]
    row_of = [r for r, row in enumerate(rows) for _ in row]
    result = milp(
        objective,
        integrality=np.ones(n),
        bounds=Bounds(np.zeros(n), upper),
        constraints=LinearConstraint(
            csr_array((data, (row_of, columns)), shape=(len(rows), n)), lower_bounds, upper_bounds
        ),
        options={
            "mip_rel_gap": _GAP,
            "node_limit": _NODE_LIMIT,
            **({} if limit_s is None else {"time_limit": max(limit_s, 0.01)}),
        },
    )
    if result.x is None:
        return None
    return tuple(
        group.options[int(np.argmax(result.x[offsets[g] : offsets[g + 1]]))] for g, group in enumerate(space.groups)
    )


def _coefficients(space: SearchSpace, cost: Cost) -> NDArray[np.float64]:
    """The cost of every variable of the programme: of each group and option, then two conversions for each flow."""
    found = [cost.group_cost(space, group, option) for group in space.groups for option in group.options]
    for flow in space.flows:
        found += [cost.to_integer(flow), cost.to_float(flow)]
    return np.array(found, np.float64)
