"""The conformance suites of targets, benches and runners, each with every implementation there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import hago
from hago.bench import Candidate
from hago.bench.local import LocalBench
from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.kernels import TARGETS
from hago.lower import lower
from hago.model import load_model
from hago.runners import OnnxRuntimeRunner, OpenVinoRunner, TvmRunner
from hago.spec import HardwareSpec, load_spec, resolve_hw
from hago.strategy import uniform
from hago.testing.backend import BackendSuite
from hago.testing.bench import BenchSuite
from hago.testing.networks import small_network
from hago.testing.runner import RunnerSuite


class TestProcessors(BackendSuite):
    @pytest.fixture
    def spec(self) -> HardwareSpec:
        return resolve_hw("auto")

    @pytest.fixture
    def precisions(self, spec: HardwareSpec) -> tuple[str, ...]:
        return tuple(way.precision for way in spec.choices("conv"))


class TestTargetFromOutside(BackendSuite):
    @pytest.fixture
    def spec(self, monkeypatch: pytest.MonkeyPatch) -> HardwareSpec:
        monkeypatch.setitem(TARGETS, "toy", "toy_target")
        return replace(load_spec("x86-avx2"), name="toy", kernels="toy-family")


class TestThisMachine(BenchSuite):
    @pytest.fixture
    def bench(self) -> LocalBench:
        return LocalBench(resolve_hw("auto"))

    @pytest.fixture
    def candidates(self, cache: KernelCache) -> list[Candidate]:
        model, spec = load_model(small_network()), resolve_hw("auto")
        samples = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32)
        qdq = hago.quantize(model, uniform(model, spec), samples, cache=cache)
        protos = {"float32": model.proto, "int8": qdq}
        return [
            Candidate(name, proto, build(lower(proto, spec), spec, cache=cache), quantized=name != "float32")
            for name, proto in protos.items()
        ]


class TestRunners(RunnerSuite):
    @pytest.fixture(params=[OnnxRuntimeRunner, OpenVinoRunner, TvmRunner], ids=lambda kind: kind.__name__)
    def runner(self, request: pytest.FixtureRequest, cache: KernelCache) -> Iterator[Any]:
        if request.param is TvmRunner:
            opened: Any = TvmRunner(hago.compile(small_network(), cache=cache))
        else:
            pytest.importorskip(request.param.__name__.removesuffix("Runner").lower())
            opened = request.param(small_network(), 1)
        yield opened
        opened.close()
