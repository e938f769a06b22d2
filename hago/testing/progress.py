"""What every `hago.search.Progress` must do: hear of anything, in any order, and raise nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ..record import Record
from ..search.progress import Progress, Status, make_progress

_FLOAT = Record(-1, "float32", accuracy=0.9, accuracy_change=0.0, latency_ratio=1.0, latency_s=2e-3)
_BEST = Record(0, "trial 1", accuracy=0.89, accuracy_change=-0.01, latency_ratio=0.5, latency_s=1e-3)
_STATUSES = {
    "nothing is known yet": Status("reading the model", 0, None, 0.0, None, 0.01),
    "float32 is measured": Status("float32", 0, 40, 1.5, 90.0, 0.01, _FLOAT),
    "a trial is done": Status("trial 2", 1, 40, 4000.0, 0.0, 0.01, _FLOAT, _BEST, _BEST),
    "a trial failed": Status("trial 3", 2, 40, 3.0, 60.0, 0.01, _FLOAT, _BEST, Record(1, "x", state="failed"), 1),
    "nothing was timed": Status("trial 4", 3, None, 4.0, None, 0.0, _FLOAT, None, replace(_BEST, latency_ratio=None)),
    "a bound in words": Status("trial 5", 9, 5, 4.0, None, 0.1, _FLOAT, bound="at least 30 dB"),
    "names with markup": Status(
        "trial 6: [/b]\x1b[2J", 1, 2, 4.0, None, 0.1, _FLOAT, None, replace(_BEST, label="[x]")
    ),
}


class ProgressSuite:
    """Derive from it, and override `progress`."""

    @pytest.fixture
    def progress(self) -> Progress:
        """A new display."""
        raise NotImplementedError

    def test_it_can_be_passed_on(self, progress: Progress) -> None:
        assert make_progress(progress) is progress

    @pytest.mark.parametrize("name", _STATUSES)
    def test_any_status_can_be_shown(self, progress: Progress, name: str) -> None:
        status = _STATUSES[name]
        progress.start(status)
        progress.update(status)
        progress.trial(status)
        progress.finish(status)

    def test_a_whole_search_can_be_shown(self, progress: Progress) -> None:
        progress.start(_STATUSES["nothing is known yet"])
        for status in _STATUSES.values():
            progress.update(status)
            progress.trial(status)
        progress.finish(_STATUSES["a trial is done"])

    def test_a_search_that_ends_before_it_begins_can_be_shown(self, progress: Progress) -> None:
        progress.start(_STATUSES["nothing is known yet"])
        progress.finish(_STATUSES["nothing is known yet"])

    def test_it_can_be_used_for_a_second_search(self, progress: Progress) -> None:
        for _ in range(2):
            progress.start(_STATUSES["nothing is known yet"])
            progress.trial(_STATUSES["a trial is done"])
            progress.finish(_STATUSES["a trial is done"])
