"""What a search leaves is used again: by a fine-tuned model, at another batch, with open shapes, from its files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper, parser

import hago
from hago.calibrate import Calibration
from hago.cli import main
from hago.data.sample_shapes import sample_shapes
from hago.errors import DataError, HagoWarning, ModelError, StorageError, StrategyError
from hago.folder_lock import filled_folder
from hago.model import Model, load_model
from hago.qdq import observed_tensors
from hago.qdq.batch import free_batch
from hago.spec import load_spec, resolve_hw
from hago.strategy import Strategy, uniform

SPEC = load_spec("x86-avx2")
HOST = resolve_hw("auto")
needs_kernels = pytest.mark.skipif(not HOST.kernels_available, reason="there are no kernels for this machine")


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(proto.SerializeToString())


def fine_tuned(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with other weights."""
    other = copy_of(proto)
    for tensor in other.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.25) + np.float32(0.01), tensor.name))
    return other


# --- a strategy for other weights -----------------------------------------------------------------


def test_weights_are_no_part_of_the_structure() -> None:
    model, other = load_model(tiny.network()), load_model(fine_tuned(tiny.network()))
    assert model.hash != other.hash and model.structure == other.structure
    assert load_model(model, 4).structure == model.structure


def _renamed_tensors(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.input[:] = [f"{name}_" for name in node.input]
        node.output[:] = [f"{name}_" for name in node.output]
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        value.name += "_"


def _constants_elsewhere(proto: onnx.ModelProto) -> None:
    tensors = [proto.graph.initializer.pop() for _ in range(len(proto.graph.initializer))]
    proto.graph.initializer.extend(tensors)
    proto.graph.doc_string, proto.producer_name = "written again", "somebody"


@pytest.mark.parametrize("change", [_renamed_tensors, _constants_elsewhere])
def test_what_means_nothing_is_no_part_of_the_structure(change: object) -> None:
    proto = copy_of(tiny.network())
    change(proto)  # type: ignore[operator]
    assert load_model(proto).structure == load_model(tiny.network()).structure


def _other_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].op_type = "Sigmoid"


def _other_attribute(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].attribute.append(helper.make_attribute("strides", [2, 2]))


def _other_name(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].name = "stem"


def _other_width(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        if tensor.name in ("fc", "bias"):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([values, values[:1]]), tensor.name))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1


def _other_connection(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].input[0] = "c1"  # past the activation


@pytest.mark.parametrize("change", [_other_operator, _other_attribute, _other_name, _other_width, _other_connection])
def test_all_else_is(change: object) -> None:
    proto = copy_of(tiny.network())
    change(proto)  # type: ignore[operator]
    model, other = load_model(tiny.network()), load_model(proto)
    assert other.structure != model.structure
    with pytest.raises(StrategyError, match="operators, layer names or shapes differ"):
        uniform(model, SPEC).bound_to(other)


def test_the_numbers_of_shapes_are_part_of_the_structure() -> None:
    def reshaped(*sizes: int) -> Model:
        text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[1, 4, 4] x) => (float[a, b] y) {{
            shape = Constant <value = int64[2] {{{", ".join(map(str, sizes))}}}> ()
            y = Reshape (x, shape)
        }}"""
        return load_model(parser.parse_model(text))

    assert reshaped(2, 8).structure != reshaped(8, 2).structure


def test_a_strategy_says_what_it_was_made_for(tmp_path: Path) -> None:
    model, other = load_model(tiny.network()), load_model(fine_tuned(tiny.network()))
    uniform(model, SPEC).save(tmp_path / "strategy.yaml")
    strategy = Strategy.load(tmp_path / "strategy.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert strategy.bound_to(model) == strategy
    with pytest.warns(HagoWarning, match="for other weights of this network"):
        bound = strategy.bound_to(other)
    assert bound.choices == strategy.choices and bound.model_hash == other.hash
    old = Strategy(strategy.model_hash, strategy.hw, strategy.choices)  # of a file that has no structure
    with pytest.raises(StrategyError, match="has no structure"):
        old.bound_to(other)


@needs_kernels
def test_a_fine_tuned_model_is_quantized_with_ranges_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, _ = tiny.samples(60)
    np.savez(tmp_path / "samples.npz", x=x)
    onnx.save(tiny.network(), tmp_path / "old.onnx")
    onnx.save(fine_tuned(tiny.network()), tmp_path / "new.onnx")
    uniform(load_model(tiny.network()), HOST).save(tmp_path / "strategy.yaml")
    usual = ["--strategy", str(tmp_path / "strategy.yaml"), "--calibration", str(tmp_path / "samples.npz")]
    for name in ("old", "new"):
        out = str(tmp_path / f"{name}.qdq.onnx")
        assert main(["quantize", str(tmp_path / f"{name}.onnx"), *usual, "--out", out]) == 0
        said = capsys.readouterr()
        assert ("for other weights of this network" in said.err) == (name == "new")
    mine = hago.quantize(tmp_path / "new.onnx", uniform(load_model(tmp_path / "new.onnx"), HOST), x)
    assert mine == onnx.load(tmp_path / "new.qdq.onnx")


# --- calibration made before ----------------------------------------------------------------------


@needs_kernels
def test_the_calibration_of_a_search_serves_again(tmp_path: Path) -> None:
    from hago.data import make_samples
    from hago.tuning.calibrating import calibrate_model

    model = load_model(tiny.network())
    x, _ = tiny.samples(40)
    file = tmp_path / "calibration.npz"
    calibrate_model(model, make_samples(x, model.inputs), HOST, store=file)
    strategy = uniform(model, HOST)
    assert hago.quantize(model, strategy, file) == hago.quantize(model, strategy, x)
    onnx.save(tiny.network(), tmp_path / "model.onnx")
    strategy.save(tmp_path / "strategy.yaml")
    usual = [str(tmp_path / "model.onnx"), "--calibration", str(file), "--strategy", str(tmp_path / "strategy.yaml")]
    assert main(["compile", *usual, "--batch", "3", "--out", str(tmp_path / "model.so")]) == 0
    net = hago.load(tmp_path / "model.so")
    quantized = hago.compile(hago.quantize(model, strategy, x), batch=3)
    assert net.batch == 3
    np.testing.assert_array_equal(net(x[:3])[0], quantized(x[:3])[0])
    other = load_model(fine_tuned(tiny.network()))
    with pytest.raises(DataError, match="belong to other weights"):
        hago.quantize(other, uniform(other, HOST), file)


# --- a batch that stays free ----------------------------------------------------------------------

_BATCHES = {
    "flatten": "f = Flatten (x)",
    "reshape": "shape = Constant <value = int64[2] {-1, 192}> () f = Reshape (x, shape)",
    "shape of the input": """s = Shape <start = 0, end = 1> (x)
        rest = Constant <value = int64[1] {192}> ()
        target = Concat <axis = 0> (s, rest)
        f = Reshape (x, target)""",
    "the batch among others": """s = Shape <start = 0, end = 1> (x)
        eight = Constant <value = int64[1] {8}> ()
        many = Mul (s, eight)
        rest = Constant <value = int64[1] {24}> ()
        target = Concat <axis = 0> (many, rest)
        t = Transpose <perm = [0, 2, 1, 3]> (x)
        rows = Reshape (t, target)
        back = Constant <value = int64[2] {-1, 192}> ()
        f = Reshape (rows, back)""",
}


def _batched(case: str, batch: str = "n") -> onnx.ModelProto:
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[{batch}, 3, 8, 8] x) => (float[{batch}, 5] y) {{
        {_BATCHES[case]}
        y = MatMul (f, w)
    }}"""
    proto = parser.parse_model(text)
    weights = np.random.default_rng(0).standard_normal((192, 5)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return proto


def _qdq(model: Model) -> onnx.ModelProto:
    from hago.qdq import quantize_model

    return quantize_model(model, uniform(model, SPEC), Calibration.placeholder(observed_tensors(model)), SPEC)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("case", _BATCHES)
def test_a_free_batch_stays_free(case: str, batch: int) -> None:
    model = load_model(_batched(case), batch)
    free = free_batch(_qdq(model), model)
    onnx.checker.check_model(free, full_check=True)
    for value in (free.graph.input[0], free.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "n"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    whole = onnxruntime.InferenceSession(free.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fixed = onnxruntime.InferenceSession(_qdq(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).uniform(-1, 1, (4 * batch, 3, 8, 8)).astype(np.float32)
    parts = [fixed.run(None, {"x": x[i : i + batch]})[0] for i in range(0, len(x), batch)]
    np.testing.assert_allclose(whole.run(None, {"x": x})[0], np.concatenate(parts), rtol=1e-4, atol=1e-4)


def test_a_fixed_batch_stays_fixed() -> None:
    model = load_model(_batched("flatten", "2"))
    qdq = _qdq(model)
    assert free_batch(qdq, model) == qdq


def test_what_holds_a_row_per_sample_keeps_its_batch() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[n, 4] x) => (float[n, 4] y) {
        s = Shape (x)
        ones = ConstantOfShape <value = float[1] {1.0}> (s)
        sum = Add (x, ones)
        y = MatMul (sum, w)
    }"""
    proto = parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    model = load_model(proto, 3)
    qdq = _qdq(model)
    assert free_batch(qdq, model) == qdq


# --- shapes that the model leaves open ------------------------------------------------------------


def _open(name: str = "x") -> onnx.ModelProto:
    """Any height and width."""
    proto = copy_of(tiny.network())
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim, ("n", 2, "h", "w"), strict=True):
        dim.Clear()
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size
    proto.graph.input[0].name = name
    proto.graph.node[0].input[0] = name
    return proto


def test_shapes_come_from_the_samples(tmp_path: Path) -> None:
    x = np.zeros((5, 2, 10, 12), np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.zeros(5))
    np.savez_compressed(tmp_path / "named.npz", image=x)
    np.save(tmp_path / "x.npy", x)
    for data in (x, (x, np.zeros(5)), {"image": x}, tmp_path / "x.npz", tmp_path / "named.npz", tmp_path / "x.npy"):
        model = load_model(_open("image"), sample_shapes=lambda data=data: sample_shapes(data))  # type: ignore[misc]
        assert model.inputs[0].shape == (1, 2, 10, 12)
    given = {"image": (-1, 2, 6, 6)}
    model = load_model(_open("image"), 3, input_shapes=given, sample_shapes=lambda: sample_shapes(x))
    assert model.inputs[0].shape == (3, 2, 6, 6)
    with pytest.raises(ModelError, match="only the batch may be"):
        load_model(_open("image"), sample_shapes=lambda: sample_shapes(iter([])))
    with pytest.raises(ModelError, match="does not fit the declared"):
        load_model(_open("image"), sample_shapes=lambda: sample_shapes(x[:, :1]))


def test_shapes_of_several_inputs_come_from_the_samples() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[n, t, 4] a, float[n, u, 4] b) => (float[n, v, 4] y) {
        y = Concat <axis = 1> (a, b)
    }"""
    data = {"a": np.zeros((3, 5, 4)), "b": np.zeros((3, 2, 4))}
    model = load_model(parser.parse_model(text), 2, sample_shapes=lambda: sample_shapes(data))
    assert [info.shape for info in model.inputs] == [(2, 5, 4), (2, 2, 4)]
    assert model.outputs[0].shape == (2, 7, 4)


def test_shapes_of_images_come_from_the_first(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (20, 14)).save(tmp_path / "a.png")
    (tmp_path / "preprocess.yaml").write_text("center_crop: [8, 10]\n")
    assert sample_shapes(tmp_path) == {"x": (3, 8, 10)}


@needs_kernels
def test_every_command_takes_open_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = tiny.samples(60)
    np.savez(tmp_path / "samples.npz", x=x, y=y)
    onnx.save(_open(), tmp_path / "model.onnx")
    model, data = str(tmp_path / "model.onnx"), str(tmp_path / "samples.npz")
    shape = ["--input-shape", "x=-1,2,8,8"]
    assert main(["inspect", model]) == 2
    assert "--input-shape x=-1,2,SIZE,SIZE" in capsys.readouterr().err
    assert main(["inspect", model, *shape]) == 0
    assert main(["compile", model, *shape, "--out", str(tmp_path / "float.so")]) == 0
    assert main(["build", model, *shape, "--hw", HOST.name, "--out", str(tmp_path / "board")]) == 0
    assert main(["quantize", model, "--calibration", data, "--out", str(tmp_path / "q.onnx")]) == 0
    q = onnx.load(tmp_path / "q.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in q] == ["n", 2, 8, 8]
    assert main(["compare", model, "--data", data, "--rounds", "2"]) == 0
    assert "failed" not in capsys.readouterr().out
    assert main(["tune", model, "--data", data, "--trials", "1", "--out", str(tmp_path / "out"), "--threads", "1",
                 "--max-drop", "0.5", "--progress", "silent"]) == 0  # fmt: skip
    assert hago.load(tmp_path / "out" / "model.so").input_info[0].shape == (1, 2, 8, 8)
    value = onnx.load(tmp_path / "out" / "model.qdq.onnx").graph.input[0]
    assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert value.type.tensor_type.shape.dim[0].dim_param == "n"


# --- another bound --------------------------------------------------------------------------------


def _searched(folder: Path, *, metric: str = "top1") -> Path:
    """A folder as a search leaves it: four trials, the faster the worse; the second was tested."""
    from hago.data import make_samples
    from hago.record import Record
    from hago.record_file import write_records
    from hago.tuning.calibrating import calibrate_model
    from hago.tuning.job import Job

    onnx.save(tiny.network(), folder / "model.onnx")
    out = folder / "out"
    out.mkdir()
    model = load_model(folder / "model.onnx")
    calibrate_model(model, make_samples(tiny.samples(40)[0], model.inputs), HOST, store=out / "calibration.npz")
    whole = uniform(model, HOST)
    layers = list(whole.choices)
    floats = Record(-1, "float32", metric=metric, accuracy=0.9, accuracy_change=0.0, latency_ratio=1.0, latency_s=1e-4,
                    size_bytes=1000)  # fmt: skip
    trials = [
        Record(
            index, f"trial of {index}", Strategy(model.hash, HOST.name, {n: whole.choices[n] for n in layers[index:]}),
            metric=metric, accuracy=0.9 - drop, accuracy_change=-drop, latency_ratio=ratio,
            latency_ratio_interval=(ratio - 0.01, ratio + 0.01), latency_s=ratio * 1e-4, size_bytes=size,
        )
        for index, (ratio, drop, size) in enumerate(
            ((0.4, 0.05, 300), (0.5, 0.02, 500), (0.7, 0.004, 200), (0.3, 0.3, 100))
        )
    ]  # fmt: skip
    tested = Record(1, "chosen", trials[1].strategy, metric=metric, accuracy=0.88, accuracy_change=-0.015, part="test",
                    latency_ratio=0.51)  # fmt: skip
    write_records(out / "records.jsonl", [floats, *trials, tested])
    Job(str(folder / "model.onnx"), model.hash, HOST.name, 1, 1, metric, True).save(out)
    return out


@needs_kernels
@pytest.mark.parametrize(("bound", "trial"), [(0.01, 2), (0.02, 1), (0.06, 0), (0.3, 3), (0.001, None)])
def test_a_finished_search_answers_every_bound(bound: float, trial: int | None, tmp_path: Path) -> None:
    out = _searched(tmp_path)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    found = hago.answer(out, max_drop=bound)
    model = load_model(tmp_path / "model.onnx")
    strategy = Strategy.load(found.folder / "strategy.yaml")
    x, _ = tiny.samples(4)
    net = hago.load(found.folder / "model.so")
    if trial is None:
        assert found.result.outcome == "not met" or not strategy.choices
    else:
        assert found.best.id == trial and strategy == found.best.strategy
        qdq = hago.quantize(model, strategy, out / "calibration.npz")
        assert onnx.load(found.folder / "model.qdq.onnx") == qdq
        np.testing.assert_array_equal(net(x[:1])[0], hago.compile(qdq, threads=1)(x[:1])[0])
        assert ("test samples its top-1 is 88.0 %" in found.summary()) == (trial == 1)
        assert ("may look better than it is" in found.summary()) == (trial != 1)
    assert found.folder == out / f"max-drop-{bound:g}"
    assert (found.folder / "answer.md").read_text() == found.summary() + "\n"
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


@needs_kernels
def test_a_search_that_goes_on_is_answered_from_and_one_folder_is_filled_by_one_answer(tmp_path: Path) -> None:
    out = _searched(tmp_path)
    with filled_folder(out):  # as `hago tune` holds it
        assert hago.answer(out, max_drop=0.02).best.id == 1
        with (out / "records.jsonl").open("a") as file:
            file.write('{"id": 4, "label": "half a li')  # and is just writing
        assert hago.answer(out, max_drop=0.06).best.id == 0
    target = tmp_path / "there"
    with filled_folder(target), pytest.raises(StorageError, match=r"another run of hago .* is filling this folder"):
        hago.answer(out, max_drop=0.02, out=target)
    assert not target.exists()


@needs_kernels
@pytest.mark.parametrize(
    ("asked", "trial", "folder"),
    [
        ({"max_latency": "60us"}, 1, "max-latency-60us"),
        ({"max_latency": 45e-6, "max_drop": 0.06}, 0, "max-drop-0.06-max-latency-45us"),
        ({"max_size": "250B"}, 2, "max-drop-0.01-max-size-250B"),
        ({"objectives": "size,accuracy", "max_drop": 0.06}, 2, "smallest-max-drop-0.06"),
        ({"objectives": "accuracy", "max_size": 450}, 2, "max-size-450B"),
        ({"max_latency": "1ms"}, None, "max-latency-1ms"),
    ],
)
def test_a_finished_search_answers_other_goals(
    asked: dict[str, Any], trial: int | None, folder: str, tmp_path: Path
) -> None:
    out = _searched(tmp_path)
    found = hago.answer(out, **asked)
    assert found.folder == out / folder
    if trial is None:
        assert found.best is found.result.float  # which keeps the bound
    else:
        assert found.best.id == trial and found.result.met


def _trial(out: Path, number: int) -> str:
    """The key of the strategy of a trial."""
    from hago.record_file import read_records

    strategy = next(r.strategy for r in read_records(out / "records.jsonl") if r.id == number and r.part == "search")
    assert strategy is not None
    return strategy.key()


@needs_kernels
def test_the_command_answers_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _searched(tmp_path)
    assert main(["answer", str(out)]) == 0
    listed = capsys.readouterr().out
    for part in ("trial 4", "0.3", "3.33", "trial 3: trial of 2", "0.004", "1.43", "float32"):
        assert part in listed
    assert main(["answer", str(out), "--max-drop", "0.02", "--out", str(tmp_path / "there")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2.00 times faster than float32 within a drop of at most 0.02.")
    assert "It is trial 2 of the search" in said and str(tmp_path / "there") in said
    assert main(["answer", str(out), "--min", "0.89"]) == 0
    assert "at least 0.89" in capsys.readouterr().out
    assert main(["answer", str(out), "--max-drop", "0.0001"]) == 1, "the closest, as `hago tune` ends"
    assert "No strategy keeps a drop" in capsys.readouterr().out
    assert Strategy.load(out / "min-0.89" / "strategy.yaml").key() == _trial(out, 2)
    assert {path.name for path in (tmp_path / "there").iterdir()} == {
        "answer.md", "model.qdq.onnx", "model.so", "strategy.yaml",
    }  # fmt: skip


@needs_kernels
def test_what_cannot_be_answered_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _searched(tmp_path)
    onnx.save(fine_tuned(tiny.network()), tmp_path / "new.onnx")

    def refused(*words: str) -> str:
        assert main(["answer", *words]) == 2
        return capsys.readouterr().err

    assert "there is no search here" in refused(str(tmp_path), "--max-drop", "0.1")
    assert "max_drop must be" in refused(str(out), "--max-drop", "-1")
    assert "not the model that was searched" in refused(
        str(out), "--max-drop", "0.1", "--model", str(tmp_path / "new.onnx")
    )
    (tmp_path / "model.onnx").rename(tmp_path / "moved.onnx")
    assert "no such file" in refused(str(out), "--max-drop", "0.1")
    assert main(["answer", str(out), "--max-drop", "0.1", "--model", str(tmp_path / "moved.onnx")]) == 0
    (out / "calibration.npz").write_bytes(b"")
    assert "calibration.npz" in refused(str(out), "--max-drop", "0.1", "--model", str(tmp_path / "moved.onnx"))
    for content in ("{}", '{"hago_search": 1, "model": 3}', "[", ""):
        (out / "search.json").write_text(content)
        assert "search.json" in refused(str(out), "--max-drop", "0.1")
    (out / "records.jsonl").write_text("")
    assert "no trial has finished there" in refused(str(out), "--max-drop", "0.1")
