"""What every runner computes, then what is each one's own; the conformance suite is in test_conformance.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from measure_fakes import BATCH, WEIGHT, FakeArtifact, Top1, TwoInputSamples, expected, tiny_model
from onnx import TensorProto, helper

from hago.errors import MeasureError, MissingExtraError, ModelError
from hago.measure.accuracy import measure_accuracy
from hago.measure.latency import Pace, measure_latency
from hago.measure.running import collect_outputs
from hago.runners import OnnxRuntimeRunner, OpenVinoRunner, TvmRunner
from hago.runners.onnx_io import input_infos, static_model, weight_bytes
from hago.tensor import TensorInfo


class NumpyRunner:
    """The protocol satisfied by hand, as a user would."""

    name, threads = "numpy", 1
    inputs = FakeArtifact.input_info

    def run(self, feeds):
        return expected({name: feeds[name] for name in "ab"})

    def close(self):
        pass


def open_onnxruntime():
    pytest.importorskip("onnxruntime")
    return OnnxRuntimeRunner(tiny_model(), 1, batch=BATCH)


def open_openvino():
    pytest.importorskip("openvino")
    return OpenVinoRunner(tiny_model(), 1, batch=BATCH)


OPENERS = {
    "numpy": NumpyRunner,
    "tvm": lambda: TvmRunner(FakeArtifact()),
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}


@pytest.fixture(params=OPENERS)
def runner(request):
    opened = OPENERS[request.param]()
    yield opened
    opened.close()


def random_feeds(seed=1):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(BATCH, 4)).astype(np.float32) for name in "ab"}


# -- outputs and scores; what holds for every runner besides is in hago.testing


def test_inputs_are_those_of_the_model(runner):
    assert runner.threads == 1
    assert runner.inputs == tuple(TensorInfo(name, "float32", (BATCH, 4)) for name in "ab")


def test_outputs_are_numpy_in_the_order_of_the_model(runner):
    feeds = random_feeds()
    outputs = runner.run(feeds)
    assert isinstance(outputs, list) and all(type(output) is np.ndarray for output in outputs)
    for output, wanted in zip(outputs, expected(feeds), strict=True):
        np.testing.assert_allclose(output, wanted, rtol=1e-5, atol=1e-5)
        assert output.dtype == np.float32 and output.flags.c_contiguous


def test_inputs_need_not_be_contiguous(runner):
    feeds = random_feeds()
    strided = {name: np.repeat(x, 2, axis=1)[:, ::2] for name, x in feeds.items()}
    np.testing.assert_allclose(runner.run(strided)[1], expected(feeds)[1], rtol=1e-6)


def test_it_can_be_timed_and_scored(runner):
    found = measure_latency([runner], random_feeds(), rounds=3, pace=Pace(0.01, 1e-4))
    assert found[runner.name].median_s > 0
    samples = TwoInputSamples(7)
    assert measure_accuracy(runner, samples, Top1()).value == 1.0
    logits, total = collect_outputs(runner, samples)
    assert logits.shape == (7, 3)
    np.testing.assert_allclose(total, samples.x["a"] + samples.x["b"], rtol=1e-6)


# -- what is each one's own


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_opening_an_artifact_leaves_the_caller_on_its_cpus():
    before = os.sched_getaffinity(0)
    one = {min(before)}

    class Binding(FakeArtifact):
        def run(self, feeds):
            os.sched_setaffinity(0, one)  # as TVM does, once, for several threads
            return expected(feeds)

    TvmRunner(Binding())
    assert os.sched_getaffinity(0) == before


def test_an_artifact_that_cannot_run_is_said_when_it_is_opened():
    class Broken(FakeArtifact):
        def run(self, feeds):
            raise RuntimeError("illegal instruction")

    with pytest.raises(MeasureError, match="TVM: the run failed: RuntimeError: illegal instruction"):
        TvmRunner(Broken())


PEERS = {"onnxruntime": OnnxRuntimeRunner, "openvino": OpenVinoRunner}


@pytest.fixture(params=PEERS)
def peer(request):
    pytest.importorskip(request.param)
    return PEERS[request.param]


def test_peers_run_a_qdq_model_to_the_same_classes(peer):
    feeds = random_feeds()
    runner = peer(tiny_model(quantized=True), batch=BATCH)
    np.testing.assert_allclose(runner.run(feeds)[0], expected(feeds)[0], atol=0.1)
    runner.close()


def test_peers_take_paths_and_bytes_and_fix_the_batch(peer, tmp_path):
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_model(), path)
    for model, batch, size in (
        (path, None, 1),
        (str(path), 5, 5),
        (path.read_bytes(), 3, 3),
        (tiny_model(batch=4), None, 4),
        (tiny_model(batch=None), 2, 2),
    ):
        runner = peer(model, batch=batch)
        assert runner.inputs[0].shape == (size, 4)
        x = np.ones((size, 4), np.float32)
        assert runner.run({"a": x, "b": x})[0].shape == (size, 3)
        runner.close()


def test_peers_read_external_data(peer, tmp_path):
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_model(), path, save_as_external_data=True, size_threshold=0)
    runner = peer(path, batch=BATCH)
    feeds = random_feeds()
    np.testing.assert_allclose(runner.run(feeds)[0], expected(feeds)[0], rtol=1e-5, atol=1e-5)


def test_the_model_given_is_not_changed(peer):
    model = tiny_model()
    before = model.SerializeToString()
    peer(model, batch=3).close()
    assert model.SerializeToString() == before


@pytest.mark.parametrize("package", PEERS)
def test_without_the_package_the_extra_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hago\[peers\]'"):
        PEERS[package](tiny_model())


def test_a_model_an_engine_refuses_is_a_measure_error_with_its_reason(peer):
    model = tiny_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(MeasureError, match=r"(?s)refuses the model: .*NoSuchOperator"):
        peer(model)


def test_files_that_are_no_models_are_model_errors(peer, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x00not a model")
    with pytest.raises(ModelError, match=r"bad\.onnx: is not an ONNX model"):
        peer(tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match=r"absent\.onnx: no such file"):
        peer(tmp_path / "absent.onnx")


def test_float_layers_of_openvino_are_float32_even_where_the_cpu_has_bfloat16():
    pytest.importorskip("openvino")
    x = np.random.default_rng(3).normal(size=(1, 4)).astype(np.float32)
    exact = x.astype(np.float64).clip(0) @ WEIGHT.astype(np.float64)
    runner = OpenVinoRunner(tiny_model(), batch=1)
    np.testing.assert_allclose(runner.run({"a": x, "b": x})[0], exact, rtol=1e-5, atol=1e-6)


_INTERRUPTED = """
import gc, signal, sys
sys.path.insert(0, sys.argv[1])
from measure_fakes import tiny_model
from hago.runners import OnnxRuntimeRunner, OpenVinoRunner
runners = [globals()[name](tiny_model(quantized=i % 2 > 0), batch=1) for i, name in enumerate(sys.argv[2:])]
for runner in runners:
    runner.close()
del runner, runners
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("package", PEERS)
def test_ctrl_c_still_comes_after_runners_were_closed_in_the_order_they_were_opened(package):
    pytest.importorskip(package)
    names = [PEERS[package].__name__] * 3
    command = [sys.executable, "-c", _INTERRUPTED, str(Path(__file__).parent), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_fixing_the_batch_also_fixes_the_symbol_elsewhere():
    proto = static_model(tiny_model(batch="N"), 7)
    dims = [value.type.tensor_type.shape.dim[0].dim_value for value in proto.graph.output]
    assert dims == [7, 7]
    assert [info.shape for info in input_infos(proto)] == [(7, 4), (7, 4)]


def test_a_batch_the_model_does_not_have_and_other_dynamic_axes_are_refused():
    with pytest.raises(ModelError, match="input a: the model is made for batch 4, not for 2"):
        static_model(tiny_model(batch=4), 2)
    model = tiny_model()
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "width"
    with pytest.raises(ModelError, match="input b: axis 1 has no fixed size"):
        static_model(model, 1)


def test_weights_are_counted_as_stored():
    assert weight_bytes(tiny_model()) == 4 * 3 * 4
    assert weight_bytes(tiny_model(quantized=True)) == 4 * 3 + 4 + 1 + 4 + 1
    int4 = helper.make_tensor("w4", TensorProto.INT4, [3], [1, 2, 3])
    model = tiny_model()
    model.graph.initializer.append(int4)
    assert weight_bytes(model) == 48 + 2
