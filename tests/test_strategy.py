"""Strategies as values and as files."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, dataclass, field

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hago.errors import SpecError, StrategyError
from hago.knobs import KNOBS
from hago.methods import CORRECTION, RANGES, ROUNDING
from hago.scheme import PER_CHANNEL, PER_TENSOR, Granularity, IntegerType
from hago.strategy import Choice, Strategy, granularities, uniform

GROUP8 = Granularity("per_group", 8)
UINT8 = IntegerType(8, signed=False, symmetric=False)
INT8 = IntegerType(8, signed=True, symmetric=True)


@dataclass(frozen=True)
class Way:
    precision: str
    activation: IntegerType | None = None
    weight: IntegerType | None = None
    granularities: tuple[Granularity, ...] = ()


FLOAT = Way("float32")
INTEGER = Way("int8", UINT8, INT8, (PER_TENSOR, PER_CHANNEL, GROUP8))


@dataclass(frozen=True)
class Spec:
    """Offers what the tests need of a HardwareSpec."""

    name: str = "toy"
    kernels: str | None = "toy"
    ops: dict = field(
        default_factory=lambda: {
            "conv": (INTEGER, Way("bfloat16"), FLOAT),
            "depthwise_conv": (Way("int8", UINT8, INT8, (PER_CHANNEL,)), FLOAT),
            "add": (Way("int8", UINT8), FLOAT),
            "fully_connected": (Way("int8", UINT8, INT8, (PER_TENSOR,)), FLOAT),
        }
    )

    def choices(self, kind):
        if kind == "float":
            raise SpecError("'float' is not a kind of operation")
        return self.ops.get(kind, ())

    def find(self, kind, precision):
        for way in self.choices(kind):
            if way.precision == precision:
                return way
        raise SpecError("not offered")


@dataclass(frozen=True)
class ToyLayer:
    name: str
    kind: str
    op_type: str = "Conv"
    weight_shape: tuple[int, ...] | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()
    quantizable: bool = True
    reason: str | None = None


@dataclass(frozen=True)
class ToyModel:
    hash: str = "ab" * 32
    structure: str = "cd" * 32
    source: str = "toy.onnx"
    layers: tuple[ToyLayer, ...] = (
        ToyLayer("/stem/Conv", "conv", weight_shape=(16, 3, 3, 3)),
        ToyLayer("/body/Conv", "conv", weight_shape=(16, 16, 3, 3)),
        ToyLayer("/dw/Conv", "depthwise_conv", weight_shape=(16, 1, 3, 3)),
        ToyLayer("/Add", "add", "Add"),
        ToyLayer("/fc/Gemm", "fully_connected", "Gemm", (10, 16), ((1, 16),)),
        ToyLayer("/Softmax", "float", "Softmax", quantizable=False, reason="Softmax stays in float"),
    )


MODEL, SPEC = ToyModel(), Spec()


def strategy(**choices: Choice) -> Strategy:
    return Strategy(MODEL.hash, "toy", choices)


choices_of = st.builds(
    Choice,
    precision=st.sampled_from(["float32", "bfloat16", "int8", "int7"]),
    granularity=st.sampled_from([PER_TENSOR, PER_CHANNEL, GROUP8]),
    calibrator=st.sampled_from(tuple(RANGES)),
    methods=st.tuples(
        st.tuples(st.just("rounding"), st.sampled_from(tuple(ROUNDING))),
        st.tuples(st.just("correction"), st.sampled_from(tuple(CORRECTION))),
    ),
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "y",
        "null",
        "1",
        "1e3",
        "/conv1/Conv",
        "a: b",
        "- x",
        "{",
        "&anchor",
        "*alias",
        "=",
        "<<",
        "!tag",
        "0o7",
    ]
)
strategies = st.builds(Strategy, st.just("ab" * 32), names, st.dictionaries(names, choices_of, max_size=6))


@given(strategies, st.sampled_from(["s.yaml", "s.yml", "s.json"]))
@settings(max_examples=120)
def test_a_saved_strategy_is_read_back_equal(tmp_path_factory, value, name):
    path = tmp_path_factory.mktemp("strategy") / name
    value.save(path)
    again = Strategy.load(path)
    assert again == value and again.key() == value.key() and hash(again) == hash(value)


def test_the_file_has_one_line_per_layer(tmp_path):
    strategy(conv1=Choice("int8", GROUP8, "entropy")).save(tmp_path / "s.yaml")
    text = (tmp_path / "s.yaml").read_text()
    assert "  conv1: {precision: int8, granularity: 'per_group:8', calibrator: entropy}\n" in text
    assert json.loads(json.dumps(yaml.safe_load(text)))["hago_strategy"] == 1


def test_what_is_at_its_default_is_not_written():
    plain, methods = Choice("int8"), Choice("int8", methods=(("rounding", "mse"), ("correction", "none")))
    assert plain.to_dict() == {"precision": "int8", "granularity": "per_channel", "calibrator": "minmax"}
    assert methods.to_dict() == {**plain.to_dict(), "rounding": "mse"} and methods.methods == (("rounding", "mse"),)
    assert Choice("int8", methods=(("rounding", "nearest"), ("correction", "none"))) == plain
    assert Choice.from_dict({"precision": "int8", "correction": "bias"}).to_dict()["correction"] == "bias"


def test_every_knob_is_read_and_changed_by_name():
    choice = Choice("int8", GROUP8, "mse").with_(correction="bias", granularity="per_tensor")
    assert choice == Choice("int8", PER_TENSOR, "mse", (("correction", "bias"),))
    values = ("int8", "per_tensor", "mse", "nearest", "bias")
    assert tuple(choice.value(knob.name) for knob in KNOBS) == values
    assert choice.with_(correction="none").methods == ()
    with pytest.raises(StrategyError, match="no knob 'corection'\n  hint: did you mean 'correction'"):
        choice.with_(corection="bias")
    with pytest.raises(StrategyError, match="unknown correction 'bais'"):
        Choice(methods=(("correction", "bais"),))


def test_used_tells_what_quantized_layers_have():
    corrected, ranged = Choice("int8", methods=(("correction", "bias"),)), Choice("int8", calibrator="mse")
    used = strategy(a=corrected, b=ranged, c=Choice(calibrator="entropy")).used
    assert used["calibrator"] == ("minmax", "mse") and used["correction"] == ("bias", "none")
    assert used["rounding"] == ("nearest",) and used["precision"] == ("int8",)


def test_a_strategy_is_a_value():
    a = strategy(x=Choice("int8"), b=Choice())
    assert a == Strategy(MODEL.hash, "toy", {"b": Choice(), "x": Choice("int8")})
    assert a.with_("b", Choice("int8")) != a and a.choice("b") == Choice() == a.choice("unnamed")
    with pytest.raises(FrozenInstanceError):
        a.hw = "other"
    with pytest.raises(TypeError):
        a.choices["x"] = Choice()
    assert copy.deepcopy(a) == a == pickle.loads(pickle.dumps(a))
    assert sorted([Choice("int8"), Choice("bfloat16"), Choice("int8", PER_TENSOR, "mse")])[0].precision == "bfloat16"


def test_the_key_is_stable_and_tells_meanings_apart():
    base = strategy(a=Choice("int8"))
    assert (
        base.key() == "85ffdcb0acf6f676eab445ef7f0b6fada0e1ce85499f489c5d05e14953d57882"
    )  # saved in records: must not change
    assert strategy(a=Choice("int8"), b=Choice()).key() == base.key()
    others = [
        strategy(),
        strategy(a=Choice("int8", PER_TENSOR)),
        strategy(a=Choice("int8", calibrator="mse")),
        strategy(b=Choice("int8")),
        Strategy("00", "toy", base.choices),
        Strategy(MODEL.hash, "other", base.choices),
    ]
    assert len({s.key() for s in [base, *others]}) == 7


HEAD = "hago_strategy: 1\nmodel: abc\nhw: toy\n"
BAD_FILES = {
    "": "must be a mapping of keys to values",
    "- 1": "must be a mapping of keys to values",
    "hago_strategy: 1\nmodel: abc\n": "hw must be a string, found None",
    "model: abc\nhw: toy\n": "hago_strategy must be 1, found None",
    "hago_strategy: 2\nmodel: abc\nhw: toy\n": "hago_strategy must be 1, found 2",
    HEAD + "layer: {}": "unknown key 'layer'\n  hint: did you mean 'layers'?",
    HEAD + "layers: [a]": "layers: must be a mapping, found list",
    HEAD + "layers: {a: int8}": "layers: a: must be a mapping, found str",
    HEAD + "layers: {1: {precision: int8}}": "a key must be text",
    HEAD + "layers: {a: {precison: int8}}": "unknown key 'precison'\n  hint: did you mean 'precision'?",
    HEAD + "layers: {a: {precision: 8}}": "layers: a: precision must be a string, not 8",
    HEAD + "layers: {a: {calibrator: entropi}}": "layers: a: unknown calibrator 'entropi'\n  hint: did you mean",
    HEAD + "layers: {a: {rounding: nearst}}": "layers: a: unknown rounding 'nearst'\n  hint: did you mean 'nearest'?",
    HEAD + "layers: {a: {correction: [bias]}}": "layers: a: correction must be a string, not ['bias']",
    HEAD + "layers: {a: {corection: bias}}": "unknown key 'corection'\n  hint: did you mean 'correction'?",
    HEAD + "layers: {a: {granularity: per_row}}": "granularity must be per_tensor, per_channel or per_group:SIZE",
    HEAD + "layers: {a: {granularity: 'per_group:0'}}": "group size 0 does not fit",
    HEAD + "layers: {a: {granularity: 'per_group:" + "9" * 5000 + "'}}": "granularity is not valid",
    HEAD + "layers: {a: {}, a: {}}": "layers.a: duplicate key, first in line 4",
    HEAD + "layers: {a: &x {}, b: *x}": "aliases are not allowed",
    HEAD + "layers: !!python/object/apply:os.system [echo]": "python/object/apply:os.system' is not allowed",
    HEAD + "layers: {a: {precision: int8": "broken YAML: ",
    HEAD + "layers: " + "[" * 5000: "broken YAML: ",
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.items(), ids=range(len(BAD_FILES)))
def test_a_bad_file_is_refused_by_name_and_key(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(StrategyError) as caught:
        Strategy.load(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_bad_json_and_absent_files_are_refused(tmp_path):
    path = tmp_path / "bad.json"
    for text, message in [
        ("{", "broken JSON: "),
        ('{"hw": "a", "hw": "b"}', "duplicate key 'hw'"),
    ]:
        path.write_text(text)
        with pytest.raises(StrategyError, match=message):
            Strategy.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StrategyError, match="is not UTF-8 text"):
        Strategy.load(path)
    with pytest.raises(StrategyError, match="cannot be read: No such file"):
        Strategy.load(tmp_path / "absent.yaml")


CHECKS = {
    "no layer '/stem/Conf'\n  hint: did you mean '/stem/Conv'": {"/stem/Conf": Choice("int8")},
    "layer /stem/Conv: toy offers no int7 for conv\n  hint: precisions offered: int8, bfloat16, float32": {
        "/stem/Conv": Choice("int7")
    },
    "layer /dw/Conv: toy offers no per_tensor weights for int8 depthwise_conv": {
        "/dw/Conv": Choice("int8", PER_TENSOR)
    },
    "layer /stem/Conv: groups of 8 do not divide the 3 input channels": {"/stem/Conv": Choice("int8", GROUP8)},
    "layer /Softmax: cannot run in int8: Softmax stays in float": {"/Softmax": Choice("int8")},
}


@pytest.mark.parametrize(("message", "named"), CHECKS.items(), ids=range(len(CHECKS)))
def test_a_choice_that_cannot_be_carried_out_is_refused(message, named):
    with pytest.raises(StrategyError) as caught:
        strategy(**named).check(MODEL, SPEC)
    assert message in str(caught.value)


def test_a_strategy_of_another_model_is_refused():
    with pytest.raises(StrategyError, match=r"toy.onnx: this strategy is for the model 0000, not for abab"):
        Strategy("0000", "toy").check(MODEL, SPEC)


def test_fitting_strategies_pass():
    strategy().check(MODEL, SPEC)
    strategy(
        **{
            "/stem/Conv": Choice("bfloat16"),
            "/body/Conv": Choice("int8", GROUP8),
            "/Softmax": Choice(),
            "/Add": Choice("int8", GROUP8),
        }
    ).check(MODEL, SPEC)


def test_float32_is_refused_where_the_hardware_has_none():
    bare = Spec(ops={"conv": (INTEGER,)})
    with pytest.raises(StrategyError, match=r"layer /body/Conv: is not named, so it would run in float32"):
        strategy(**{"/stem/Conv": Choice("int8")}).check(MODEL, bare)
    with pytest.raises(StrategyError, match="layer /stem/Conv: cannot run in float32"):
        strategy(**{"/stem/Conv": Choice()}).check(MODEL, bare)


def test_uniform_takes_what_fits_each_layer():
    everywhere = uniform(MODEL, SPEC, granularity=GROUP8, calibrator="mse")
    everywhere.check(MODEL, SPEC)
    found = {name: (c.precision, c.granularity) for name, c in everywhere.choices.items()}
    assert found == {
        "/stem/Conv": ("int8", PER_CHANNEL),
        "/body/Conv": ("int8", GROUP8),
        "/dw/Conv": ("int8", PER_CHANNEL),
        "/Add": ("int8", GROUP8),
        "/fc/Gemm": ("int8", PER_TENSOR),
    }
    clipped = uniform(MODEL, SPEC, rounding="mse").choices
    assert {name for name, choice in clipped.items() if choice.methods} == {
        "/stem/Conv", "/body/Conv", "/dw/Conv", "/fc/Gemm",
    }  # fmt: skip
    assert set(uniform(MODEL, SPEC, "bfloat16").choices) == {"/stem/Conv", "/body/Conv"}


def test_granularities_leave_out_what_is_pointless():
    stem, body, _, add, *_ = MODEL.layers
    assert granularities(stem, INTEGER) == (PER_TENSOR, PER_CHANNEL)
    assert granularities(body, INTEGER) == (PER_TENSOR, PER_CHANNEL, GROUP8)
    assert granularities(add, INTEGER) == ()
