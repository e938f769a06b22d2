"""The search space: which layers agree, what each may do, parameters and strategies both ways."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_harness import NetBuilder, residual_net, residual_space

from hago.errors import StrategyError
from hago.methods import RANGES
from hago.model import Model, load_model
from hago.scheme import PER_CHANNEL
from hago.search.option import FLOAT32
from hago.search.space import SearchSpace
from hago.spec import load_spec
from hago.strategy import Choice, Strategy

HW = "x86-avx512-bf16"


def groups_of(model: Model, hw: str = HW) -> dict[str, tuple[str, ...]]:
    return {g.name: g.layers for g in SearchSpace.from_model(model, load_spec(hw)).groups}


def test_the_inputs_of_an_add_agree_with_it_and_anchors_stand_alone():
    found = groups_of(residual_net())
    assert found["stem"] == ("stem", "b0.conv2", "b0.add")
    assert found["b0.conv1"] == ("b0.conv1",)
    # The shortcut, both adds of the stage and the pooling that follows.
    assert set(found["b1.conv2"]) == {"b1.conv2", "b1.short", "b1.add", "b2.conv2", "b2.add", "gap"}
    assert found["fc"] == ("fc",)


def test_a_walk_from_a_concat_goes_through_pools_tables_and_shapes():
    net = NetBuilder(4, 8)
    a = net.op("Sigmoid", "table", net.conv("a", "x", 8))
    b = net.op("MaxPool", "pool", net.conv("b", "x", 8), kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
    c = net.op("Transpose", "turn", net.conv("c", "x", 8), perm=[0, 1, 3, 2])
    found = groups_of(net.model(net.op("Concat", "cat", a, b, c, axis=1)))
    # Data movement joins what it stands between, but has no choice of its own.
    assert list(found.values()) == [("a", "table", "b", "pool", "c", "cat")]


def test_a_follower_of_the_graph_input_joins_its_reader():
    net = NetBuilder(4, 8)
    pool = net.op("MaxPool", "pool", "x", kernel_shape=[2, 2], strides=[2, 2])
    found = groups_of(net.model(net.conv("conv", pool, 8)))
    assert list(found.values()) == [("pool", "conv")]


def test_a_layer_that_stays_in_float_ends_the_walk():
    net = NetBuilder(4, 8)
    a = net.op("Softmax", "soft", net.conv("a", "x", 8), axis=1)
    found = groups_of(net.model(net.conv("b", net.op("Sigmoid", "table", a), 8)))
    assert found == {"a": ("a",), "table": ("table", "b")}


def test_the_second_output_of_a_split_leads_to_its_maker():
    net = NetBuilder(4, 8)
    net.op("Split", "split", net.conv("a", "x", 8), outputs=2, axis=1, num_outputs=2)
    net._channels["split_1"] = 4
    found = groups_of(net.model(net.op("Add", "add", "split_1", net.conv("b", "x", 4))))
    assert sorted(found["a"]) == ["a", "add", "b"]


def test_options_are_what_the_hardware_offers_the_whole_group():
    space = residual_space()
    by_name = {group.name: [s for s in group.options] for group in space.groups}
    assert by_name["b0.conv1"] == ["int8/per_channel", "int8/per_tensor", "bfloat16", "float32"]
    assert by_name["b2.conv1"] == [
        "int8/per_channel",
        "int8/per_tensor",
        "int8/per_group:32",  # 64 input channels: groups of 64 are one group per channel
        "bfloat16",
        "float32",
    ]
    # The stem has 3 input channels: no group size fits it, and so none fits its group.
    assert by_name["stem"] == ["int8/per_channel", "int8/per_tensor", "bfloat16", "float32"]


def test_followers_go_along_as_far_as_they_can():
    bf16 = "bfloat16"
    space = residual_space()
    strategy = space.strategy(space.uniform(bf16, "minmax"))
    assert strategy.choice("b0.conv2") == Choice("bfloat16")
    assert strategy.choice("b0.add").precision == "float32"  # no bfloat16 add on this hardware
    int7 = residual_space("x86-avx2")
    strategy = int7.strategy(int7.uniform("int7/per_channel", "mse"))
    assert strategy.choice("b0.conv2") == Choice("int7", PER_CHANNEL, "mse")
    assert strategy.choice("b0.add") == Choice("int8", PER_CHANNEL, "mse")


def test_hardware_without_floats_has_no_float_choice():
    space = residual_space("integer-only")
    assert all(FLOAT32 not in group.options for group in space.groups)


def test_layers_that_read_one_tensor_have_one_calibrator():
    space = residual_space()
    assert ("b0.conv1", "b0.add") in space.ties
    params = space.uniform("int8/per_channel", "minmax")
    strategy = space.strategy({**params, "b0.conv1.calibrator": "entropy"})
    assert strategy.choice("b0.add").calibrator == "entropy"
    assert strategy.choice("b0.conv2").calibrator == "minmax"
    # Where the first reader is in float, the next one leads.
    strategy = space.strategy({**params, "b0.conv1.calibrator": "entropy", "b0.conv1.scheme": "float32"})
    assert strategy.choice("b0.add").calibrator == "minmax"


def test_a_tie_goes_through_data_movement_and_maxima():
    net = NetBuilder(4, 8)
    pool = net.op("MaxPool", "pool", net.conv("a", "x", 8), kernel_shape=[2, 2], strides=[2, 2])
    space = SearchSpace.from_model(net.model(net.conv("b", pool, 8)), load_spec(HW))
    assert space.ties == (("pool", "b"),)


def test_calibrators_say_nothing_in_float():
    space = residual_space()
    floats = [space.strategy(space.uniform(FLOAT32, c)) for c in RANGES]
    assert {s.key() for s in floats} == {Strategy(space.model_hash, space.hw).key()}


@st.composite
def some_params(draw: st.DrawFn) -> dict[str, str]:
    space = residual_space()
    return {name: draw(st.sampled_from(choices)) for name, choices in space.parameters.items()}


@given(some_params())
@settings(max_examples=60)
def test_strategies_go_back_to_parameters(params):
    space = residual_space()
    strategy = space.strategy(params)
    strategy.check(residual_net(), load_spec(HW))
    again = space.params(strategy)
    assert again.keys() == space.parameters.keys()
    assert space.strategy(again) == strategy
    assert all(again[name] == params[name] for name in params if name.endswith(".scheme"))


def test_a_trial_suggests_every_parameter_once():
    space, asked = residual_space(), []

    class Trial:
        def suggest_categorical(self, name, choices):
            asked.append(name)
            return choices[-1]

    strategy = space.suggest(Trial())
    assert asked == list(space.parameters)
    assert not strategy.choices  # the last option is float32


def test_a_strategy_that_disagrees_within_a_group_is_none_of_the_space():
    space = residual_space()
    strategy = Strategy(space.model_hash, space.hw, {"b0.conv2": Choice("int8")})
    with pytest.raises(StrategyError, match=r"stem: its layers .* must agree"):
        space.params(strategy)
    whole = space.strategy(space.uniform("int8/per_channel", "mse"))
    with pytest.raises(StrategyError, match="calibrators differ within a group or a shared tensor"):
        space.params(whole.with_("b0.add", Choice("int8", PER_CHANNEL, "entropy")))


def test_unknown_choices_and_calibrators_are_reported():
    space = residual_space()
    with pytest.raises(StrategyError, match=r"stem: 'int5' is not among the choices"):
        space.strategy({"stem.scheme": "int5"})
    with pytest.raises(StrategyError, match="unknown calibrator 'best'"):
        SearchSpace.from_model(residual_net(), load_spec(HW), {"calibrator": "best"})
    with pytest.raises(StrategyError, match="knob calibrator needs a value"):
        SearchSpace.from_model(residual_net(), load_spec(HW), {"calibrator": ()})


def test_the_signature_distinguishes_spaces():
    space = residual_space()
    assert space.signature == SearchSpace.from_model(residual_net(), load_spec(HW)).signature
    assert space.signature != residual_space("x86-avx2").signature
    fewer = SearchSpace.from_model(residual_net(), load_spec(HW), knobs={"calibrator": "minmax"})
    assert space.signature != fewer.signature
    assert not any(name.endswith(".calibrator") for name in fewer.parameters)


def test_a_knob_that_is_searched_is_a_parameter_where_it_matters():
    space = SearchSpace.from_model(residual_net(), load_spec(HW), {"correction": ("none", "bias"), "calibrator": "mse"})
    assert not any(name.endswith(".calibrator") for name in space.parameters)
    assert space.parameters["fc.correction"] == ("none", "bias") and "fc.rounding" not in space.parameters
    assert space.settings == ("mse", "mse,correction=bias")
    params = space.uniform("int8/per_channel", "mse,correction=bias")
    strategy = space.strategy(params)
    assert strategy.choice("fc").to_dict() == {
        "precision": "int8", "granularity": "per_channel", "calibrator": "mse", "correction": "bias",
    }  # fmt: skip
    assert strategy.choice("b0.add") == Choice("int8", calibrator="mse")  # it has no bias to correct
    assert space.params(strategy) == params
    fixed = SearchSpace.from_model(residual_net(), load_spec(HW), {"correction": "bias"})
    assert fixed.strategy(fixed.uniform("int8/per_channel", "mse")).choice("fc").value("correction") == "bias"
    assert fixed.parameters == residual_space().parameters


def test_precisions_and_granularities_can_be_narrowed():
    space = SearchSpace.from_model(
        residual_net(), load_spec(HW), {"precision": "int8,float32", "granularity": "per_channel"}
    )
    assert {group.options for group in space.groups} == {("int8/per_channel", "float32")}


def test_nearest_options():
    group = next(g for g in residual_space().groups if g.name == "stem")
    assert group.find("int8/per_tensor") == "int8/per_tensor"
    assert group.find("int8/per_group:32") == "int8/per_channel"
    assert group.find("int7/per_tensor") == "int8/per_tensor"
    assert group.find("float16") == FLOAT32


@pytest.mark.shared_models
def test_the_real_models_have_spaces(shared_models):
    for path in sorted(shared_models.glob("*/model.onnx")):
        model = load_model(path)
        for hw in (HW, "x86-avx2", "integer-only"):
            spec = load_spec(hw)
            space = SearchSpace.from_model(model, spec)
            main = space.groups[0].options[0]
            strategy = space.strategy(space.uniform(main, "percentile"))
            if hw != "integer-only":  # whose missing floats are an error of the strategy, told elsewhere
                strategy.check(model, spec)
            assert strategy.choices
            assert space.strategy(space.params(strategy)) == strategy
