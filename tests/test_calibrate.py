"""Histograms, observers and scales against plain numpy on the whole of the values."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hago.calibrate import Calibration, calibrate, calibration_fingerprint, scale_zero_point
from hago.calibrate import calibration as calibrate_module
from hago.calibrate.histogram import BINS, EMA_DECAY, Histogram, TensorStats
from hago.calibrate.statistics import Need, TensorStatistic
from hago.data import Samples, make_samples
from hago.errors import DataError
from hago.methods import RANGES
from hago.scheme import IntegerType
from hago.tensor import TensorInfo

U8 = IntegerType(8, signed=False, symmetric=False)
S8 = IntegerType(8, signed=True, symmetric=True)
SCHEMES = [
    IntegerType(bits, signed, symmetric) for bits in (4, 8) for signed in (False, True) for symmetric in (False, True)
]
FLOATS = st.floats(float(np.float32(-1e30)), float(np.float32(1e30)), width=32)
VALUES = hnp.arrays(np.float32, st.integers(1, 200), elements=FLOATS)
# Without what falls below float32's range at the width of the largest bins.
COUNTED = VALUES.map(lambda x: np.where(np.abs(x) < 1e-8, np.float32(0), x))


def stats_of(values: Any) -> TensorStats:
    histogram = Histogram()
    histogram.update(np.asarray(values, np.float32))
    return histogram.stats()


def quantized(x: np.ndarray, lo: float, hi: float, scheme: IntegerType) -> np.ndarray:
    scale, zero_point = scale_zero_point(lo, hi, scheme)
    q = np.clip(np.rint(x.astype(np.float64) / scale) + zero_point, scheme.qmin, scheme.qmax)
    return (q - zero_point) * float(scale)


def error(x: np.ndarray, ends: tuple[float, float], scheme: IntegerType) -> float:
    return float(np.square(quantized(x, *ends, scheme) - x).mean())


def distributions(n: int = 40_000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(n)
    found = {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "heavy": rng.standard_t(2, n),
        "laplace": rng.laplace(size=n),
        "outlier": np.append(normal, -349.0),
        "gelu": np.where(normal > 0, normal * 4, -0.17 * rng.random(n)),
        "pixels": rng.integers(0, 256, n) / 255,
        "far from zero": 5 + rng.random(n),
        "isolated": rng.choice([0.0, 0.01, 0.02, 0.5, 3.0, 9.0], n, p=[0.5, 0.2, 0.15, 0.1, 0.04, 0.01]),
    }
    return {name: x.astype(np.float32) for name, x in found.items()}


# Histograms


@given(COUNTED)
def test_counts_are_numpys(values: np.ndarray) -> None:
    stats = stats_of(values)
    assert stats.lo == values.min() and stats.hi == values.max()
    assert stats.counts.sum() + stats.zeros == len(values)
    if stats.counts.size:
        inside = values[values != 0].astype(np.float64)
        places = np.floor(np.ldexp(inside, -stats.exponent)).astype(np.int64) - stats.first
        npt.assert_array_equal(np.bincount(places, minlength=len(stats.counts)), stats.counts)
        assert len(stats.counts) <= BINS
        span = math.ldexp(max(0.0, stats.hi) - min(0.0, stats.lo), -stats.exponent)
        assert span >= BINS / 2 - 2 or stats.exponent == -126


@given(COUNTED, st.lists(st.integers(0, 200), max_size=5))
def test_the_cut_into_batches_does_not_matter(values: np.ndarray, cuts: list[int]) -> None:
    whole = stats_of(values)
    histogram = Histogram()
    for part in np.split(values, sorted(min(c, len(values)) for c in cuts)):
        histogram.update(part)
    parts = histogram.stats()
    assert (parts.lo, parts.hi, parts.exponent, parts.first) == (
        whole.lo,
        whole.hi,
        whole.exponent,
        whole.first,
    )
    npt.assert_array_equal(parts.counts, whole.counts)
    assert parts.zeros == whole.zeros


def test_magnitudes_fold_the_negative_side() -> None:
    for x in (*distributions(2000).values(), -5 - np.random.default_rng(0).random(50), np.array([-1.0])):
        stats = stats_of(x)
        folded = stats.magnitudes()
        wanted = np.zeros_like(folded)
        # A negative value on an edge belongs to the bin below the edge of its magnitude.
        bins = np.floor(np.ldexp(x[x != 0].astype(np.float64), -stats.exponent)).astype(np.int64)
        np.add.at(wanted, np.where(bins < 0, -bins - 1, bins), 1)
        npt.assert_array_equal(folded, wanted)


def test_strides_reach_every_position_and_keep_exact_ends() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 30)).astype(np.float32)
    x[13, 7], x[44, 2] = -90, 80
    whole, cut = Histogram(stride=7), Histogram(stride=7)
    whole.update(x, samples=50)
    for part in np.split(x, [1, 8, 20]):
        cut.update(part, samples=len(part))
    npt.assert_array_equal(whole.stats().counts, cut.stats().counts)
    assert (whole.stats().lo, whole.stats().hi) == (-90, 80)
    taken = whole.stats().counts.sum() + whole.stats().zeros
    assert taken == math.ceil(x.size / 7)


def test_moving_average_is_that_of_the_samples() -> None:
    x = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    weights = EMA_DECAY ** np.arange(39, -1, -1)
    for sizes in ([40], [1] * 40, [13, 27]):
        histogram, place = Histogram(), 0
        for size in sizes:
            histogram.update(x[place : place + size], samples=size)
            place += size
        stats = histogram.stats()
        npt.assert_allclose(stats.mean_lo, (weights * x.min(axis=1)).sum() / weights.sum())
        npt.assert_allclose(stats.mean_hi, (weights * x.max(axis=1)).sum() / weights.sum())


def test_infinities_are_left_out_and_nan_is_refused() -> None:
    histogram = Histogram()
    histogram.update(np.array([[1, -np.inf], [-2, 3], [np.inf, np.inf]], np.float32), samples=3)
    histogram.update(np.full(4, np.inf, np.float32))
    stats = histogram.stats()
    assert (stats.lo, stats.hi, stats.infinite, stats.counts.sum()) == (-2, 3, 7, 3)
    with pytest.raises(DataError, match="NaN"):
        histogram.update(np.array([1, np.nan], np.float32))


# Scales


@given(FLOATS, FLOATS, st.sampled_from(SCHEMES))
def test_scales_cover_the_range_and_zero_is_exact(a: float, b: float, scheme: IntegerType) -> None:
    lo, hi = min(a, b), max(a, b)
    scale, zero_point = scale_zero_point(lo, hi, scheme)
    assert isinstance(scale, np.float32) and 0 < scale < np.inf and 1 / scale < np.inf
    assert scheme.qmin <= zero_point <= scheme.qmax and isinstance(zero_point, int)
    if scheme.symmetric:
        assert zero_point == (0 if scheme.signed else 2 ** (scheme.bits - 1))
    # Half a step for the rounded zero point, half for rounding.
    ends = np.array([min(lo, 0.0), max(hi, 0.0)])
    assert np.abs(quantized(ends, lo, hi, scheme) - ends).max() <= float(scale) * 1.001
    assert quantized(np.zeros(1), lo, hi, scheme)[0] == 0.0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("lo", "hi"), [(0, 0), (0, 1e-30), (-1e-45, 0), (-3.4e38, 3.4e38), (5, 5), (-349, 4), (1e-45, 1e-45)]
)
def test_degenerate_ranges_have_usable_scales(lo: float, hi: float, scheme: IntegerType) -> None:
    scale, zero_point = scale_zero_point(lo, hi, scheme)
    assert 0 < scale < np.inf and np.isfinite(np.float32(1) / scale)
    assert scheme.qmin <= zero_point <= scheme.qmax


def test_scales_refuse_what_is_no_range() -> None:
    for lo, hi in ((1.0, -1.0), (math.nan, 1.0), (0.0, math.inf)):
        with pytest.raises(DataError, match="finite bounds"):
            scale_zero_point(lo, hi, U8)


def test_known_scales() -> None:
    assert scale_zero_point(0.0, 255.0, U8) == (1.0, 0)
    assert scale_zero_point(-1.0, 1.55, U8) == (np.float32(0.01), 100)
    assert scale_zero_point(-128.0, 127.0, IntegerType(8, signed=True, symmetric=False)) == (1.0, 0)
    assert scale_zero_point(-127.0, 3.0, S8) == (1.0, 0)
    assert scale_zero_point(-127.0, 3.0, IntegerType(8, signed=False, symmetric=True)) == (1.0, 128)


# Observers


@settings(max_examples=60)
@given(VALUES, st.sampled_from(SCHEMES))
def test_ranges_are_finite_hold_zero_and_stay_within_what_was_seen(x: np.ndarray, scheme: IntegerType) -> None:
    stats = stats_of(x)
    for observer in RANGES.values():
        lo, hi = observer(stats, scheme)
        assert min(0.0, float(x.min())) <= lo <= 0.0 <= hi <= max(0.0, float(x.max()))
        assert 0 < scale_zero_point(lo, hi, scheme)[0] < np.inf


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("value", [0.0, 1e-30, -1e-30, 1e-42, 7.0, -349.0, 3e38, -3e38])
def test_constant_tensors(value: float, scheme: IntegerType) -> None:
    stats = stats_of(np.full(100, value))
    for name, observer in RANGES.items():
        lo, hi = observer(stats, scheme)
        assert lo <= 0 <= hi and math.isfinite(lo) and math.isfinite(hi)
        assert 0 < scale_zero_point(lo, hi, scheme)[0] < np.inf
        if name in ("minmax", "percentile", "moving_average"):
            rounded = float(np.float32(value))
            npt.assert_allclose([lo, hi], [min(0.0, rounded), max(0.0, rounded)], rtol=1e-3)


def test_minmax_is_exact() -> None:
    for x in distributions().values():
        assert RANGES["minmax"](stats_of(x), U8) == (min(0.0, float(x.min())), max(0.0, float(x.max())))


def test_percentiles_are_numpys_to_one_bin() -> None:
    for name, x in distributions().items():
        stats, n = stats_of(x), len(x)
        lo, hi = RANGES["percentile"](stats, U8)
        # A quantile is where the share beyond it passes the wanted one.
        for values, bound in ((x, hi), (-x, -lo)):
            assert np.count_nonzero(values > bound + stats.width) <= 0.00005 * n, name
            assert bound == 0 or np.count_nonzero(values >= bound - stats.width) >= 0.00005 * n, name
        lo, hi = RANGES["percentile"](stats, S8)
        assert np.count_nonzero(np.abs(x) > max(-lo, hi) + stats.width) <= 0.0001 * n, name
        assert np.count_nonzero(np.abs(x) >= max(-lo, hi) - stats.width) >= 0.0001 * n, name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mse_range_has_no_more_error_than_others(scheme: IntegerType) -> None:
    for name, x in distributions().items():
        stats = stats_of(x)
        ends = RANGES["mse"](stats, scheme)
        found = error(x, ends, scheme)
        for other in ("minmax", "percentile", "entropy"):
            assert found <= error(x, RANGES[other](stats, scheme), scheme) * 1.03 + 1e-12, (name, other)
        # No threshold of a plain search is much better.
        lo, hi = min(0.0, float(x.min())), max(0.0, float(x.max()))
        for factor in np.linspace(0.05, 1.0, 40):
            assert found <= error(x, (lo * factor, hi * factor), scheme) * 1.03 + 1e-12, (name, factor)


def test_mse_gains_much_where_tails_are_heavy_and_keeps_exact_steps() -> None:
    x = distributions()
    scheme = IntegerType(4, signed=False, symmetric=False)
    heavy = stats_of(x["heavy"])
    minmax, mse = (error(x["heavy"], RANGES[name](heavy, scheme), scheme) for name in ("minmax", "mse"))
    assert mse < 0.8 * minmax
    assert error(x["pixels"], RANGES["mse"](stats_of(x["pixels"]), U8), U8) < 1e-12


def test_entropy_clips_tails_but_never_more_than_its_bound() -> None:
    for name, x in distributions().items():
        for scheme, levels in ((U8, 256), (S8, 128)):
            lo, hi = RANGES["entropy"](stats_of(x), scheme)
            clipped = np.count_nonzero((x < lo) | (x > hi)) / np.count_nonzero(x)
            assert clipped <= 0.25 / levels + 1e-3, name
    lo, hi = RANGES["entropy"](stats_of(distributions()["outlier"]), U8)
    assert -20 < lo < -3 and 3 < hi < 20
    # Both ends are found by themselves: a short negative side stays as it is.
    lo, hi = RANGES["entropy"](stats_of(distributions()["gelu"]), U8)
    assert -0.2 < lo < -0.15 and hi > 8


def test_zeros_do_not_move_entropy_or_mse() -> None:
    x = distributions()["laplace"]
    spiked = np.concatenate([x, np.zeros(10 * len(x), np.float32)])
    for name in ("entropy", "mse"):
        assert RANGES[name](stats_of(spiked), U8) == RANGES[name](stats_of(x), U8)


# The pass over a model


INFOS = (TensorInfo("x", "float32", (1, 4, 3)),)


def samples_of(n: int, seed: int = 0) -> Samples:
    return make_samples(np.random.default_rng(seed).standard_normal((n, 4, 3)).astype(np.float32), INFOS)


def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = feeds["x"]
    return {"x": x, "relu": np.maximum(x, 0), "flat": x.reshape(-1), "const": np.zeros(3, np.float64)}


def test_calibration_equals_numpy_on_the_whole_for_any_batch() -> None:
    samples = samples_of(10)
    whole = samples.batch(0, 10)["x"]
    first = calibrate(["x", "relu", "x"], samples, run, 10)
    assert first.tensors == ("x", "relu") and first.samples == 10
    assert first.range("x", RANGES["minmax"], U8) == (whole.min(), whole.max())
    assert first.range("relu", RANGES["minmax"], U8) == (0.0, whole.max())
    for batch in (1, 3, 4, 16):
        other = calibrate(["x", "relu"], samples, run, batch)
        for tensor in first.tensors:
            npt.assert_array_equal(other.stats(tensor).counts, first.stats(tensor).counts)
            for calibrator in RANGES:
                npt.assert_allclose(
                    other.range(tensor, RANGES[calibrator], U8), first.range(tensor, RANGES[calibrator], U8), rtol=1e-6
                )


def test_runs_get_whole_batches() -> None:
    sizes: list[int] = []
    steps: list[tuple[int, int]] = []

    def watch(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(feeds["x"]))
        return run(feeds)

    first = samples_of(20).subset(np.arange(10))
    found = calibrate(["flat", "const"], first, watch, 4, progress=lambda *s: steps.append(s))
    assert sizes == [4, 4, 4] and steps == [(4, 10), (8, 10), (10, 10)]
    limited = first.batch(0, 10)["x"]
    assert found.range("flat", RANGES["minmax"], U8) == (limited.min(), limited.max())
    assert found.range("const", RANGES["mse"], U8) == (0.0, 0.0)


def test_large_tensors_are_thinned_out_but_keep_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make_samples(
        np.random.default_rng(0).standard_normal((8, 40, 30)).astype(np.float32),
        (TensorInfo("x", "float32", (1, 40, 30)),),
    )
    full = calibrate(["x"], samples, run, 2)
    monkeypatch.setattr(calibrate_module, "HISTOGRAM_VALUES", 2000)
    thin = calibrate(["x"], samples, run, 2)
    count = thin.stats("x").counts.sum()
    assert 1200 <= count <= 2000 and full.stats("x").counts.sum() == 9600
    assert thin.range("x", RANGES["minmax"], U8) == full.range("x", RANGES["minmax"], U8)
    npt.assert_allclose(thin.range("x", RANGES["mse"], U8), full.range("x", RANGES["mse"], U8), rtol=0.3)


def test_ranges_are_worked_out_once() -> None:
    calls: list[str] = []

    def observer(stats: TensorStats, scheme: IntegerType) -> tuple[float, float]:
        calls.append("x")
        return -1.0, 1.0

    found = calibrate(["x"], samples_of(4), run, 1)
    assert found.range("x", observer, U8) == found.range("x", observer, U8) == (-1.0, 1.0)
    assert calls == ["x"]
    found.range("x", observer, S8)
    assert calls == ["x", "x"]


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    found = calibrate(["x", "relu", "const"], samples_of(6), run, 1, model_hash="m")
    found.save(tmp_path / "c.npz")
    loaded = Calibration.load(tmp_path / "c.npz")
    assert (loaded.tensors, loaded.samples, loaded.fingerprint) == (found.tensors, 6, found.fingerprint)
    for tensor in found.tensors:
        for calibrator in RANGES:
            assert loaded.range(tensor, RANGES[calibrator], U8) == found.range(tensor, RANGES[calibrator], U8)
    with zipfile.ZipFile(tmp_path / "c.npz") as archive:
        assert all(not np.load(archive.open(name)).dtype.hasobject for name in archive.namelist())


def test_a_stored_calibration_is_used_for_the_same_question_alone(tmp_path: Path) -> None:
    store, calls = tmp_path / "c.npz", []

    def watch(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(1)
        return run(feeds)

    def again(tensors: list[str], samples: Samples, model_hash: str = "m") -> int:
        calls.clear()
        calibrate(tensors, samples, watch, 1, model_hash=model_hash, store=store)
        return len(calls)

    assert again(["x"], samples_of(5)) == 5
    assert again(["x"], samples_of(5)) == 0
    assert again(["x"], samples_of(5).subset(np.arange(3))) == 3
    assert again(["x"], samples_of(5), model_hash="other") == 5
    assert again(["x", "relu"], samples_of(5)) == 5
    assert again(["x", "relu"], samples_of(5, seed=1)) == 5
    store.write_bytes(store.read_bytes()[:-40])
    assert again(["x", "relu"], samples_of(5, seed=1)) == 5
    assert again(["x", "relu"], samples_of(5, seed=1)) == 0
    assert calibration_fingerprint(["x"], samples_of(5)) != calibration_fingerprint(["y"], samples_of(5))


def test_files_that_are_no_calibration(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    found = calibrate(["x"], samples_of(4), run, 1)
    found.save(path)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a calibration"):
            Calibration.load(path)
    np.savez(path, header=np.array([None], dtype=object), counts=np.zeros(1))
    with pytest.raises(DataError, match="not a calibration"):
        Calibration.load(path)
    np.savez(path, header=np.frombuffer(b'{"format": 99}', np.uint8), counts=np.zeros(1))
    with pytest.raises(DataError, match="format 99"):
        Calibration.load(path)
    with pytest.raises(DataError, match="not a calibration"):
        Calibration.load(tmp_path / "none.npz")


def test_errors_name_the_tensor() -> None:
    with pytest.raises(DataError, match="'other'"):
        calibrate(["other"], samples_of(2), run, 1)

    def broken(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"x": np.log(-np.ones(3, np.float32))}

    with np.errstate(invalid="ignore"), pytest.raises(DataError, match="'x': a value is NaN"):
        calibrate(["x"], samples_of(2), broken, 1)
    with pytest.raises(DataError, match="batch 0"):
        calibrate(["x"], samples_of(2), run, 0)
    found = calibrate(["x"], samples_of(2), run, 1)
    with pytest.raises(DataError, match="'y' was not observed"):
        found.range("y", RANGES["minmax"], U8)
    with pytest.raises(DataError, match=r"no input_mean of tensor 'x'.*\n.*calibrate again"):
        found.statistic(TensorStatistic(Need("input_mean"), "x", 1))
