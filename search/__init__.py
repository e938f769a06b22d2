"""The search for a strategy: the space, the next candidate, and the result.

    space = SearchSpace.from_model(model, spec)
    result = run_search(space, evaluator, folder="out", trials=40, max_drop=0.01)
    print(result.summary())

``evaluator`` is anything that satisfies :class:`Evaluator`. This is the only part of Hago that knows Optuna.
"""

from ..deadline import parse_budget
from ..goal import OBJECTIVES, Goal
from .blockers import Blocker
from .groups import Group
from .objective import Evaluator
from .progress import LiveProgress, PlainProgress, Progress, SilentProgress, Status, make_progress
from .result import SearchResult, choose, pareto_front
from .sensitivity import Sensitivities
from .space import SearchSpace
from .study import run_search
from .timing import TimeTable

__all__ = [
    "OBJECTIVES",
    "SAMPLERS",
    "Blocker",
    "Evaluator",
    "Goal",
    "Group",
    "LiveProgress",
    "PlainProgress",
    "Progress",
    "SearchResult",
    "SearchSpace",
    "Sensitivities",
    "SilentProgress",
    "Status",
    "TimeTable",
    "choose",
    "make_progress",
    "pareto_front",
    "parse_budget",
    "run_search",
]
