"""GPUs of this machine and over RPC: which spec fits, whether they compute what is right. No GPU is needed."""

import os
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from fake_cuda import OUT_OF_MEMORY, FakeCuda

import hago.device.gpu_check as gpu_check
import hago.device.gpus as gpus
import hago.device.remote as remote_module
import hago.kernels.cuda.driver as driver_module
from hago.bench.server import rpc_server
from hago.cli import main
from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.compiler.executable import executable
from hago.compiler.linker import link
from hago.device.config import Device
from hago.device.package import write_runner
from hago.device.remote import connect
from hago.errors import MeasureError
from hago.kernels.cuda.driver import Driver
from hago.kernels.cuda.executor import EXECUTOR, CudaExecutor
from hago.kernels.cuda.families import FAMILIES
from hago.lower import lower
from hago.measure.gpu import GpuState
from hago.runtime.executor import pack
from hago.spec import load_spec, resolve_hw, spec_names
from hago.tuning.thread_choice import chosen_threads

ON_CPU = CudaExecutor(**{**{each.name: getattr(EXECUTOR, each.name) for each in fields(EXECUTOR)}, "kind": "cpu"})


@pytest.fixture
def gpu(monkeypatch):
    """Gives this machine a GPU of that compute capability."""

    def make(*capability):
        found = Driver(FakeCuda(capability=capability))
        for module in (gpus, driver_module):
            monkeypatch.setattr(module, "driver", lambda: found)
        monkeypatch.setattr(gpu_check, "read_gpu", lambda: GpuState("A fake GPU", "580.1", 1830, 1980))

    return make


def test_every_spec_of_a_gpu_is_found_by_its_compute_capability():
    specs = [spec for spec in map(load_spec, spec_names()) if spec.family == "nvidia"]
    assert len(specs) == len(FAMILIES)
    for spec in specs:
        assert gpus.fitting(gpus.capability_of(spec)) == spec
        assert spec.target["arch"] == FAMILIES[spec.kernels].arch


@pytest.mark.parametrize(
    ("capability", "told"),
    [
        ((9, 0), "nvidia-h100 fits: it is made for compute capability 9.0"),
        ((8, 6), "no shipped spec is made for compute capability 8.6; nvidia-a100 would run too"),
        ((12, 0), "no shipped spec is for compute capability 12.0"),
    ],
)
def test_detect_lists_the_gpu_beside_the_processor(gpu, capsys, capability, told):
    gpu(*capability)
    assert main(["hw", "detect"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert resolve_hw("auto").name in out and "GPU A fake GPU, 80 GiB" in out and told in out
    assert ("--hw auto is the processor" in out) == (capability != (12, 0))


def fake_build(edit=lambda y: y):
    """Builds networks that this processor runs, whatever their hardware."""

    def built(lowered, spec):
        plain = build(lowered, resolve_hw("auto"))
        return SimpleNamespace(run=lambda feeds: [edit(y.copy()) for y in plain.run(feeds)])

    return built


def one_wrong(y):
    y[1, 7] = np.nextafter(y[1, 7], np.float32(np.inf))
    return y


def refused(y):
    raise MeasureError("the GPU reports: out of memory")


@pytest.mark.parametrize(
    ("capability", "edit", "told"),
    [
        ((9, 0), lambda y: y, "good: the device matches its spec"),
        ((8, 0), lambda y: y, "wrong: compute capability 8.0 does not run code for sm_90a, that of nvidia-h100"),
        ((9, 0), one_wrong, "wrong: 1 of 2006 results of a small kernel are wrong"),
        ((9, 0), refused, "wrong: a small kernel does not run: the GPU reports: out of memory"),
    ],
)
def test_device_check_compares_a_gpu_with_its_spec(gpu, monkeypatch, capsys, tmp_path, capability, edit, told):
    gpu(*capability)
    monkeypatch.setattr(gpu_check, "build", fake_build(edit))
    file = tmp_path / "devices.yaml"
    file.write_text("devices:\n  gpu: {spec: nvidia-h100, local: true}\n")
    assert main(["device", "check", "gpu", "--file", str(file)]) == (0 if told.startswith("good") else 1)
    out = capsys.readouterr().out
    assert "A fake GPU (driver 580.1, clock 1830 of 1980 MHz)" in out and told in out
    assert ("all 2006 results are right, bit for bit" in out) == told.startswith("good")


def test_device_check_says_that_there_is_no_gpu(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(driver_module, "driver", lambda: None)
    file = tmp_path / "devices.yaml"
    file.write_text("devices:\n  gpu: {spec: nvidia-a100, local: true}\n")
    assert main(["device", "check", "gpu", "--file", str(file)]) == 1
    assert "wrong: this machine has no GPU that CUDA can use" in capsys.readouterr().out


def test_one_thread_launches_what_a_gpu_computes():
    assert chosen_threads(None, load_spec("nvidia-a100"), None, None, None) == 1


def test_a_broken_driver_is_no_gpu(monkeypatch):
    monkeypatch.setattr(driver_module.ctypes, "CDLL", lambda name: FakeCuda(fails={"cuInit": OUT_OF_MEMORY}))
    driver_module.driver.cache_clear()
    try:
        assert driver_module.driver() is None
    finally:
        driver_module.driver.cache_clear()


LOADER = """
import os

import tvm_ffi

count = 0

@tvm_ffi.register_global_func("ffi.Module.load_from_bytes.cuda", override=True)
def load(code):
    global count
    count += 1
    path = os.path.abspath(f"device_{count}.so")
    with open(path, "wb") as file:
        file.write(bytes(code))
    return tvm_ffi.load_module(path)

@tvm_ffi.register_global_func("loaded", override=True)
def loaded():
    return count

if os.environ.get("DEVICE_IS_CPU"):
    import tvm

    tvm.runtime.device = lambda kind: tvm.cpu()
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network with device code (its kernel once more), and a library without that kernel."""
    folder = tmp_path_factory.mktemp("split")
    (folder / "sitecustomize.py").write_text(LOADER)
    spec = resolve_hw("auto")
    proto, x, wanted = gpu_check._small_network()
    plain = build(lower(proto, spec), spec, cache=KernelCache(folder / "kernels"))
    (kernel,) = plain._built.uses()
    compiled, code = plain._built.cache.object_file(kernel.key), folder / "kernel.so"
    link([compiled], code)
    linked = executable(plain._built.program, hold=True, device_code=pack([code.read_bytes()]))
    linked.mod.import_module(tvm.runtime.load_static_library(str(compiled), [kernel.symbol]))
    linked.export_library(str(folder / "model.so"))
    nothing = tvm.tirx.PrimFunc([], tvm.tirx.Evaluate(0)).with_attr("global_symbol", "nothing")
    empty = tvm.compile(tvm.IRModule({"nothing": nothing}), target="llvm")
    empty.export_library(str(folder / "empty.so"))
    here = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), *filter(None, sys.path)))}
    return SimpleNamespace(
        folder=folder, plain=plain, kernel=kernel, code=code.read_bytes(), x=x, wanted=wanted, environment=here
    )


def test_a_gpu_over_rpc_is_sent_its_code(monkeypatch, network):
    """The server is TVM's own; its loader of device code takes shared objects in place of cubins."""
    monkeypatch.setattr(remote_module, "executor_named", lambda name: ON_CPU)
    with (
        rpc_server(environment=network.environment) as (_, address),
        connect(Device("gpu", "nvidia-a100", rpc=address)) as session,
    ):
        meta = {**network.plain.meta, "device_code": True, "executor": "cuda"}
        net = session.load(network.folder / "model.so", meta)
        (found,) = net.run({"x": network.x})
        assert found.tobytes() == network.wanted.tobytes()
        assert net.timed(2)[0] > 0
        assert session.function("loaded")() == 1
        (time,) = session.kernel_times_s(
            network.folder / "kernel.so", [(network.kernel.symbol, network.kernel.tensors)], ON_CPU, [network.code]
        )
        assert time.seconds > 0 and session.function("loaded")() == 2
        # What is attached is found there by the module that it is attached to.
        session.remote.upload(str(network.folder / "empty.so"))
        module = session.remote.load_module("empty.so")
        ON_CPU.attach(module, network.code, session.remote)
        tensors = [ON_CPU.tensor(np.zeros(shape, dtype), session.remote) for dtype, shape in network.kernel.tensors]
        for tensor in tensors[:-1]:
            tensor.copyfrom(np.ones(tensor.shape, np.float32))
        module.get_function(network.kernel.symbol, True)(*tensors)
        assert (tensors[-1].numpy() == 2).all()
        del module, tensors
        absent = gpu_check.check_there(session, load_spec("nvidia-a100"))
        assert absent.problems == ("it has no GPU that CUDA can use, or its TVM was built without CUDA",)


def test_the_script_of_a_package_attaches_the_device_code(network):
    """run.py beside model.so, where this processor plays the GPU."""
    write_runner(network.plain.input_info[0], network.folder, "cuda")
    np.savez(network.folder / "samples.npz", x=network.x, y=network.wanted.argmax(axis=1))
    command = [sys.executable, network.folder / "run.py", network.folder / "samples.npz"]
    here = {**network.environment, "DEVICE_IS_CPU": "1"}
    done = subprocess.run(command, env=here, cwd=network.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (network.folder / "device_1.so").read_bytes() == network.code
    assert "1 calls" in done.stdout and "top-1: 100.00 % of 2" in done.stdout
