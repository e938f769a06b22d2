"""Layers that a search leaves as the user wants them, and the strategy that it begins with."""

from __future__ import annotations

import pytest
from search_harness import FakeEvaluator, residual_net, residual_space

from hago.errors import SearchError, StrategyError
from hago.search import SearchSpace, run_search
from hago.search.keep import Keep, read_keep
from hago.search.start import read_start
from hago.spec import load_spec
from hago.strategy import Choice, Strategy, uniform

HW = "x86-avx512-bf16"


def space_of(keep: object, hw: str = HW) -> SearchSpace:
    return SearchSpace.from_model(residual_net(), load_spec(hw), keep=read_keep(keep))


def test_keeps_are_read_from_a_mapping_and_from_pairs():
    expected = (Keep("float32", "head.*"), Keep("float32", "Softmax"), Keep("int8", "stem"))
    assert read_keep({"float32": ["head.*", "Softmax"], "int8": "stem"}) == expected
    assert read_keep([("float32", "head.*"), ["float32", "Softmax"], ("int8", "stem")]) == expected
    assert read_keep(None) == ()


@pytest.mark.parametrize("asked", ["float32", 3, {"float32": 3}, [("float32",)], [("", "x")], {"float32": [None]}])
def test_other_keeps_are_refused(asked):
    with pytest.raises(SearchError, match="keep must name precisions and their layers"):
        read_keep(asked)


def test_a_layer_is_named_by_name_glob_operator_or_kind():
    def kept_float(pattern: str) -> set[str]:
        options = {group.name: group.options for group in space_of({"float32": pattern}).groups}
        return {name for name, texts in options.items() if texts == ("float32",)}

    assert kept_float("fc") == kept_float("Gemm") == kept_float("fully_connected") == {"fc"}
    assert kept_float("b0.conv?") == {"b0.conv1", "stem"}  # the second agrees with the stem, by the addition
    assert kept_float("*") == {group.name for group in residual_space().groups}


def test_what_is_kept_is_no_parameter_and_every_proposal_keeps_it():
    space = space_of({"float32": ["fc"], "int8": ["b1.conv1"]})
    assert "fc.scheme" not in space.parameters and "fc.calibrator" not in space.parameters
    assert space.parameters["b1.conv1.scheme"] == ("int8/per_channel", "int8/per_tensor")
    assert space.signature != residual_space().signature
    evaluator = FakeEvaluator(space, {"b1.conv1": 8.0, "stem": 3.0})
    result = run_search(space, evaluator, trials=20, max_drop=0.02)
    assert len(evaluator.evaluated) == 20
    for strategy in evaluator.evaluated:
        assert strategy.choice("fc").precision == "float32" and strategy.choice("b1.conv1").precision == "int8"
    assert result.met


def test_a_layer_without_weights_keeps_seven_bits_with_the_eight_it_computes_in():
    space = space_of({"int7": ["b0.add"]}, "x86-avx2")
    stem = next(group for group in space.groups if group.name == "stem")
    assert {option.partition("/")[0] for option in stem.options} == {"int7"}
    eight = next(group for group in space_of({"int8": ["b0.add"]}, "x86-avx2").groups if group.name == "stem")
    assert {option.partition("/")[0] for option in eight.options} == {"int7", "int8"}


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({"float32": "haed.*"}, r"keep float32 'haed.\*': no layer is named by"),
        ({"float32": "b0.cnv1"}, "did you mean 'b0.conv1'"),
        ({"int5": "fc"}, "fc has no int5 here: int8, bfloat16, float32 are left"),
        ({"int8": "flat"}, "flat cannot run in int8"),
        ({"float32": "stem", "int8": "b0.add"}, "b0.add has no int8 here: float32 are left(.|\n)*must agree with stem"),
    ],
)
def test_what_cannot_be_kept_is_refused(keep, words):
    with pytest.raises(StrategyError, match=words):
        space_of(keep)


def test_a_search_begins_with_the_strategy_that_is_given():
    space = residual_space()
    start = space.strategy(space.uniform("bfloat16", "minmax"))
    evaluator = FakeEvaluator(space)
    result = run_search(space, evaluator, trials=4, start=start)
    assert evaluator.evaluated[0] == start and result.records[0].label == "the start given"
    assert len(set(evaluator.proposed())) == 4


def test_a_start_that_the_space_does_not_have_becomes_the_nearest():
    space = residual_space()
    whole = uniform(residual_net(), load_spec("x86-avx2"), "int7", calibrator="mse")
    # Other hardware, seven bits where eight are offered, and layers that do not agree.
    lone = Strategy(whole.model_hash, "x86-avx2", {"b0.conv2": Choice("int8"), "fc": Choice("int8", calibrator="mse")})
    found = space.strategy(space.nearest(lone))
    assert found.choice("fc") == Choice("int8", calibrator="mse")
    assert found.choice("b0.conv2").precision == found.choice("stem").precision
    exact = space.strategy(space.uniform("int8/per_channel", "entropy"))
    assert space.strategy(space.nearest(exact)) == exact
    evaluator = FakeEvaluator(space)
    run_search(space, evaluator, trials=3, start=lone)
    assert evaluator.evaluated[0] == found


def test_a_start_is_read_from_a_file_of_this_model(tmp_path):
    space, model, spec = residual_space(), residual_net(), load_spec(HW)
    strategy = space.strategy(space.uniform("int8/per_channel", "mse"))
    strategy.save(tmp_path / "start.yaml")
    assert read_start(tmp_path / "start.yaml", model, spec) == strategy == read_start(strategy, model, spec)
    assert read_start(None, model, spec) is None
    with pytest.raises(StrategyError, match="this strategy is for the model"):
        read_start(Strategy("0" * 64, HW), model, spec)
    with pytest.raises(SearchError, match="start must be a path"):
        read_start(3, model, spec)  # type: ignore[arg-type]
