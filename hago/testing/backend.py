"""What every target must do (hago.kernels)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from ..api import quantize
from ..compiler.build import build
from ..compiler.cache import KernelCache
from ..compiler.conformance import Conformance
from ..errors import HagoError
from ..kernels import TARGETS, backend_of, executor_named, families
from ..lower import lower
from ..model import load_model
from ..runtime.artifact import load
from ..spec import HardwareSpec
from ..strategy import uniform
from .networks import random_feeds, small_network

_LIGHT = """
import sys
from hago.kernels import TARGETS, families
TARGETS.update({targets!r})
assert {family!r} in families()
assert "tvm" not in sys.modules, "families.py imports TVM, which reading a spec must not need"
"""


class BackendSuite:
    """Override the fixture ``spec``: hardware that this machine has, whose ``kernels`` are a family of the target."""

    @pytest.fixture
    def spec(self) -> HardwareSpec:
        """Hardware of the target under test."""
        raise NotImplementedError("override the fixture `spec`")

    @pytest.fixture
    def precisions(self) -> tuple[str, ...]:
        """The precisions that are compiled and held to the reference."""
        return ("float32", "int8")

    def test_its_families_are_its_own_and_need_no_compiler(self, spec: HardwareSpec) -> None:
        backend = backend_of(spec)
        own = {family for family, target in families().items() if target == backend.name}
        assert spec.kernels in own and own == set(backend.families)
        program = _LIGHT.format(targets=dict(TARGETS), family=spec.kernels)
        path = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_its_executor_is_found_by_its_name(self, spec: HardwareSpec) -> None:
        executor = executor_named(backend_of(spec).name)
        assert executor is backend_of(spec).executor
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        np.testing.assert_array_equal(executor.array(executor.tensor(array)), array)
        executor.wait()

    def test_every_kernel_computes_what_its_reference_says(
        self, spec: HardwareSpec, precisions: tuple[str, ...], tmp_path: Path
    ) -> None:
        for precision in precisions:
            check = Conformance(lower(self._network(spec, precision), spec), spec, cache=KernelCache(tmp_path))
            found = check.check(random_feeds(load_model(small_network()).inputs))
            assert not found.wrong and found.error < 1e-2, precision

    def test_a_saved_network_computes_the_same(
        self, spec: HardwareSpec, precisions: tuple[str, ...], tmp_path: Path
    ) -> None:
        for precision in precisions:
            net = build(lower(self._network(spec, precision), spec), spec, cache=KernelCache(tmp_path / "kernels"))
            net.save(tmp_path / "model.so")
            feeds = random_feeds(net.input_info)
            for x, y in zip(net.run(feeds), load(tmp_path / "model.so").run(feeds), strict=True):
                np.testing.assert_array_equal(x, y)
            assert all(seconds > 0 for _, _, seconds in net.kernel_times(1))

    def test_an_operator_without_a_kernel_is_refused_in_a_sentence(self, spec: HardwareSpec, tmp_path: Path) -> None:
        proto = small_network()
        proto.graph.node[-1].CopyFrom(
            onnx.helper.make_node("Unheard", ["logits"], ["scores"], "unheard", domain="nobody")
        )
        proto.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
        with pytest.raises(HagoError, match="Unheard"):
            build(lower(proto, spec), spec, cache=KernelCache(tmp_path))

    def _network(self, spec: HardwareSpec, precision: str) -> onnx.ModelProto:
        model = load_model(small_network())
        if precision == "float32":
            return model.proto
        samples = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
        return quantize(model, uniform(model, spec, precision), samples, hw=spec)
