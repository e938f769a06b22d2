"""AArch64 code, for real, under QEMU: the same integers as here. Needs scripts/aarch64_sysroot.py."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from quantize_nets import zoo

from hago.compiler.build import build, cross_build
from hago.compiler.cache import KernelCache
from hago.compiler.conformance import Conformance
from hago.compiler.linker import linker
from hago.data import make_samples
from hago.device.config import Device
from hago.device.emulated import emulated_server, sysroot
from hago.device.remote import RemoteNet, connect
from hago.device.spec_check import check_device
from hago.lower import LoweredGraph, lower
from hago.model import load_model
from hago.precision import SHORT_FLOATS
from hago.qdq import Quantizer
from hago.spec import load_spec, resolve_hw
from hago.strategy import WEIGHTED_KINDS, uniform
from hago.tuning.calibrating import calibrate_model

pytestmark = pytest.mark.aarch64
SPECS = ("arm-cortex-a72", "arm-cortex-a76", "arm-neoverse-v1")
DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"


@pytest.fixture(scope="module", autouse=True)
def machine() -> Path:
    """The emulated machine; skips, loudly, where it is absent."""
    folder = sysroot()
    if folder is None:
        warnings.warn("no emulated AArch64 machine: tests marked aarch64 are skipped", stacklevel=1)
        pytest.skip("no emulated AArch64 machine (scripts/aarch64_sysroot.py makes it)")
    return folder


# The middle one of three adds dot products in bytes, which the newest has, too.
@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name == "arm-cortex-a76" else name for name in SPECS],
)
def device(request: pytest.FixtureRequest, machine: Path) -> Iterator[Device]:
    """An emulated processor of each spec, behind an RPC server."""
    with emulated_server(request.param) as address:
        yield Device(request.param, request.param, rpc=address, timeout_s=120)


def test_the_device_is_what_its_spec_says(device: Device) -> None:
    finding = check_device(device)
    assert finding.good, finding.problems
    assert ("architecture", "aarch64") in finding.facts


def test_the_example_gives_the_same_integers(device: Device, cache: KernelCache, tmp_path: Path) -> None:
    model, host, spec = load_model(DIGITS / "model.onnx"), resolve_hw("auto"), load_spec(device.spec)
    with np.load(DIGITS / "samples.npz") as file:
        x = file["x"].astype(np.float32)
    samples = make_samples(x[:64], model.inputs)
    quantizer = Quantizer(model, calibrate_model(model, samples, host, cache=cache), spec)
    name = model.inputs[0].name
    with connect(device) as session:
        for precision in dict.fromkeys(c.precision for c in spec.choices("conv") if c.precision.startswith("int")):
            qdq = quantizer.qdq(uniform(model, spec, precision))
            here = build(lower(qdq, host), host, cache=cache)
            there = cross_build(lower(qdq, spec), spec, cache=cache)
            library = tmp_path / f"digits-{precision}.so"
            there.save(library)
            net = session.load(library, there.meta)
            for row in x[100:110]:
                feeds = {name: row[None]}
                np.testing.assert_array_equal(net.run(feeds)[0], here.run(feeds)[0])


def test_every_precision_that_is_offered_runs(device: Device, cache: KernelCache, tmp_path: Path) -> None:
    """A network with layers of every kind, each uniform strategy: every layer in that precision, node by node right."""
    model, host, spec = load_model(zoo()), resolve_hw("auto"), load_spec(device.spec)
    x = np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)
    calibration = calibrate_model(model, make_samples(x, model.inputs), host, cache=cache)
    quantizer = Quantizer(model, calibration, spec)
    offered = dict.fromkeys(choice.precision for ways in spec.ops.values() for choice in ways)
    assert {"conv", "depthwise_conv", "fully_connected", "matmul"} <= {layer.kind for layer in model.layers}
    with connect(device) as session:
        for precision in offered:
            strategy = uniform(model, spec, precision)
            qdq = quantizer.qdq(strategy)
            lowered = lower(qdq, spec)
            computed = {n.layer: n.attrs.get("precision", "int") for n in lowered.nodes if n.is_hago()}
            for layer in model.layers:
                if layer.name in strategy.choices and layer.kind in WEIGHTED_KINDS:
                    assert computed[layer.name] == ("int" if precision.startswith("int") else precision)

            def there(graph: LoweredGraph, name: str = f"{precision}.so") -> RemoteNet:
                built = cross_build(graph, spec, cache=cache)
                built.save(tmp_path / name)
                return session.load(tmp_path / name, built.meta)

            found = Conformance(lowered, spec, make=there).check({"image": x[:1]})
            assert not found.wrong, (precision, found.wrong)
            assert found.error < {"float16": 5e-3}.get(precision, 1e-4), precision
            if precision in SHORT_FLOATS:  # which this machine need not have: it evaluates with float32 sums
                here = build(lower(qdq, host), host, cache=cache).run({"image": x[:1]})
                for mine, its in zip(here, there(lowered, f"{precision}-whole.so").run({"image": x[:1]}), strict=True):
                    assert np.abs(mine - its).max() < 0.01 * np.abs(mine).max()


def test_the_linker_for_another_machine_is_not_this_ones() -> None:
    assert linker("aarch64-linux-gnu") != linker()
