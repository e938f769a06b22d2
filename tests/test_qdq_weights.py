"""Rounding of weights and biases: bounds that hold for every tensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hago.errors import ModelError, StrategyError
from hago.methods.bias_correction import correct_bias
from hago.methods.mse_clipping import MSE, threshold_of_tensor
from hago.methods.nearest import NEAREST
from hago.methods.quantized_weight import MIN_SCALE, quantize_weight
from hago.methods.task import CorrectionTask, WeightTask
from hago.qdq.bias import BIAS_LIMIT, bias_scale, quantize_bias, required_scale
from hago.scheme import MAX_MULTIPLIER, PER_CHANNEL, PER_TENSOR, Granularity, IntegerType

INT8 = IntegerType(8, signed=True, symmetric=True)
INT7 = IntegerType(7, signed=True, symmetric=True)
INT4 = IntegerType(4, signed=True, symmetric=True)
GROUP4 = Granularity("per_group", 4)


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    """[O, I, k] with channels of very different size, some all zeros."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outputs, inputs = draw(st.integers(1, 6)), 4 * draw(st.integers(1, 4))
    kernel = draw(st.integers(1, 3))
    sizes = 10.0 ** rng.uniform(-12, 6, (outputs, 1, 1)) * rng.integers(0, 2, (outputs, 1, 1))
    return (rng.standard_normal((outputs, inputs, kernel)) * sizes).astype(np.float32)


@given(weights(), st.sampled_from([INT8, INT7]), st.sampled_from([PER_TENSOR, PER_CHANNEL, GROUP4]))
@settings(max_examples=80)
def test_dequantized_weights_are_within_half_a_step(w, scheme, granularity):
    q = quantize_weight(w, scheme, granularity)
    assert q.values.dtype == np.int8 and q.values.shape == w.shape
    assert np.abs(q.values.astype(int)).max() <= scheme.qmax
    assert np.all(q.scale > 0) and np.all(np.isfinite(q.scale))
    step = np.broadcast_to(q.full_scale(), w.shape).astype(np.float64)
    assert np.all(np.abs(q.dequantize().astype(np.float64) - w) <= step * (0.5 + 1e-5))


@given(weights(), st.sampled_from([INT8, INT7]))
@settings(max_examples=40)
def test_finer_granularity_has_no_larger_step(w, scheme):
    tensor, channel = (quantize_weight(w, scheme, g) for g in (PER_TENSOR, PER_CHANNEL))
    assert np.all(channel.scale <= tensor.scale)
    groups = quantize_weight(w, scheme, GROUP4)
    # Two-level scales keep 20 bits of the channel scale, rounded up.
    assert np.all(groups.full_scale() <= channel.full_scale() * (1 + 2.0**-18) + MAX_MULTIPLIER * MIN_SCALE)


@given(weights())
@settings(max_examples=60)
def test_group_scales_are_exact_multiples_of_the_channel_scale(w):
    q = quantize_weight(w, INT8, GROUP4)
    assert q.multipliers is not None and q.multipliers.shape == (w.shape[0], w.shape[1] // 4)
    assert q.multipliers.min() >= 1 and np.all(q.multipliers.max(axis=1) == MAX_MULTIPLIER)
    exact = q.scale[:, None].astype(np.float64) * q.multipliers
    assert np.array_equal(q.group_scale().astype(np.float64), exact)
    # So a reader of the QDQ file recovers both levels from the products alone.
    recovered = (q.group_scale().max(axis=1).astype(np.float64) / MAX_MULTIPLIER).astype(np.float32)
    assert np.array_equal(recovered, q.scale)
    assert np.array_equal(np.rint(q.group_scale() / recovered[:, None]), q.multipliers)


def test_finer_granularity_lowers_the_error_of_uneven_weights():
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((16, 32, 3, 3)) * 10 ** rng.uniform(-2, 0, (16, 32, 1, 1))).astype(np.float32)
    error = {
        str(g): float(np.square(quantize_weight(w, INT8, g).dequantize() - w).mean())
        for g in (PER_TENSOR, PER_CHANNEL, GROUP4)
    }
    assert error["per_group:4"] < error["per_channel"] < error["per_tensor"]


def test_the_axes_are_those_of_a_matmul():
    w = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)  # [K, N]
    for granularity in (PER_CHANNEL, GROUP4):
        turned = quantize_weight(w, INT8, granularity, out_axis=1, in_axis=0)
        straight = quantize_weight(np.ascontiguousarray(w.T), INT8, granularity)
        assert np.array_equal(turned.values.T, straight.values)
        assert np.array_equal(turned.dequantize().T, straight.dequantize())
        assert np.array_equal(turned.absolute_sums(), straight.absolute_sums())


def test_channels_of_zeros_and_empty_weights_are_harmless():
    w = np.zeros((3, 4, 1), np.float32)
    for granularity in (PER_TENSOR, PER_CHANNEL, GROUP4):
        assert not quantize_weight(w, INT8, granularity).dequantize().any()
        w[1] = 0.5
        q = quantize_weight(w, INT8, granularity)
        assert np.all(np.isfinite(q.scale)) and np.allclose(q.dequantize(), w, atol=1e-6)
        w[1] = 0
    for shape in ((0, 4, 3), (4, 0, 3)):
        for granularity in (PER_TENSOR, PER_CHANNEL, GROUP4):
            q = quantize_weight(np.zeros(shape, np.float32), INT8, granularity)
            assert q.values.shape == shape and q.absolute_sums().sum() == 0
    denormal = np.full((2, 4, 1), 1e-42, np.float32)
    assert np.all(quantize_weight(denormal, INT8, PER_CHANNEL).scale >= MIN_SCALE)


def test_weights_that_cannot_be_quantized_are_refused():
    w = np.ones((2, 6), np.float32)
    with pytest.raises(StrategyError, match="groups of 4 do not divide 6"):
        quantize_weight(w, INT8, GROUP4)
    with pytest.raises(StrategyError, match="symmetric signed"):
        quantize_weight(w, IntegerType(8, signed=False, symmetric=False), PER_TENSOR)
    w[0, 0] = np.nan
    with pytest.raises(ModelError, match="layer c: weights hold NaN"):
        quantize_weight(w, INT8, PER_TENSOR, where="layer c")


def test_mse_clipping_beats_the_maximum_on_heavy_tails():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 64)).astype(np.float32)
    w[0, 0] = 40
    plain = quantize_weight(w, INT7, PER_TENSOR)
    clipped = quantize_weight(w, INT7, PER_TENSOR, thresholds=threshold_of_tensor)
    assert clipped.scale < plain.scale
    assert np.square(clipped.dequantize() - w).mean() < np.square(plain.dequantize() - w).mean()


@given(weights(), st.sampled_from([INT8, INT7]), st.sampled_from([PER_TENSOR, PER_CHANNEL, GROUP4]))
@settings(max_examples=60)
def test_mse_clipping_is_never_worse_than_the_maximum(w, integers, granularity):
    task = WeightTask(w, integers, granularity)
    plain, clipped = (np.square(m.round(task).dequantize().astype(np.float64) - w) for m in (NEAREST, MSE))
    axes = None if granularity == PER_TENSOR else (1, 2)
    assert np.all(clipped.sum(axis=axes) <= plain.sum(axis=axes) * (1 + 1e-5))
    assert threshold_of_tensor(np.abs(w).reshape(1, -1), 127) <= np.abs(w).max()


def heavy_tailed(shape):
    """Weights of which a few are far larger than the others."""
    return (np.random.default_rng(1).standard_t(3, shape) * 0.1).astype(np.float32)


def rounded(values, threshold, qmax):
    """``values``, float32, on the grid of a threshold."""
    step = np.float32(threshold) / np.float32(qmax)
    return np.clip(np.rint(values / step), -qmax, qmax) * step


def best_threshold(values, qmax):
    """Of max|w| * i/100, tried one by one, that with the least squared error."""
    peak = np.abs(values).max()
    tried = [peak * np.float32(i / 100) for i in range(100, 29, -1)]
    return min(tried, key=lambda t: np.square(rounded(values, t, qmax).astype(np.float64) - values).sum())


@pytest.mark.parametrize(("out_axis", "in_axis"), [(0, 1), (1, 0)])
def test_mse_clips_each_channel_as_if_it_were_alone(out_axis, in_axis):
    w = np.moveaxis(heavy_tailed((5, 64, 3)), (0, 1), (out_axis, in_axis))
    found = MSE.round(WeightTask(w, INT4, PER_CHANNEL, out_axis, in_axis))
    by_channel = np.moveaxis(found.dequantize(), out_axis, 0)
    for index, channel in enumerate(np.moveaxis(w, out_axis, 0)):
        threshold = best_threshold(channel, 7)
        assert threshold < np.abs(channel).max() and found.scale[index] == threshold / np.float32(7)
        np.testing.assert_array_equal(by_channel[index], rounded(channel, threshold, 7))


@pytest.mark.parametrize(("out_axis", "in_axis"), [(0, 1), (1, 0)])
def test_mse_clips_each_group_as_if_it_were_alone_where_that_pays_for_the_channel(out_axis, in_axis):
    w = np.moveaxis(heavy_tailed((8, 64)), (0, 1), (out_axis, in_axis))
    found = MSE.round(WeightTask(w, INT4, Granularity("per_group", 32), out_axis, in_axis))
    plain = quantize_weight(w, INT4, Granularity("per_group", 32), out_axis=out_axis, in_axis=in_axis)
    clipped = 0
    for index, channel in enumerate(np.moveaxis(w, out_axis, 0)):
        groups = channel.reshape(2, 32)
        thresholds = [best_threshold(group, 7) for group in groups]
        # The channel's scale is a fifteenth of its largest group's, of 20 bits and rounded up; so are multiples of it.
        mantissa, exponent = np.frexp(np.float64(max(thresholds) / np.float32(7)) / 15)
        scale = np.float32(np.ldexp(np.ceil(np.ldexp(mantissa, 20)), exponent - 20))
        multipliers = [15 if t == max(thresholds) else np.ceil(float(t) / 7 / float(scale)) for t in thresholds]
        alone = [rounded(g, 7 * m * float(scale), 7) for g, m in zip(groups, multipliers, strict=True)]
        kept = np.moveaxis(plain.dequantize(), out_axis, 0)[index].reshape(2, 32)
        better = np.square(np.float64(alone) - groups).sum() < np.square(np.float64(kept) - groups).sum()
        clipped += bool(better)
        wanted = alone if better else kept
        np.testing.assert_allclose(
            np.moveaxis(found.dequantize(), out_axis, 0)[index].reshape(2, 32), wanted, rtol=1e-6
        )
    assert clipped > 0
    assert found.multipliers.min() >= 1 and np.all(found.multipliers.max(axis=1) == MAX_MULTIPLIER)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8),
    st.floats(2.0**-30, 1, width=32),
    st.floats(2.0**-40, 1, width=32),
)
@settings(max_examples=100)
def test_bias_is_rounded_exactly_and_fits_int32(values, s_x, s_w):
    bias, s_x = np.array(values, np.float32), np.float32(s_x)
    scales = np.full(len(bias), s_w, np.float32)
    needed = required_scale(bias, s_x, scales)
    if needed is not None:
        raised = np.maximum(scales, needed)
        assert np.any(raised > scales)
        # Only what must be raised is raised, and no more than float32 rounding asks for.
        must = np.abs(bias.astype(np.float64)) / (float(s_x) * BIAS_LIMIT)
        assert np.array_equal(raised > scales, must.astype(np.float32) >= scales)
        scales = raised
    scale = bias_scale(s_x, scales)
    q = quantize_bias(bias, scale)
    assert q.dtype == np.int32 and np.all(np.abs(q.astype(np.int64)) <= BIAS_LIMIT)
    exact = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    assert np.all(np.abs(q - exact) <= BIAS_LIMIT * 2.0**-22)
    assert np.array_equal(q, np.clip(exact, -BIAS_LIMIT, BIAS_LIMIT))


def test_raised_scales_bound_the_bias_for_groups_too():
    w = np.full((2, 8), 1e-9, np.float32)
    w[1] = 1
    bias, s_x = np.array([50, 0.1], np.float32), np.float32(0.02)
    plain = quantize_weight(w, INT8, GROUP4)
    needed = required_scale(bias, s_x, plain.scale)
    assert needed is not None
    raised = quantize_weight(w, INT8, GROUP4, min_scale=needed)
    assert required_scale(bias, s_x, raised.scale) is None
    assert raised.scale[0] > plain.scale[0] and raised.scale[1] == plain.scale[1]
    assert np.array_equal(raised.values[1], plain.values[1])


@pytest.mark.parametrize("groups", [1, 2])
def test_bias_correction_restores_the_mean_output(groups):
    rng = np.random.default_rng(0)
    inputs, outputs, per_group = 8, 6, 8 // groups
    x = rng.uniform(0, 2, (500, inputs))
    w = rng.standard_normal((outputs, per_group, 1)).astype(np.float32)
    q = quantize_weight(w, IntegerType(3, True, True), PER_TENSOR)
    mean = x.mean(axis=0).astype(np.float32)
    added = correct_bias(CorrectionTask(w, q, None, {"input_mean": mean}))

    def outputs_of(weight):
        parts = [
            x[:, g * per_group : (g + 1) * per_group]
            @ weight[g * outputs // groups : (g + 1) * outputs // groups, :, 0].T
            for g in range(groups)
        ]
        return np.concatenate(parts, axis=1).mean(axis=0)

    wanted, found = outputs_of(w), outputs_of(q.dequantize())
    assert np.abs(found - wanted).max() > 0.05
    assert np.allclose(found + added, wanted, atol=1e-5)
    assert added.shape == (outputs,) and added.dtype == np.float32
