"""Statistics gathered while calibration runs, against numpy on all samples at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.testing as npt
import pytest

from hago.calibrate import Calibration, calibrate, calibration_fingerprint
from hago.calibrate import statistics as module
from hago.calibrate.calibration import is_calibration
from hago.calibrate.statistics import Need, TensorStatistic
from hago.data import Samples, make_samples
from hago.errors import DataError
from hago.tensor import TensorInfo

MEAN, MOMENTS = Need("input_mean"), Need("input_moments")
IMAGES = [TensorStatistic(need, "x", 1) for need in (MEAN, MOMENTS, Need("inputs", 4))]
ROWS = [
    TensorStatistic(MEAN, "rows", -1),
    TensorStatistic(MOMENTS, "rows", -1),
    TensorStatistic(Need("outputs", 4), "rows", -1),
]


def samples_of(count: int) -> Samples:
    values = np.random.default_rng(1).standard_normal((count, 3, 5, 2)).astype(np.float32) + 1
    return make_samples(values, (TensorInfo("x", "float32", (1, 3, 5, 2)),))


def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``x`` [N, 3, 5, 2], and ``rows`` [N * 5, 6], as a product over positions reads it."""
    x = feeds["x"]
    return {"x": x, "rows": x.transpose(0, 2, 1, 3).reshape(-1, 6)}


def gathered(batch: int, count: int = 10, **options: object) -> Calibration:
    return calibrate(["x"], samples_of(count), run, batch, statistics=[*IMAGES, *ROWS], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 16])
def test_statistics_are_those_of_all_samples_whatever_the_batch(batch):
    found, whole = gathered(batch), samples_of(10).batch(0, 10)["x"]
    for sources, rows in ((IMAGES, whole.transpose(0, 2, 3, 1).reshape(-1, 3)), (ROWS, run({"x": whole})["rows"])):
        mean, moments = (found.statistic(source) for source in sources[:2])
        npt.assert_allclose(mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-6)
        npt.assert_allclose(moments, rows.astype(np.float64).T @ rows.astype(np.float64) / len(rows), rtol=1e-6)
    kept, outputs = found.statistic(IMAGES[2]), found.statistic(ROWS[2]).reshape(4, 5, 6)
    places = [int(np.flatnonzero((whole == sample).all(axis=(1, 2, 3)))[0]) for sample in kept]
    assert places == sorted(set(places)) and len(places) == 4
    npt.assert_array_equal(outputs, run({"x": whole})["rows"].reshape(10, 5, 6)[places])


def test_no_more_samples_are_kept_than_there_are():
    assert gathered(2, count=3).statistic(IMAGES[2]).shape == (3, 3, 5, 2)


def test_infinite_values_are_left_out_with_their_row():
    def broken(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = feeds["x"].copy()
        x[:, 1, 0, 0] = np.inf
        return {"x": x}

    found = calibrate(["x"], samples_of(4), broken, 1, statistics=IMAGES[:2])
    rows = samples_of(4).batch(0, 4)["x"].transpose(0, 2, 3, 1).reshape(4, 10, 3)[:, 1:].reshape(-1, 3)
    npt.assert_allclose(found.statistic(IMAGES[0]), rows.mean(axis=0), rtol=1e-6)
    assert np.isfinite(found.statistic(IMAGES[1])).all()


def test_statistics_are_kept_in_the_file_and_belong_to_the_question(tmp_path):
    store = tmp_path / "c.npz"
    found = gathered(2, store=store)
    assert is_calibration(store)
    loaded = Calibration.load(store)
    assert loaded.fingerprint == found.fingerprint
    for source in (*IMAGES, *ROWS):
        npt.assert_array_equal(loaded.statistic(source), found.statistic(source))
    bare = calibration_fingerprint(["x"], samples_of(10))
    assert bare == calibrate(["x"], samples_of(10), run, 1).fingerprint != found.fingerprint
    # A store without them is made anew.
    calibrate(["x"], samples_of(10), run, 1, store=store)
    with pytest.raises(DataError, match="no input_mean of tensor 'x'"):
        Calibration.load(store).statistic(IMAGES[0])
    assert gathered(2, store=store).statistic(IMAGES[0]).shape == (3,)


def test_what_cannot_be_gathered_is_reported(monkeypatch):
    with pytest.raises(DataError, match="did not return the tensor 'gone'"):
        calibrate(["x"], samples_of(2), run, 1, statistics=[TensorStatistic(MEAN, "gone", 1)])
    monkeypatch.setattr(module, "MOST_CHANNELS", 2)
    with pytest.raises(DataError, match="tensor x: second moments of 3 channels: at most 2"):
        calibrate(["x"], samples_of(2), run, 1, statistics=IMAGES[1:2])
