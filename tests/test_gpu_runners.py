"""Other engines on a GPU, by fakes of their packages over the fake driver: what they compute, how they are timed."""

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cuda import FakeCuda
from measure_fakes import BATCH, WEIGHT, expected, tiny_model

import hago.runners.gpu as gpu_module
from hago.compare.engines import usual_engines
from hago.errors import MeasureError, MissingExtraError
from hago.kernels.cuda.driver import Driver
from hago.measure.latency import measure_latency
from hago.runners import OnnxRuntimeCudaRunner, TensorRtRunner, TorchCudaRunner

FEEDS = {name: np.random.default_rng(i).normal(size=(BATCH, 4)).astype(np.float32) for i, name in enumerate("ab")}


@pytest.fixture
def fake(monkeypatch):
    found = FakeCuda()
    gpu = Driver(found)
    monkeypatch.setattr(gpu_module, "driver", lambda: gpu)
    return found


class FakeOnnxRuntime(SimpleNamespace):
    """Its sessions compute the tiny model; with ``partly``, a part of it would run on the processor."""

    def __init__(self, fake, partly=False):
        self.opened, self.waits = [], []
        level = SimpleNamespace(ORT_ENABLE_ALL=99)

        def session(payload, options, providers):
            ((provider, about),) = providers
            assert provider == "CUDAExecutionProvider" and int(about["user_compute_stream"]) > 0
            self.opened.append(about["enable_cuda_graph"])
            if partly and about["enable_cuda_graph"] == "1":
                raise RuntimeError("not all nodes are on the GPU")
            return FakeSession(fake, self)

        super().__init__(
            get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
            SessionOptions=SimpleNamespace,
            RunOptions=lambda: SimpleNamespace(add_run_config_entry=lambda key, value: None),
            GraphOptimizationLevel=level,
            InferenceSession=session,
            OrtValue=FakeValue,
        )


class FakeValue:
    def __init__(self, array):
        self.array = array

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape, dtype, device, number):
        assert device == "cuda"
        return cls(np.zeros(shape, dtype))

    def update_inplace(self, array):
        self.array[...] = array


class FakeSession:
    def __init__(self, fake, module):
        self.fake, self.module, self.inputs, self.outputs = fake, module, {}, {}

    def io_binding(self):
        return SimpleNamespace(
            bind_ortvalue_input=self.inputs.__setitem__,
            bind_ortvalue_output=self.outputs.__setitem__,
            copy_outputs_to_cpu=lambda: [value.array.copy() for value in self.outputs.values()],
        )

    def get_outputs(self):
        return [SimpleNamespace(name="logits", shape=[BATCH, 3]), SimpleNamespace(name="total", shape=[BATCH, 4])]

    def run_with_iobinding(self, binding, options=None):
        self.module.waits.append(options is None)

        def work():
            results = expected({name: value.array for name, value in self.inputs.items()})
            for value, array in zip(self.outputs.values(), results, strict=True):
                value.array[...] = array

        self.fake.enqueue(work)


@pytest.mark.parametrize("partly", [False, True])
def test_onnx_runtime_keeps_inputs_and_outputs_on_the_gpu(fake, monkeypatch, partly):
    module = FakeOnnxRuntime(fake, partly)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    runner = OnnxRuntimeCudaRunner(tiny_model(), batch=BATCH)
    assert module.opened == (["1", "0"] if partly else ["1"])  # without a graph only where there can be none
    first, second = runner.run(FEEDS), runner.run({name: 2 * x for name, x in FEEDS.items()})
    for found, wanted in zip(first, expected(FEEDS), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert not np.array_equal(first[1], second[1])
    module.waits.clear()
    assert runner.time_calls(FEEDS, 20) == pytest.approx(20 * 50e-6)
    assert module.waits == [False] * 20  # between the two events nothing waits
    runner.close()


class FakeTrt(SimpleNamespace):
    """Its engine computes the tiny model from and to the addresses that it is given."""

    def __init__(self, fake, wrong=""):
        self.flags = []
        shapes = {"a": (BATCH, 4), "b": (BATCH, 4), "logits": (BATCH, 3), "total": (BATCH, 4)}
        addresses = {}

        def array(name):
            count = int(np.prod(shapes[name]))
            floats = (ctypes.c_float * count).from_address(addresses[name])
            return np.frombuffer(floats, np.float32).reshape(shapes[name])

        def compute():
            for name, result in zip(("logits", "total"), expected({"a": array("a"), "b": array("b")}), strict=True):
                array(name)[...] = result

        context = SimpleNamespace(
            set_tensor_address=addresses.__setitem__,
            execute_async_v3=lambda stream: fake.enqueue(compute) or wrong != "run",
        )
        engine = SimpleNamespace(
            num_io_tensors=4,
            get_tensor_name=list(shapes).__getitem__,
            get_tensor_shape=shapes.__getitem__,
            get_tensor_dtype=lambda name: "float",
            get_tensor_mode=lambda name: "in" if name in "ab" else "out",
            create_execution_context=lambda: context,
        )
        config = SimpleNamespace(set_flag=self.flags.append, clear_flag=lambda flag: None)
        builder = SimpleNamespace(
            create_network=lambda flags: "network",
            create_builder_config=lambda: config,
            build_serialized_network=lambda network, config: None if wrong == "build" else b"plan",
        )
        parser = SimpleNamespace(parse=lambda payload: wrong != "parse", get_error=lambda i: "no such operator")

        def logger(level):
            return "logger"

        logger.ERROR = 1
        super().__init__(
            Logger=logger,
            Builder=lambda logger: builder,
            OnnxParser=lambda network, logger: parser,
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
            BuilderFlag=SimpleNamespace(FP16="FP16", INT8="INT8", TF32="TF32"),
            TensorIOMode=SimpleNamespace(OUTPUT="out"),
            nptype=lambda dtype: np.float32,
        )


def test_tensorrt_is_replayed_as_a_graph(fake, monkeypatch):
    module = FakeTrt(fake)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    runner = TensorRtRunner(tiny_model(), batch=BATCH, precisions=("float16", "int8"))
    assert module.flags == ["FP16", "INT8"]
    for factor in (1, -3):
        feeds = {name: factor * x for name, x in FEEDS.items()}
        for found, wanted in zip(runner.run(feeds), expected(feeds), strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert fake.calls.count("cuGraphLaunch") == 2
    assert measure_latency([runner], FEEDS, rounds=6)["TensorRT"].median_s == pytest.approx(50e-6)
    runner.close()


@pytest.mark.parametrize(
    ("wrong", "told"), [("parse", "no such operator"), ("build", "cannot build"), ("run", "cannot run the model")]
)
def test_a_model_that_tensorrt_refuses_is_one_clear_error(fake, monkeypatch, wrong, told):
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTrt(fake, wrong))
    with pytest.raises(MeasureError, match=told):
        TensorRtRunner(tiny_model(), batch=BATCH)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_engines_that_are_absent_say_so_in_one_line(fake, monkeypatch, has_gpu):
    if not has_gpu:
        monkeypatch.setattr(gpu_module, "driver", lambda: None)
    for package in ("onnxruntime", "torch", "onnx2torch", "tensorrt"):
        monkeypatch.setitem(sys.modules, package, None)
    engines = usual_engines(tiny_model(), tiny_model(quantized=True), compile=None, hw="nvidia-a100", batch=BATCH)
    assert len(engines) == 10 and len({engine.label for engine in engines}) == 10
    for engine in engines[2:]:
        with pytest.raises(MissingExtraError if has_gpu else MeasureError) as caught:
            engine.open()
        told = caught.value.hint if has_gpu else caught.value.what
        assert told == ("pip install 'hago[gpu-peers]'" if has_gpu else "this machine has no GPU that CUDA can use")


@pytest.mark.parametrize("half", [False, True])
def test_pytorch_computes_the_module_of_the_file(fake, monkeypatch, half):
    """On this machine's PyTorch, whose processor plays the GPU."""
    torch = pytest.importorskip("torch")

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(WEIGHT))

        def forward(self, a, b):
            return torch.relu(a) @ self.weight, a + b

    class Event:
        times = iter((2.0, 5.0))  # ms

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(self.times)

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return end.at - self.at

    monkeypatch.setitem(sys.modules, "onnx2torch", SimpleNamespace(convert=lambda proto: Tiny()))
    for kind in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(kind, "cuda", lambda self, *_: self)
    for name, stand_in in (("is_available", lambda: True), ("synchronize", lambda: None), ("Event", Event)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    runner = TorchCudaRunner(tiny_model(), batch=BATCH, half=half)
    for found, wanted in zip(runner.run(FEEDS), expected(FEEDS), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=5e-3 if half else 1e-6)
    assert runner.time_calls(FEEDS, 10) == pytest.approx(3e-3)
    runner.close()


def test_pytorch_without_cuda_says_so(fake, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "onnx2torch", SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MeasureError, match="built without CUDA"):
        TorchCudaRunner(tiny_model(), batch=BATCH)
