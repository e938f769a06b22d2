"""Compares a GPU with its spec: what it is, whether a small kernel computes the right bits there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..compiler.build import build, cross_build
from ..errors import HagoError
from ..files import TemporaryFolder
from ..kernels import executor_named
from ..kernels.cuda.driver import runs_on
from ..lower import lower
from ..measure.gpu import read_gpu
from ..model import load_model
from ..spec import HardwareSpec
from .remote import RemoteSession

_SHAPE = (2, 1003)  # neither whole warps nor whole vectors


@dataclass(frozen=True)
class GpuFacts:
    """What is known about a GPU, as (name, value), and what is wrong."""

    facts: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()


def check_here(spec: HardwareSpec) -> GpuFacts:
    """This machine's GPU."""
    from ..kernels.cuda.driver import driver

    found, state = driver(), read_gpu()
    if found is None or state is None:
        return GpuFacts(problems=("this machine has no GPU that CUDA can use",))
    facts = [("GPU", state.sentence()), ("CUDA", f"{found.cuda} (as far as its driver goes)")]
    return _checked(facts, found.capability, spec, lambda proto, x: build(lower(proto, spec), spec).run({"x": x}))


def check_there(session: RemoteSession, spec: HardwareSpec) -> GpuFacts:
    """The GPU of a device over RPC."""
    device = executor_named("cuda").device(session.remote)
    if not session.call("asking for its GPU", lambda: device.exist):
        return GpuFacts(problems=("it has no GPU that CUDA can use, or its TVM was built without CUDA",))
    name, version = session.call("asking for its GPU", lambda: (str(device.device_name), str(device.compute_version)))
    facts = [("GPU", f"{name} (clocks and power cannot be read over RPC)")]
    major, _, minor = version.partition(".")

    def run(proto: onnx.ModelProto, x: np.ndarray) -> Sequence[np.ndarray]:
        network = cross_build(lower(proto, spec), spec)
        with TemporaryFolder() as place:
            path = Path(place) / "hago_probe_gpu.so"
            network.save(path)
            net = session.load(path, network.meta)
        try:
            return net.run({"x": x})
        finally:
            session.unload(net)

    return _checked(facts, (int(major), int(minor or 0)), spec, run)


def _checked(
    facts: list[tuple[str, str]],
    capability: tuple[int, int],
    spec: HardwareSpec,
    run: Callable[[onnx.ModelProto, np.ndarray], Sequence[Any]],
) -> GpuFacts:
    """The facts with compute capability and small kernel."""
    said, arch = ".".join(map(str, capability)), str(spec.target.get("arch", ""))
    facts.append(("compute capability", said))
    if not runs_on(arch, capability):
        return GpuFacts(tuple(facts), (f"compute capability {said} does not run code for {arch}, that of {spec.name}",))
    proto, x, wanted = _small_network()
    try:
        (found,) = run(proto, x)
    except HagoError as error:
        return GpuFacts(tuple(facts), (f"a small kernel does not run: {error.what}",))
    wrong = int((found.view(np.uint32) != wanted.view(np.uint32)).sum())
    if wrong:
        return GpuFacts(tuple(facts), (f"{wrong} of {wanted.size} results of a small kernel are wrong",))
    facts.append(("small kernel", f"all {wanted.size} results are right, bit for bit"))
    return GpuFacts(tuple(facts))


def _small_network() -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """relu((x + a) * b) of integers that float32 holds exactly (and without zeros, whose sign is open), its input and
    its output."""
    rng = np.random.default_rng(0)
    x, a, b = (2 * rng.integers(-500, 500, _SHAPE).astype(np.float32) + odd for odd in (0, 1, 1))
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "a"], ["sum"]),
            helper.make_node("Mul", ["sum", "b"], ["product"]),
            helper.make_node("Relu", ["product"], ["y"]),
        ],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, _SHAPE)],
        [numpy_helper.from_array(a, "a"), numpy_helper.from_array(b, "b")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return load_model(proto, _SHAPE[0]).proto, x, np.maximum((x + a) * b, 0)
