"""Whole networks for NVIDIA GPUs: on the emulated block against this machine's code, and built without a GPU."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm_ffi
from emulated_block import can_emulate
from emulated_gpu import EmulatedNetwork
from tvm.runtime.vm import VirtualMachine

import hago
from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.compiler.conformance import Conformance
from hago.errors import BuildError
from hago.kernels.cuda.executor import EXECUTOR
from hago.kernels.cuda.nvrtc import installed_version
from hago.kernels.cuda.sass import disassemble
from hago.lower import LoweredGraph, lower
from hago.model import load_model
from hago.runtime.executor import unpack
from hago.spec import HardwareSpec, load_spec, resolve_hw
from hago.strategy import uniform

DIGITS = Path(__file__).parent.parent / "examples" / "digits"
SPECS = ("nvidia-t4", "nvidia-a100", "nvidia-orin", "nvidia-l4", "nvidia-h100")
A100 = load_spec("nvidia-a100")
SEEDS = range(3)

needs_compiler = pytest.mark.skipif(not can_emulate(), reason="g++ is not installed: no block can be emulated")
needs_nvrtc = pytest.mark.skipif(not installed_version(), reason="the extra cuda is not installed")


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.load(DIGITS / "samples.npz")["x"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def models(samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """Precision -> the digits example, as far as an A100 offers it."""
    model = load_model(DIGITS / "model.onnx")
    cache = tmp_path_factory.mktemp("calibration")
    found = {"float32": model.proto}
    for precision in ("int8", "float16"):
        strategy = uniform(model, A100, precision)
        found[precision] = hago.quantize(DIGITS / "model.onnx", strategy, samples[:16], hw=A100, cache=cache)
    return found


def lowered(proto: onnx.ModelProto, spec: HardwareSpec) -> LoweredGraph:
    return lower(load_model(proto, 1).proto, spec)


@needs_compiler
@pytest.mark.parametrize("precision", ("int8", pytest.param("float32", marks=pytest.mark.slow), "float16"))
def test_a_network_computes_what_its_reference_does_in_every_order_of_threads(
    precision: str, models: dict[str, onnx.ModelProto], samples: np.ndarray, tmp_path: Path
) -> None:
    emulated: list[EmulatedNetwork] = []

    def emulate(graph: LoweredGraph) -> EmulatedNetwork:
        emulated.append(EmulatedNetwork(graph, A100))
        return emulated[-1]

    conformance = Conformance(lowered(models[precision], A100), A100, make=emulate)
    host = resolve_hw("auto")
    here = build(lowered(models[precision], host), host, threads=1, cache=KernelCache(tmp_path))
    (network,) = emulated
    (name,) = network.program.inputs
    tolerance = 1e-3 if precision == "float16" else 1e-5  # a sum in another order may be rounded to another neighbour
    for seed in SEEDS:
        network.seed, feeds = seed, {name: samples[seed : seed + 1]}
        found = conformance.check(feeds)
        assert network.faults == [] and found.wrong == [] and found.error < tolerance
        (ours, *_), (theirs,) = network.run(feeds), here.run(feeds)
        if precision == "int8":
            assert found.nodes and all(check.exact for check in found.nodes)
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4 if precision == "float32" else 2e-2, atol=1e-4)


def codes_of(path: Path) -> list[bytes]:
    """What a saved network has for the GPU: each kernel's cubin, and how it is launched."""
    module = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")(str(path), "so")
    return list(unpack(VirtualMachine(module, tvm_ffi.device("cpu"))["hago_device_code"]().numpy().tobytes()))


@needs_nvrtc
@pytest.mark.parametrize("name", SPECS)
def test_a_network_is_built_and_saved_without_a_gpu(
    name: str, models: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    spec = load_spec(name)
    cache = KernelCache(tmp_path / "cache")
    net = build(lowered(models["int8"], spec), spec, threads=1, cache=cache)
    kept = sorted(path.stem for path in cache.folder.glob("*.device"))
    codes = sorted(code for key in kept if (code := cache.device_code(key)) is not None)
    assert len(codes) == len(kept) >= 10
    assert all(disassemble(code[code.index(b"\x7fELF") :]).count("EXIT") for code in codes[:3])
    if not spec.triple.startswith(platform.machine()):
        return  # the processor beside the GPU is of another kind: saved networks are for it
    net.save(tmp_path / "net.so")
    assert sorted(codes_of(tmp_path / "net.so")) == codes
    if not EXECUTOR.is_present(str(spec.target["arch"])):
        with pytest.raises(BuildError, match=f"compiled for {name}, and there is no such device here") as found:
            hago.load(tmp_path / "net.so")
        assert "run it on a machine that has one" in str(found.value)


@needs_nvrtc
@pytest.mark.parametrize("fault", ("damaged", "lost"))
def test_a_kernel_whose_code_for_the_gpu_is_damaged_or_lost_is_compiled_again(fault: str, tmp_path: Path) -> None:
    graph = small_lowered()
    cache = KernelCache(tmp_path)
    build(graph, A100, threads=1, cache=cache)
    (path,) = cache.folder.glob("*.device")
    whole = path.read_bytes()
    path.unlink() if fault == "lost" else path.write_bytes(whole[:100] + b"\0" + whole[101:])
    again = KernelCache(tmp_path)
    assert again.device_code(path.stem) is None
    build(graph, A100, threads=1, cache=again).save(tmp_path / "net.so")
    assert path.read_bytes() == whole and codes_of(tmp_path / "net.so") == [again.device_code(path.stem)]


def small_lowered() -> LoweredGraph:
    """A network of one kernel."""
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
    return lowered(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), A100)
