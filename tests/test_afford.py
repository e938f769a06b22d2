"""How many samples a time budget takes: bounded, drawn by the seed, kept for a resumed search."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest

from hago.data import DataParts, Samples, make_samples, split_samples
from hago.errors import HagoWarning
from hago.tensor import TensorInfo
from hago.tuning.afford import FILE, Affordable

INFO = TensorInfo("x", "float32", (1, 3))


def samples(count: int, seed: int = 0) -> Samples:
    x = np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)
    return make_samples((x, x.argmax(1)), [INFO])


def divided(budget_s: float | None, folder: Path | None, run_s: float, count: int = 4000) -> DataParts:
    return Affordable(budget_s, folder, 3).divided(split_samples(samples(count)), lambda: run_s)


@pytest.mark.parametrize("budget_s", [None, 1e6])
def test_all_samples_are_taken_where_there_is_time(tmp_path: Path, budget_s: float | None) -> None:
    parts = split_samples(samples(4000))
    taken = Affordable(budget_s, tmp_path, 0).divided(parts, lambda: 1e-6)
    assert taken == parts and not taken.split.left_out


@pytest.mark.parametrize(("budget_s", "run_s"), [(60, 1e-2), (60, 1e-3), (60, 1.0), (1, 1e-3)])
def test_every_pass_takes_a_small_part_of_the_budget(budget_s: float, run_s: float) -> None:
    with pytest.warns(HagoWarning, match=r"time budget: using [\d,]+ of [\d,]+ samples \(search part\)"):
        parts = divided(budget_s, None, run_s)
    for name in ("calibration", "search", "test"):
        part = getattr(parts, name)
        assert len(part) == parts.split.sizes[name] >= 8
        cost = len(part) * run_s * (4 if name == "calibration" else 1)
        assert cost <= 0.2 * budget_s or len(part) == 8  # the fewest
    total = sum(parts.split.sizes.values()) + sum(parts.split.left_out.values())
    assert total == 4000
    seen = [set(getattr(parts, name).digests()) for name in ("calibration", "search", "test")]
    assert not any(a & b for a, b in itertools.combinations(seen, 2))
    again = divided(budget_s, None, run_s)
    assert [again.search.digests(), again.split] == [parts.search.digests(), parts.split]


def test_a_resumed_search_has_the_samples_it_had(tmp_path: Path) -> None:
    with pytest.warns(HagoWarning):
        first = divided(60, tmp_path, 1e-2)
    with pytest.warns(HagoWarning):
        again = divided(None, tmp_path, 1.0)
    assert again.search.digests() == first.search.digests() and again.split == first.split
    (tmp_path / FILE).write_text("damaged")
    assert not divided(None, tmp_path, 1.0).split.left_out


class Slow:
    """Rows that take a millisecond each to read."""

    def __init__(self, count: int, clock: list[float]) -> None:
        self.rows, self.clock = np.random.default_rng(0).random((count, 3), np.float32), clock

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        found = self.rows[rows]
        self.clock[0] += 1e-3 * len(found)
        return found


def test_slow_samples_are_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    rows = Slow(100_000, clock)
    with pytest.warns(HagoWarning, match=r"of 100,000 samples \(data\)"):
        taken = Affordable(60, None, 0).read("data", make_samples((rows, np.arange(100_000) % 3), [INFO]))
    assert 300 <= len(taken) <= 6000 and clock[0] < 1
    assert taken.labels is not None and len(taken.labels) == len(taken)
    split_samples(taken)
    assert clock[0] < 10
