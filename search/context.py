"""What the parts of one search share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..deadline import Deadline
from ..goal import Goal
from ..interrupts import Interrupts
from ..options import SearchOptions
from ..record import Record
from .objective import Evaluator
from .space import SearchSpace
from .trial_store import TrialStore


@dataclass(frozen=True)
class Context:
    """One search: its space, evaluator, goal, store, deadline and options.

    The ``goal`` is settled. ``floats`` is float32 as this run measured it, ``first_floats`` as the first run of the
    search did; proposals depend on the latter. ``tell`` reports the current stage, ``left_s`` returns the seconds left
    for trials (None: unlimited).
    """

    space: SearchSpace
    evaluator: Evaluator
    goal: Goal
    floats: Record
    first_floats: Record
    store: TrialStore
    interrupts: Interrupts
    deadline: Deadline
    options: SearchOptions
    tell: Callable[[str], None]
    left_s: Callable[[], float | None]
