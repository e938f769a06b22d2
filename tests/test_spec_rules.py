"""The rules of hardware specs: no damage goes unseen, and the overflow bounds are those of brute force."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hago.documents import Document, KeyPath
from hago.scheme import IntegerType
from hago.spec import (
    HardwareSpec,
    load_spec,
    shipped_folder,
    spec_names,
)
from hago.spec.bounds import accumulator_limit, largest, partial_sum_range
from hago.spec.rules import problems_of
from hago.spec.schema import parse
from hago.spec.yaml import read_with_bases


@pytest.fixture(params=spec_names())
def spec(request: pytest.FixtureRequest) -> HardwareSpec:
    return load_spec(request.param)


def _paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _paths(item, (*path, key))


def _changed(data: dict[str, Any], path: KeyPath, change: Any) -> dict[str, Any]:
    """A copy in which the mapping or list that holds the last part of ``path`` went through ``change``."""
    copied = copy.deepcopy(data)
    holder: Any = copied
    for part in path[:-1]:
        holder = holder[part]
    change(holder, path[-1])
    return copied


def _problems(document: Document, data: dict[str, Any]) -> int:
    spec, problems = parse(Document(document.file, data, document.places))
    return len(problems) if spec is None else len(problems_of(spec))


def _rename(holder: Any, key: Any) -> None:
    holder[f"{key}_x"] = holder.pop(key)


def _replace(holder: Any, key: Any) -> None:
    holder[key] = {"strange": ["value"]}


def test_no_key_can_be_misspelt_and_no_value_be_of_another_kind(spec: HardwareSpec) -> None:
    document = read_with_bases(Path(spec.path), shipped_folder())
    assert _problems(document, document.data) == 0
    for path in _paths(document.data):
        if document.data["ways"].get("int4", {}) is None and path[:2] == ("ways", "int4"):
            continue  # taken away
        if not isinstance(path[-1], int) and not (len(path) == 2 and path[0] in ("types", "instructions", "ways")):
            assert _problems(document, _changed(document.data, path, _rename)), path
        assert _problems(document, _changed(document.data, path, _replace)), path


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["int8", "float32"]),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(data=st.data(), value=_values)
def test_whatever_a_file_says_the_answer_is_a_list_of_problems(data: st.DataObject, value: Any) -> None:
    document = read_with_bases(shipped_folder() / "x86-avx2.yaml", shipped_folder())
    path = data.draw(st.sampled_from(list(_paths(document.data))))
    changed = _changed(document.data, path, lambda holder, key: holder.__setitem__(key, value))
    spec, problems = parse(Document(document.file, changed, document.places))
    for problem in problems if spec is None else problems_of(spec):
        assert problem.text and document.where(problem.path)


_schemes = st.builds(
    lambda bits, signed, symmetric: IntegerType(bits, signed, symmetric and signed),
    st.integers(2, 5),
    st.booleans(),
    st.booleans(),
)
_weights = st.builds(lambda bits: IntegerType(bits, signed=True, symmetric=True), st.integers(2, 5))


def _extremes(activation: IntegerType, weight: IntegerType | None) -> tuple[int, int]:
    """Smallest and largest (a - z) * w over every value and every zero point, by trying them all."""
    a = np.arange(activation.qmin, activation.qmax + 1)
    z = np.array([0]) if activation.symmetric else a
    w = np.array([1]) if weight is None else np.arange(weight.qmin, weight.qmax + 1)
    products = (a[:, None, None] - z[None, :, None]) * w[None, None, :]
    return int(products.min()), int(products.max())


@given(activation=_schemes, weight=st.none() | _weights, bits=st.integers(8, 16))
def test_the_accumulator_bound_is_exact(activation: IntegerType, weight: IntegerType | None, bits: int) -> None:
    low, high = _extremes(activation, weight)
    limit = accumulator_limit(activation, weight, bits)
    worst = max(-low, high)
    assert worst == largest(activation) * (1 if weight is None else largest(weight))
    fits = [k for k in range(limit + 3) if k * high <= 2 ** (bits - 1) - 1 and k * low >= -(2 ** (bits - 1) - 1)]
    assert limit == fits[-1]


@given(activation=_schemes, weight=_weights, terms=st.integers(1, 3))
def test_the_partial_sums_are_exact(activation: IntegerType, weight: IntegerType, terms: int) -> None:
    a = range(activation.qmin, activation.qmax + 1)
    w = range(weight.qmin, weight.qmax + 1)
    products = [x * y for x, y in itertools.product(a, w)]
    assert partial_sum_range(activation, weight, terms) == (terms * min(products), terms * max(products))


def test_the_bounds_of_the_types_in_use() -> None:
    u8, s8 = IntegerType(8, False, False), IntegerType(8, True, True)
    s7 = IntegerType(7, True, True)
    assert accumulator_limit(u8, s8, 32) == 66_311
    assert accumulator_limit(u8, u8, 32) == 33_025
    assert accumulator_limit(u8, None, 32) == 8_421_504
    assert partial_sum_range(u8, s8, 2) == (-64_770, 64_770)
    assert partial_sum_range(u8, s7, 2) == (-32_130, 32_130)
    # What vpmaddubsw would do to the first and not to the second.
    x = np.array([255, 255], np.int32)
    assert np.clip((x * 127).sum(), -(2**15), 2**15 - 1) != (x * 127).sum()
    assert np.clip((x * 63).sum(), -(2**15), 2**15 - 1) == (x * 63).sum()
