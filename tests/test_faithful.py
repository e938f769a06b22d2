"""Engines that do not compute what their file says are told from those that only round otherwise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from measure_fakes import FakeClock, FakeRunner, FakeSamples, Top1
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import run_onnx

import hago
from hago.compare import Engine, TurnPlan, compare
from hago.compare.engines import usual_engines
from hago.compare.faithful import unfaithful, warning
from hago.data import make_samples
from hago.measure.environment import read_environment
from hago.measure.metrics import get_metric
from hago.measure.running import collect_outputs
from hago.model import load_model

CLOCK = FakeClock()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3)).astype(np.float32)
SAMPLES = FakeSamples(X, X.argmax(1))


def rounded(x, seed, size=0.1):
    """Different for each sample and the same each time, as rounding is."""
    noise = np.random.default_rng([seed, *x.view(np.uint32).ravel()]).normal(size=x.shape)
    return (x + size * noise).astype(np.float32)


ENGINES = {
    ("float32", "float"): lambda x: x,
    ("float32 elsewhere", "float"): lambda x: x * np.float32(1 + 1e-6),
    ("bfloat16 without a word", "float"): lambda x: x * np.float32(1.004),
    ("quantized", "qdq"): lambda x: rounded(x, 1),
    ("rounds otherwise", "qdq"): lambda x: rounded(x, 2),
    ("rounds hardly at all", "qdq"): lambda x: rounded(x, 3, 0.01),
    ("saturates", "qdq"): lambda x: np.minimum(rounded(x, 1), 0.2),
    ("infinite", "qdq"): lambda x: np.where(x > 0, np.inf, x),
    ("other file", None): lambda x: -x,
}


def engines(*without: str) -> tuple[list[Engine], dict[str, FakeRunner]]:
    """All of them, and their runners by label but for those that could not be opened."""
    runners = {
        label: FakeRunner(label, function=function, clock=CLOCK, ns=lambda call: 1_000_000)
        for (label, _), function in ENGINES.items()
    }
    made = [Engine(label, lambda r=runners[label]: r, 1, file) for label, file in ENGINES]
    return made, {label: runner for label, runner in runners.items() if label not in without}


def test_who_rounds_otherwise_is_not_blamed() -> None:
    made, runners = engines()
    found = unfaithful(made, runners, SAMPLES)
    assert set(found) == {"bfloat16 without a word", "saturates", "infinite"}
    assert found["bfloat16 without a word"] == "differs from the file: by 0.4 % of the outputs' magnitude"
    assert found["infinite"] == "differs from the file: by inf % of the outputs' magnitude"
    said, theirs = (np.stack([runners[label].run({"x": x[None]})[0][0] for x in X[:200]]).argmax(1)
                    for label in ("quantized", "saturates"))  # fmt: skip
    agreement = round(100 * (said == theirs).mean())
    assert agreement < 95
    text = unfaithful(made, runners, SAMPLES, classes=True)["saturates"]
    assert text == f"differs from the file: classes agree on {agreement} % of samples"


def test_without_one_that_is_exact_nothing_is_reported() -> None:
    made, runners = engines("quantized")
    assert set(unfaithful(made, runners, SAMPLES)) == {"bfloat16 without a word"}
    made, runners = engines("float32")
    assert unfaithful(made, runners, SAMPLES) == {}


def test_the_table_and_the_json_tell_it() -> None:
    made, _ = engines()
    made = [engine for engine in made if engine.label != "infinite"]
    found = compare(made, SAMPLES, Top1(), plan=TurnPlan(3, clocks=CLOCK))
    assert found.row("saturates").note is None and found.row("quantized").unfaithful is None
    text = found.to_markdown()
    line = next(line for line in text.splitlines() if line.startswith("| saturates"))
    assert "differs from the file: classes agree on" in line
    assert "bfloat16 without a word and saturates do not compute what the file defines" in text
    rows = {row["label"]: row for row in json.loads(found.to_json())["rows"]}
    assert (
        rows["saturates"]["unfaithful"].startswith("differs from the file") and rows["quantized"]["unfaithful"] is None
    )
    faithful = compare(made[:2], SAMPLES, Top1(), plan=TurnPlan(3, clocks=CLOCK))
    assert faithful.warning() == "" and "what the file defines" not in faithful.to_markdown()


@pytest.mark.parametrize(
    ("architecture", "features", "saturates"),
    [
        ("x86_64", ("avx2",), True),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("x86_64", ("avx2", "avx512_vnni"), False),
        ("aarch64", ("asimd",), False),
    ],
)
def test_saturation_is_named_where_it_is_likely(architecture, features, saturates) -> None:
    environment = replace(read_environment(), architecture=architecture, features=features)
    text = warning(["A"], environment)
    assert text.startswith(
        "A does not compute what the file defines: latency and accuracy are those of a different network."
    )
    assert ("products of 8-bit weights saturate" in text) == saturates


def wide() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """One layer as a float and as a QDQ model, of weights whose products leave 16 bits in pairs."""
    weights = np.where(RNG.random((64, 10)) < 0.7, 127, -127).astype(np.int8)
    arrays = {"s": np.float32(1 / 255), "z": np.uint8(0), "w8": weights, "ws": np.float32(0.01), "wz": np.int8(0)}
    node = helper.make_node
    pairs = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["w8", "ws", "wz"], ["w"]),
        node("MatMul", ["xd", "w"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c]) for n, c in (("x", 64), ("y", 10))]
    made = []
    for nodes, constants in (
        ([node("MatMul", ["x", "w"], ["y"])], {"w": weights * np.float32(0.01)}),
        (pairs, arrays),
    ):
        initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
        graph = helper.make_graph(nodes, "wide", info[:1], info[1:], initializers)
        made.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    return made[0], made[1]


def test_onnx_runtime_is_named_if_and_only_if_it_saturates_here() -> None:
    floats, qdq = wide()
    x = RNG.uniform(0.8, 1, (60, 64)).astype(np.float32)
    said, theirs = (
        np.concatenate([run_onnx(qdq, {"x": row[None]}, optimized=optimized)[0] for row in x])
        for optimized in (False, True)
    )
    saturates = bool(np.abs(said - theirs).max() > 0.05 * np.abs(said).max())
    model = load_model(floats)
    samples = make_samples({"x": x}, model.inputs)
    found = compare(
        usual_engines(floats, qdq, compile=hago.compile)[:4], samples, get_metric("cosine"), plan=TurnPlan(2)
    )
    assert [row.note for row in found.rows] == [None] * 4
    assert [row.label for row in found.rows if row.unfaithful] == (["ONNX Runtime int8"] if saturates else [])
    net = usual_engines(floats, qdq, compile=hago.compile)[1].open()
    np.testing.assert_allclose(collect_outputs(net, samples)[0], said, rtol=1e-5)
    net.close()
