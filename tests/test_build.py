"""Compiled networks against the numpy reference, node by node and as a whole, on random graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from emulated_x86 import emulated, emulation
from graphs import Network, networks, qdq_networks
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper
from qdq_graphs import Style, quantized

from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.compiler.conformance import Conformance
from hago.compiler.program import Program, emit
from hago.compiler.toolchain import toolchain_of
from hago.errors import BuildError, MeasureError, UnsupportedOpError
from hago.kernels.cpu.families import FAMILIES as ISAS
from hago.lower import lower, reference
from hago.runtime.processor import missing_features
from hago.spec import HardwareSpec, load_spec, resolve_hw

HOST = resolve_hw("auto")
if not HOST.kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)

SLOW = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
FLOAT_ERROR = 5e-6  # relative to the largest value: float32 sums in another order


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    return KernelCache(tmp_path_factory.mktemp("kernels"))


def others() -> list[HardwareSpec]:
    """All specs of x86 but the host's; where this processor lacks an instruction, its meaning stands in."""
    specs = [load_spec(name) for name in ISAS if name.startswith("x86") and name != HOST.name]
    return [emulated(spec) if missing_features(spec.cpu_features) else spec for spec in specs]


@pytest.fixture(autouse=True, scope="module")
def _emulation() -> Iterator[None]:
    with emulation():
        yield


def conforms(net: Network, spec: HardwareSpec, cache: KernelCache, threads: int = 1) -> None:
    """Equal where there is one right answer, close where float32 sums have another order."""
    found = Conformance(lower(net.proto, spec), spec, threads=threads, cache=cache).check(net.feeds)
    assert found.wrong == []
    assert [check for check in found.nodes if check.error > FLOAT_ERROR] == []


@settings(max_examples=15, **SLOW)
@given(net=networks())
def test_every_kernel_computes_what_its_reference_computes(net: Network, cache: KernelCache) -> None:
    conforms(net, HOST, cache)


@pytest.mark.parametrize("spec", others(), ids=lambda spec: spec.name)
@settings(max_examples=4, **SLOW)
@given(net=networks())
def test_so_do_the_kernels_of_other_processors(spec: HardwareSpec, net: Network, cache: KernelCache) -> None:
    conforms(net, spec, cache)


@settings(max_examples=4, **SLOW)
@given(net=qdq_networks(kinds=("image", "line")))
def test_integers_are_the_same_on_every_processor_and_with_every_thread(net: Network, cache: KernelCache) -> None:
    lowered = lower(net.proto)
    checked = Conformance(lowered, HOST, cache=cache).check(net.feeds)
    expected = reference(lowered)(net.feeds)
    for spec, threads in [(HOST, 1), (HOST, 2), *((spec, 1) for spec in others())]:
        found = build(lowered, spec, threads=threads, cache=cache).run(net.feeds)
        for mine, theirs, output in zip(found, expected, checked.outputs, strict=True):
            assert not output.exact or np.array_equal(mine, theirs), f"{spec.name}, {threads} threads"


@settings(max_examples=3, **SLOW)
@given(net=networks())
def test_two_threads_compute_the_same(net: Network, cache: KernelCache) -> None:
    lowered = lower(net.proto, HOST)
    one, two = (build(lowered, HOST, threads=n, cache=cache).run(net.feeds) for n in (1, 2))
    for mine, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * max(1.0, float(np.abs(theirs).max(initial=0))))


@pytest.mark.parametrize("most", [63, 127])
def test_products_that_saturate_16_bits_are_exact(most: int, cache: KernelCache) -> None:
    """255 * 127 * 2 leaves int16: without VNNI such weights need the slower instruction, 7-bit ones do not."""
    rng = np.random.default_rng(0)
    channels = 64
    codes = rng.choice(np.array([-most, most], np.int8), (32, channels, 3, 3))
    proto = one_conv(codes, bias=np.zeros(32, np.int32))
    feeds = {"x": np.full((1, channels, 8, 8), 255.0, np.float32)}
    lowered = lower(proto)
    (anchor,) = (node for node in lowered.nodes if node.op == "QConv")
    assert np.abs(lowered.constants[anchor.inputs[1]]).max() == most
    expected = reference(lowered)(feeds)
    for spec in (HOST, *others()):
        toolchain = toolchain_of(spec, 1)
        program, isa = emit(lowered, toolchain), toolchain.family
        exact = {"tile-u8s8"} if isa.tiles else {"vnni"}
        assert dots(program) == (exact if isa.exact_dot == "vnni" else {"maddubs" if most == 63 else "maddwd"})
        assert np.array_equal(build(lowered, spec, cache=cache).run(feeds)[0], expected[0]), spec.name


def dots(program: Program) -> set[str]:
    calls = [step.call for step in program.steps if step.call is not None]
    return {call.params.dot for call in calls if hasattr(call.params, "dot")}


def one_conv(codes: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """A QDQ model of one convolution of weights ``codes`` [O, C, KH, KW] over codes of scale 1."""
    arrays = {
        "one": np.float32(1), "zero": np.uint8(0), "w": codes, "ws": np.float32(1), "wz": np.int8(0),
        "b": bias, "ys": np.float32(4096), "yz": np.uint8(128),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "one", "zero"], ["xq"], "xq"),
        node("DequantizeLinear", ["xq", "one", "zero"], ["xd"], "xd"),
        node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "wd"),
        node("DequantizeLinear", ["b", "ws"], ["bd"], "bd"),
        node("Conv", ["xd", "wd", "bd"], ["y0"], "conv", pads=[1, 1, 1, 1]),
        node("QuantizeLinear", ["y0", "ys", "yz"], ["yq"], "yq"),
        node("DequantizeLinear", ["yq", "ys", "yz"], ["y"], "yd"),
    ]
    outputs, depth = codes.shape[:2]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, depth, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs, 8, 8])
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "conv", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


@pytest.mark.parametrize("depth", [3, 6, 64])
@pytest.mark.parametrize("size", [2, 3, 4, 32])
def test_group_scales_of_any_size(depth: int, size: int, cache: KernelCache) -> None:
    rng = np.random.default_rng(depth * size)
    count = -(-depth // size)
    codes = rng.integers(-127, 128, (5, depth, 3, 3), dtype=np.int8)
    scale = np.repeat(rng.integers(1, 16, (5, count, 1, 1)).astype(np.float32), 9, -1).reshape(5, count, 3, 3)
    model = one_conv(codes, np.zeros(5, np.int32))
    for tensor in model.graph.initializer:
        if tensor.name in ("ws", "wz"):
            values = scale if tensor.name == "ws" else np.zeros(scale.shape, np.int8)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        elif tensor.name == "b":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(5, np.float32), "b"))
    kept = [node for node in model.graph.node if node.name != "bd"]
    for node in kept:
        if node.name == "wd":
            node.attribute.extend([helper.make_attribute("axis", 1), helper.make_attribute("block_size", size)])
        node.input[:] = ["b" if name == "bd" else name for name in node.input]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(kept)
    lowered = lower(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    assert any(node.op == "QConv" for node in lowered.nodes)
    feeds = {"x": rng.integers(0, 256, (1, depth, 8, 8)).astype(np.float32)}
    for spec in (HOST, *others()):
        found = build(lowered, spec, cache=cache).run(feeds)
        assert np.array_equal(found[0], reference(lowered)(feeds)[0]), spec.name


# --- structure -----------------------------------------------------------------------------------


def small(seed: int = 0) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A float convolution with Relu and a second output that is the first one reshaped."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((16, 4, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
        helper.make_node("Flatten", ["y"], ["z"], "flatten"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [info("x", TensorProto.FLOAT, [2, 4, 6, 6])],
        [info("y", TensorProto.FLOAT, [2, 16, 6, 6]), info("z", TensorProto.FLOAT, [2, 576])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feeds = {"x": rng.standard_normal((2, 4, 6, 6), np.float32)}
    return onnx.shape_inference.infer_shapes(model, strict_mode=True), feeds


def keys(program: Program) -> list[str]:
    return [step.key for step in program.steps if step.key is not None]


def program_of(proto: onnx.ModelProto, spec: HardwareSpec = HOST, threads: int = 1) -> Program:
    return emit(lower(proto, spec), toolchain_of(spec, threads))


def test_another_calibration_needs_no_other_kernels(cache: KernelCache) -> None:
    proto, feeds = small()
    wider = {"x": 3 * feeds["x"] + 1}
    styles = Style(weights="channel"), Style(weights="channel")
    programs = [program_of(quantized(proto, f, s)) for f, s in zip((feeds, wider), styles, strict=True)]
    assert keys(programs[0]) == keys(programs[1])


def test_a_kernel_is_known_by_instruction_set_threads_and_shape() -> None:
    proto, _ = small()
    base = set(keys(program_of(proto)))
    assert base == set(keys(program_of(proto)))
    assert not base & set(keys(program_of(proto, threads=2)))
    for spec in others():
        assert not base & set(keys(program_of(proto, spec)))


def test_a_second_build_compiles_nothing(tmp_path: Path) -> None:
    proto, feeds = small()
    lowered = lower(proto, HOST)
    asked: list[tuple[int, int]] = []
    cache = KernelCache(tmp_path)
    first = build(lowered, HOST, cache=cache, progress=lambda done, total: asked.append((done, total)))
    count = len(set(keys(program_of(proto))))
    assert asked == [(i + 1, count) for i in range(count)]
    asked.clear()
    for again in (cache, KernelCache(tmp_path)):
        second = build(lowered, HOST, cache=again, progress=lambda done, total: asked.append((done, total)))
        assert asked == []
        for mine, theirs in zip(second.run(feeds), first.run(feeds), strict=True):
            assert np.array_equal(mine, theirs)


def test_outputs_outlive_the_next_run(cache: KernelCache) -> None:
    proto, feeds = small()
    net = build(lower(proto, HOST), HOST, cache=cache)
    first = net.run(feeds)
    kept = [array.copy() for array in first]
    net.run({"x": -feeds["x"]})
    for mine, theirs in zip(first, kept, strict=True):
        assert np.array_equal(mine, theirs)
    y, z = first
    assert np.array_equal(y.reshape(2, -1), z)


def test_inputs_are_taken_as_they_are_and_left_alone(cache: KernelCache) -> None:
    proto, feeds = small()
    net = build(lower(proto, HOST), HOST, cache=cache)
    expected = net.run(feeds)
    x = feeds["x"]
    strided = np.asfortranarray(x)
    wide = np.zeros((4, 4, 6, 6), np.float32)
    wide[::2] = x
    frozen = x.copy()
    frozen.setflags(write=False)
    for form in (strided, wide[::2], frozen, x.astype(np.float64), x.astype(">f4")):
        before = form.copy()
        assert np.array_equal(net.run({"x": form})[0], expected[0])
        assert np.array_equal(form, before)


def test_constant_and_passed_through_outputs(cache: KernelCache) -> None:
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", TensorProto.FLOAT, [2, 3]), info("unused", TensorProto.FLOAT, [1])],
        [info("y", TensorProto.FLOAT, [2, 3]), info("c", TensorProto.FLOAT, [2]), info("x", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(np.array([1.5, -2], np.float32), "c")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
    net = build(lower(model, HOST), HOST, cache=cache)
    y, c, same = net.run({"x": x, "unused": np.zeros(1, np.float32)})
    assert np.array_equal(y, np.maximum(x, 0))
    assert c.tolist() == [1.5, -2]
    assert np.array_equal(same, x)


def test_hardware_without_kernels_is_refused() -> None:
    proto, _ = small()
    with pytest.raises(BuildError, match=r"hardware 'integer-only'.*no kernels.*yet"):
        build(lower(proto), load_spec("integer-only"))


def test_code_for_another_processor_is_compiled_but_not_run(cache: KernelCache) -> None:
    proto, feeds = small()
    specs = [load_spec(name) for name in ISAS if name.startswith("x86")]
    others = [spec for spec in specs if missing_features(spec.cpu_features)]
    if not others:
        pytest.skip("this processor has everything")
    net = build(lower(proto, others[0]), others[0], cache=cache)
    for use in (lambda: net.run(feeds), net.kernel_times):
        with pytest.raises(MeasureError, match=r"this processor lacks .*another"):
            use()


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    node = helper.make_node("Nonsense", ["x"], ["y"], "strange", domain="my.own")
    graph = helper.make_graph([node], "net", [info("x", TensorProto.FLOAT, [2])], [info("y", TensorProto.FLOAT, [2])])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("my.own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(UnsupportedOpError, match=r"Nonsense|strange"):
        build(lower(model, HOST), HOST, cache=KernelCache(tmp_path))


@pytest.fixture(autouse=True)
def _one_thread_after() -> Iterator[None]:
    yield
    from hago.runtime.threads import use_threads

    use_threads(1)
