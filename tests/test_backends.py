"""Targets: what a new one takes, and what is asked of all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden import calibration
from quantize_nets import classifier

import hago
from hago.compiler.build import build
from hago.compiler.cache import KernelCache, template_version
from hago.compiler.toolchain import toolchain_of
from hago.errors import BuildError, SpecError
from hago.kernels import TARGETS, backend_of, executor_named, families, why_not
from hago.kernels.cpu.families import AVX2
from hago.kernels.cpu.jit import missing
from hago.lower import lower
from hago.model import load_model
from hago.qdq import quantize_model
from hago.runtime.artifact import Artifact
from hago.spec import HardwareSpec, load_spec, spec_names
from hago.strategy import uniform

runs_avx2 = pytest.mark.skipif(bool(missing(AVX2)), reason="this processor has no AVX2")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> HardwareSpec:
    """Hardware of a target that is registered by this one line."""
    monkeypatch.setitem(TARGETS, "toy", "toy_target")
    return replace(load_spec("x86-avx2"), name="toy", kernels="toy-family")


@runs_avx2
@pytest.mark.parametrize("quantized", [False, True])
def test_a_new_target_compiles_saves_and_runs(toy: HardwareSpec, tmp_path: Path, quantized: bool) -> None:
    model, usual = load_model(classifier()), load_spec("x86-avx2")
    proto = quantize_model(model, uniform(model, usual), calibration(model), usual) if quantized else model.proto
    cache = KernelCache(tmp_path / "kernels")
    net = build(lower(proto, toy), toy, cache=cache)
    assert net.meta["executor"] == "toy" and not net.timed_by_cpu
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    expected = build(lower(proto, usual), usual, cache=cache)(x)
    net.save(tmp_path / "net.so")
    for network in (net, hago.load(tmp_path / "net.so")):
        for _ in range(2):  # the second call must not find the first one's inputs
            network(np.zeros_like(x))
            for found, wanted in zip(network(x), expected, strict=True):
                assert np.array_equal(found, wanted)
    assert all(seconds > 0 for _, _, seconds in net.kernel_times(1))


def test_a_spec_may_name_families_of_registered_targets_alone(toy: HardwareSpec, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("name: new\ndescription: x\nextends: x86-avx2\nkernels: toy-family\n")
    assert families()["toy-family"] == "toy" and backend_of(load_spec(file)).name == "toy"
    del TARGETS["toy"]
    with pytest.raises(SpecError, match="no kernel family 'toy-family'"):
        load_spec(file)
    with pytest.raises(BuildError, match="there are no kernels for this hardware yet"):
        backend_of(toy)
    with pytest.raises(BuildError, match="there is no target 'toy'"):
        executor_named("toy")


def test_kernels_are_kept_apart_by_target_and_by_source(toy: HardwareSpec) -> None:
    with_toy = template_version()
    assert toolchain_of(toy, 1).key != toolchain_of(replace(toy, kernels="x86-avx2"), 1).key
    del TARGETS["toy"]
    assert template_version() != with_toy


def test_a_network_that_names_no_target_was_made_for_a_processor() -> None:
    shape = [{"name": "x", "dtype": "float32", "shape": [1, 2]}]
    meta = {"inputs": shape, "outputs": shape, "threads": 1, "size_bytes": 0, "hw": "x86-avx2"}
    assert Artifact(None, meta).timed_by_cpu


@pytest.mark.parametrize("name", spec_names())
def test_whatever_a_shipped_spec_offers_has_kernels_where_it_has_any(name: str) -> None:
    spec = load_spec(name)
    assert not [why for kind, ways in spec.ops.items() for way in ways if (why := why_not(spec, kind, way))]


def test_a_precision_without_kernels_is_reported(toy: HardwareSpec) -> None:
    way = toy.find("conv", "int7")
    assert why_not(toy, "conv", way) == "there is no conv kernel in int7 for toy yet"
    assert why_not(toy, "conv", toy.find("conv", "int8")) is None
    assert why_not(replace(toy, kernels=None), "conv", way) is None
