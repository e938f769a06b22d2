"""Precisions as values: names, and which computes which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hago.errors import StrategyError
from hago.precision import FLOATS, INTEGER_BITS, Precision, find_fitting, integer

integers = st.sampled_from([integer(bits) for bits in INTEGER_BITS])
floats = st.sampled_from(list(FLOATS.values()))
precisions = (
    st.builds(Precision, integers, st.none() | integers, st.booleans())
    | st.builds(Precision, floats | st.none(), integers)
    | floats.map(lambda held: Precision(held, held))
    | floats.map(Precision)
)


@given(precisions)
def test_a_name_is_read_back_as_the_same_numbers(precision):
    again = Precision.named(precision.name)
    assert (again.name, again.activation, again.weights) == (precision.name, precision.activation, precision.weights)
    assert again.dynamic == precision.dynamic


@given(precisions, precisions)
def test_different_numbers_have_different_names(one, other):
    numbers = [(p.activation, p.weights, p.dynamic) for p in (one, other)]
    assert (one.name == other.name) == (numbers[0] == numbers[1])


@pytest.mark.parametrize(
    ("name", "activation", "weight"),
    [
        ("int8", integer(8), integer(8)),
        ("int7", integer(8), integer(7)),
        ("int4", integer(4), integer(4)),
        ("w7a7", integer(7), integer(7)),
        ("w4a8", integer(8), integer(4)),
        ("w4a16", FLOATS["float16"], integer(4)),
        ("w8abf16", FLOATS["bfloat16"], integer(8)),
        ("w4a32", FLOATS["float32"], integer(4)),
        ("w4", None, integer(4)),
        ("bfloat16", FLOATS["bfloat16"], FLOATS["bfloat16"]),
    ],
)
def test_what_names_mean(name, activation, weight):
    assert Precision.named(name) == Precision(activation, weight)
    assert Precision(activation, weight).name == name


@pytest.mark.parametrize("name", ["", "int9", "int1", "w4a", "float64", "float32-dynamic", "w4a16-dynamic", "w8a8"])
def test_other_names_are_refused(name):
    with pytest.raises(StrategyError, match=f"there is no precision {name!r}"):
        Precision.named(name)


def test_the_nearest_name_is_reported():
    with pytest.raises(StrategyError, match="did you mean 'bfloat16'"):
        Precision.named("bfloat61")


def test_the_accumulator_makes_no_other_precision():
    assert Precision(integer(8), integer(8), accumulator="int32") == Precision.named("int8")


@given(precisions, precisions, precisions)
def test_fitting_is_an_order(a, b, c):
    assert a.fits_in(a)
    if a.fits_in(b) and b.fits_in(c):
        assert a.fits_in(c)
    if a.fits_in(b):
        assert a.activation == b.activation and a.weights.bits <= b.weights.bits


@pytest.mark.parametrize(
    ("name", "offered", "found"),
    [
        ("int7", ("int8", "float32"), "int8"),
        ("int7", ("int8", "int7"), "int7"),
        ("w4a8", ("bfloat16", "int7", "int8"), "int7"),
        ("int8", ("int7", "float32"), None),
        ("int4", ("int8", "float32"), None),  # activations of 4 bits are others than those of 8
        ("bfloat16", ("float32",), None),
        ("w4a16", ("float16", "w8a16"), "w8a16"),
        ("int8-dynamic", ("int8",), None),
    ],
)
def test_what_computes_a_precision(name, offered, found):
    assert find_fitting(name, offered) == found


def test_kinds_of_precision():
    assert [Precision.named(n).is_integer for n in ("int8", "w4a8", "w4a16", "bfloat16", "float32")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert [n for n in ("int8", "w4a16", "w4", "float16", "float32") if Precision.named(n).is_weight_only] == [
        "w4a16", "w4",
    ]  # fmt: skip
    assert [n for n in ("float16", "float32", "w4a16") if Precision.named(n).is_short_float] == ["float16"]
    assert Precision.named("float32").is_float32 and not Precision.named("w4a32").is_float32
