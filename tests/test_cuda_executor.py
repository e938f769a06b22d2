"""Networks on a GPU: recorded once, replayed from then on, timed by the GPU. The driver is a fake."""

import gc
import warnings
from dataclasses import fields

import numpy as np
import pytest
from fake_cuda import ILLEGAL_ADDRESS, NOT_PERMITTED, OUT_OF_MEMORY, FakeCuda, gpu_of

import hago.kernels.cuda.executor as executor_module
import hago.runtime.artifact as artifact_module
from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.compiler.executable import executable, plan_memory
from hago.errors import DeviceError, HagoWarning, MeasureError, NoDeviceError
from hago.kernels.cuda.driver import Driver, Graph, Stream, runs_on
from hago.kernels.cuda.executor import EXECUTOR, CudaExecutor
from hago.lower import lower
from hago.model import load_model
from hago.runtime.artifact import Artifact
from hago.spec import resolve_hw
from hago.testing.networks import random_feeds, small_network


class Doubling:
    """A network of two kernels, through memory that it takes and gives back: y = 2 x + 1."""

    def __init__(self, executor, fake):
        self.executor, self.fake, self.calls = executor, fake, 0
        self.copies = lambda work: fake.enqueue(work)

    def __getitem__(self, name):
        return {"main": lambda x: self(x)[:1], "held": self}[name]

    def __call__(self, x):
        self.calls += 1
        between, y = (self.executor.tensor(np.zeros(3, np.float32)) for _ in range(2))
        self.fake.enqueue(lambda: between.copyfrom(2 * x.numpy()))
        self.copies(lambda: y.copyfrom(between.numpy() + 1))
        return [y, between]


@pytest.fixture
def fake():
    return FakeCuda()


@pytest.fixture
def executor(fake, monkeypatch):
    return gpu_of(fake, monkeypatch)


@pytest.fixture
def network(executor, fake):
    return Doubling(executor, fake)


def call(executor, main, x, values):
    x.copyfrom(np.asarray(values, np.float32))
    return [executor.array(y).tolist() for y in main(x)]


def test_the_first_call_records_and_later_calls_replay(executor, fake, network):
    x = executor.tensor(np.zeros(3, np.float32))
    main = executor.prepared(network, [x])
    assert call(executor, main, x, [1, 2, 3]) == [[3, 5, 7]]
    assert network.calls == 2  # once plainly, once recorded
    for values in ([4, 5, 6], [0, -1, 9]):
        assert call(executor, main, x, values) == [[2 * v + 1 for v in values]]
    assert network.calls == 2 and fake.calls.count("cuGraphLaunch") == 3  # one to prove the record


@pytest.mark.parametrize(
    "function", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphUpload"]
)
def test_what_cannot_be_recorded_is_called_plainly_and_says_so(executor, fake, network, function):
    fake.fails[function] = OUT_OF_MEMORY
    x = executor.tensor(np.zeros(3, np.float32))
    main = executor.prepared(network, [x])
    with pytest.warns(HagoWarning, match=r"one by one.*out of memory \(CUDA_ERROR_OUT_OF_MEMORY by " + function):
        assert call(executor, main, x, [1, 2, 3]) == [[3, 5, 7]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once, and not tried again
        assert call(executor, main, x, [4, 4, 4]) == [[9, 9, 9]]
    # 2 kernels of 50 us a call, timed without a graph
    assert main.seconds([x], 5) == pytest.approx(5 * 2 * 50e-6)


def test_a_copy_that_escapes_the_record_is_found_out(executor, fake, network):
    """What runs at once while the rest is recorded would leave every replay with the result of that moment."""
    network.copies = lambda work: work()
    x = executor.tensor(np.zeros(3, np.float32))
    main = executor.prepared(network, [x])
    with pytest.warns(HagoWarning, match="not all of the network can be recorded"):
        assert call(executor, main, x, [1, 2, 3]) == [[3, 5, 7]]
    assert call(executor, main, x, [4, 4, 4]) == [[9, 9, 9]]


def test_time_is_that_of_many_replays_between_two_events(executor, fake, network):
    x = executor.tensor(np.zeros(3, np.float32))
    main = executor.prepared(network, [x])
    assert executor.time_calls(main, [x], 10) == pytest.approx(10 * 2 * 50e-6)
    assert fake.calls.count("cuEventRecord") == 2 and network.calls == 2


def test_a_kernel_is_timed_by_graphs_of_many_launches(executor, fake):
    tensors = [executor.tensor(np.zeros(2, np.float32))]
    launched = []
    times = executor.kernel_times(lambda x: fake.enqueue(lambda: launched.append(x)), tensors, 4)
    assert times == pytest.approx([50e-6] * 4)
    assert len(launched) == 1 + 10 + 4 * 10  # to load it, to see how long it takes, and what counts
    gc.collect()
    assert fake.alive(float) == fake.alive(list) == fake.alive(str) == 0


def test_graphs_and_streams_are_released_with_their_network(executor, fake, network):
    x = executor.tensor(np.zeros(3, np.float32))
    main = executor.prepared(network, [x])
    main(x)
    assert fake.alive(list) == 2 and fake.alive(str) == 1  # the record and its runnable form, its stream
    del main
    gc.collect()
    assert fake.alive(list) == fake.alive(str) == 0


def test_a_gpu_that_fails_is_one_clear_error(executor, fake, network):
    x = executor.tensor(np.zeros(3, np.float32))
    main = executor.prepared(network, [x])
    main(x)
    fake.fails = dict.fromkeys(("cuGraphLaunch", "cuCtxSynchronize", "cuCtxSetCurrent"), ILLEGAL_ADDRESS)
    with pytest.raises(NoDeviceError, match=r"illegal memory access was encountered .*by cuGraphLaunch") as caught:
        main(x)
    assert executor.failure(caught.value) is caught.value
    # TVM's own words for the same thing give way to the driver's.
    assert isinstance(executor.failure(RuntimeError("CUDALaunch Error")), NoDeviceError)
    fake.fails.clear()
    assert isinstance(executor.failure(RuntimeError("CUDALaunch Error")), MeasureError)


def test_memory_that_is_used_up_is_no_reason_to_give_up_the_gpu(fake):
    fake.fails["cuStreamCreate"] = OUT_OF_MEMORY
    with pytest.raises(DeviceError, match="smaller batch") as caught:
        Stream(Driver(fake))
    assert not isinstance(caught.value, NoDeviceError)


def test_a_stream_records_no_longer_when_its_work_fails(fake):
    def fail():
        raise ValueError("no kernel")

    with pytest.raises(ValueError, match="no kernel"):
        Graph(Stream(Driver(fake)), fail)
    assert fake.recording is None


def test_the_gpu_describes_itself(fake):
    driver = Driver(fake)
    assert (driver.name, driver.capability, driver.cuda, driver.memory_bytes) == (
        "A fake GPU",
        (9, 0),
        "13.0",
        80 << 30,
    )
    fake.fails["cuInit"] = NOT_PERMITTED
    with pytest.raises(NoDeviceError):
        Driver(fake)


def test_a_machine_without_a_gpu_has_none(monkeypatch):
    monkeypatch.setattr(executor_module, "driver", lambda: None)
    assert not EXECUTOR.is_present() and EXECUTOR.place() == ""
    with pytest.raises(NoDeviceError, match="no GPU that CUDA can use"):
        _ = EXECUTOR.driver


def test_a_gpu_is_present_for_code_that_it_runs(executor, monkeypatch):
    assert executor.is_present() and executor.is_present("sm_90a") and not executor.is_present("sm_80")
    assert executor.place() == "A fake GPU"


def test_code_runs_on_its_own_architecture_and_newer_minor_ones():
    for arch, *capability in (("sm_80", 8, 0), ("sm_80", 8, 6), ("sm_87", 8, 7), ("sm_90a", 9, 0), ("sm_90", 9, 0)):
        assert runs_on(arch, tuple(capability))
    strangers = ("sm_80", 9, 0), ("sm_89", 8, 6), ("sm_80", 8, 7), ("sm_87", 8, 9), ("sm_90a", 9, 1), ("gfx90", 9, 0)
    for arch, *capability in strangers:
        assert not runs_on(arch, tuple(capability))


class Recorded:
    """The functions of TVM's machine on this processor, as a stream records them."""

    def __init__(self, machine, fake):
        self.machine, self.fake = machine, fake

    def __getitem__(self, name):
        function = self.machine[name]

        def run(*buffers):
            results = list(function(*buffers))
            if self.fake.recording is not None:

                def replay():
                    for kept, new in zip(results, function(*buffers), strict=True):
                        kept.copyfrom(new.numpy())

                self.fake.enqueue(replay)
            return results

        return run


class RecordedExecutor(CudaExecutor):
    fake: FakeCuda

    def prepared(self, machine, buffers):
        return super().prepared(Recorded(machine, self.fake), buffers)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A network on the processor."""
    spec = resolve_hw("auto")
    return build(lower(load_model(small_network()).proto, spec), spec, cache=KernelCache(tmp_path_factory.mktemp("k")))


@pytest.fixture
def replayed(plain, fake, executor, monkeypatch):
    """The same network, replayed."""
    linked = executable(plain._built.program, hold=True)
    for kernel in plain._built.modules.values():
        linked.mod.import_module(kernel)
    recorded = RecordedExecutor(**{each.name: getattr(executor, each.name) for each in fields(executor)})
    object.__setattr__(recorded, "fake", fake)
    monkeypatch.setattr(artifact_module, "executor_named", lambda name: recorded)
    return Artifact(linked.mod, plain.meta)


def test_outputs_that_the_caller_keeps_stay_as_they_were(fake, plain, replayed):
    feeds = [random_feeds(plain.input_info, seed) for seed in range(4)]
    kept = [replayed.run(each) for each in feeds]
    assert fake.calls.count("cuGraphLaunch") == 4  # one of them to prove the record
    for found, each in zip(kept, feeds, strict=True):
        for one, other in zip(found, plain.run(each), strict=True):
            assert one.dtype == other.dtype and one.tobytes() == other.tobytes()
    assert not np.array_equal(kept[0][0], kept[1][0])


def test_an_artifact_tells_the_time_of_its_device(plain, replayed):
    assert replayed.has_clock and not plain.has_clock
    assert replayed.time_calls(random_feeds(plain.input_info), 20) == pytest.approx(20 * 50e-6)


def test_an_artifact_whose_gpu_fails_says_so(fake, replayed):
    feeds = random_feeds(replayed.input_info)
    replayed.run(feeds)
    fake.fails = dict.fromkeys(("cuGraphLaunch", "cuCtxSynchronize"), ILLEGAL_ADDRESS)
    for _ in range(2):
        with pytest.raises(NoDeviceError, match="the GPU reports: an illegal memory access"):
            replayed.run(feeds)


def test_held_returns_the_memory_between_the_kernels(plain, replayed):
    feeds = random_feeds(plain.input_info)
    (buffer,) = [replayed._executor.tensor(feeds[info.name]) for info in plain.input_info]
    outputs, sizes = plain.run(feeds), plan_memory(plain._built.program).sizes
    found = replayed._machine["held"](buffer)
    assert sizes and [tensor.shape for tensor in found][len(outputs) :] == [(size,) for size in sizes]
    assert found[0].numpy().tobytes() == outputs[0].tobytes()
