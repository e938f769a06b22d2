"""The table of what can be chosen for a layer."""

from __future__ import annotations

import pytest

from hago.errors import StrategyError
from hago.knobs import FREE, KNOBS, find_knob, read_knobs, read_setting, setting_text
from hago.methods import RANGES, needs_of
from hago.precision import Precision
from hago.scheme import PER_CHANNEL, PER_TENSOR

USUAL = {"calibrator": tuple(RANGES), "rounding": ("nearest",), "correction": ("none",)}


def test_what_is_searched_by_default():
    assert read_knobs() == read_knobs({}) == USUAL


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"correction": ("none", "bias")}, {"correction": ("none", "bias")}),
        ({"correction": "none, bias"}, {"correction": ("none", "bias")}),
        ({"rounding": "mse"}, {"rounding": ("mse",)}),
        ({"calibrator": ["mse", "entropy", "mse"]}, {"calibrator": ("mse", "entropy")}),
        ({"precision": "int8,float32"}, {"precision": ("int8", "float32")}),
        ({"granularity": "per_group:64"}, {"granularity": ("per_group:64",)}),
    ],
)  # fmt: skip
def test_what_is_asked_for(asked, found):
    assert read_knobs(asked) == USUAL | found


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"roundin": "mse"}, "there is no knob 'roundin'\n  hint: did you mean 'rounding'?"),
        ({"rounding": "mes"}, "unknown rounding 'mes'\n  hint: did you mean 'mse'?"),
        ({"rounding": ()}, "knob rounding needs a value\n  hint: values: nearest, mse"),
        ({"rounding": 3}, "knob rounding must be a list of names, got 3"),
        ({"calibrator": ""}, "unknown calibrator ''"),
        ({"precision": "int9"}, "there is no precision 'int9'\n  hint: did you mean 'int"),
        ({"granularity": "per_row"}, "granularity must be per_tensor, per_channel or per_group:SIZE"),
        (["rounding"], "knobs must map a knob to its values"),
    ],
)
def test_what_there_is_not_is_refused(asked, message):
    with pytest.raises(StrategyError) as caught:
        read_knobs(asked)
    assert message in str(caught.value)


def test_a_setting_is_read_back():
    assert setting_text({}) == "minmax" and read_setting("minmax") == {knob.name: knob.default for knob in FREE}
    assert setting_text({"calibrator": "mse", "rounding": "nearest"}) == "mse"
    values = {"calibrator": "entropy", "rounding": "mse", "correction": "bias"}
    assert setting_text(values) == "entropy,rounding=mse,correction=bias"
    assert read_setting(setting_text(values)) == values


@pytest.mark.parametrize(
    ("weights", "precision", "granularity", "mattering"),
    [
        (True, "int8", PER_TENSOR, {"precision", "granularity", "calibrator", "rounding", "correction"}),
        (True, "int8", PER_CHANNEL, {"precision", "granularity", "calibrator", "rounding", "correction"}),
        (False, "int8", PER_CHANNEL, {"precision", "calibrator"}),
        (True, "w4a16", PER_TENSOR, {"precision", "granularity", "rounding"}),
        (True, "bfloat16", PER_CHANNEL, {"precision"}),
    ],
)
def test_where_a_knob_matters(weights, precision, granularity, mattering):
    about = weights, Precision.named(precision), granularity
    assert {knob.name for knob in KNOBS if knob.matters(*about)} == mattering


def test_defaults_are_values():
    assert all(find_knob(knob.name).check(knob.default) == knob.default for knob in KNOBS)


def test_what_methods_need_of_calibration():
    assert needs_of(read_knobs()) == ()
    assert [need.statistic for need in needs_of(read_knobs({"correction": "none,bias"}))] == ["input_mean"]
