"""What is made of one model: its calibration, QDQ forms and compiled networks, each once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Thread

import numpy as np
import onnx

from ..bench import Candidate
from ..calibrate import Calibration
from ..compiler.build import build
from ..compiler.cache import KernelCache
from ..data import DataParts
from ..deadline import Deadline
from ..knobs import read_knobs, transformation_of
from ..lower import LoweredGraph, lower
from ..methods import needs_of, transformed
from ..model import Model
from ..precision import FLOAT32
from ..qdq import Quantizer, observed_tensors
from ..result_files import CALIBRATION_FILE
from ..runtime.artifact import Artifact
from ..spec import HardwareSpec
from ..strategy import Strategy, uniform
from .calibrating import calibrate_model

_KEPT = 4  # candidates: the search asks for some repeatedly
_CHECKED = 4  # batches whose outputs on a device are compared with this machine's
_TRIED_S = 0.2


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True)
class EvaluatorOptions:
    """How candidates are made and measured.

    ``folder`` stores the calibration, so that a resumed search has the same. ``knobs``, as from `read_knobs`, are the
    values that strategies may have; calibration gathers what their methods need. ``deadline`` bounds the final
    measurements; for candidates the search passes the time that is left. ``say`` is called with a few words before each
    slow step.
    """

    threads: int = 1
    cache: KernelCache = field(default_factory=KernelCache)
    folder: Path | None = None
    seed: int = 0
    knobs: Mapping[str, Sequence[str]] = field(default_factory=read_knobs)
    deadline: Deadline = field(default_factory=Deadline)
    say: Callable[[str], None] = _silent


class CandidateBuilder:
    """Quantizes, lowers and compiles strategies of one model, on ``host``.

    ``spec`` is the hardware that strategies are for, ``parts`` are the samples, of which one part calibrates.
    """

    def __init__(
        self, model: Model, spec: HardwareSpec, parts: DataParts, host: HardwareSpec, options: EvaluatorOptions
    ) -> None:
        self.model, self.spec, self.parts, self.host = model, spec, parts, host
        self.threads, self.cache, self.folder = options.threads, options.cache, options.folder
        self.say = options.say
        self.needs, self.transformation = needs_of(options.knobs), transformation_of(options.knobs)
        self._candidates: dict[str, Candidate] = {}

    @cached_property
    def float_artifact(self) -> Artifact:
        """float32 by the same compiler: the baseline of every candidate."""
        self.say("compiling float32")
        return self.build(self.model.proto)

    @cached_property
    def transformed(self) -> Model:
        """The model after the transformation, if there is one: what is calibrated and quantized."""
        return transformed(self.model, self.transformation)

    @cached_property
    def calibration(self) -> Calibration:
        """Ranges of all activations, from one pass over the calibration part."""
        self.say(f"calibrating: {len(self.parts.calibration)} samples")
        ahead = Thread(target=self._compile_ahead, daemon=True)
        ahead.start()
        try:
            return calibrate_model(
                self.transformed,
                self.parts.calibration,
                self.host,
                threads=self.threads,
                cache=self.cache,
                needs=self.needs,
                store=None if self.folder is None else self.folder / CALIBRATION_FILE,
                progress=lambda done, total: self.say(f"calibrating: {done} of {total} samples"),
            )
        finally:
            ahead.join()  # nothing may run during later timings

    def _compile_ahead(self) -> None:
        """Compiles the kernels of the first candidate, which do not depend on the calibration.

        A failure here is reported when the candidate itself is built.
        """
        with suppress(Exception):
            quantizer = Quantizer(self.model, Calibration.placeholder(observed_tensors(self.model)), self.spec)
            favourite = next(choice.precision for choice in self.spec.choices("conv"))
            self.build(quantizer.qdq(uniform(self.model, self.spec, favourite)))

    @cached_property
    def quantizer(self) -> Quantizer:
        """Quantizes every candidate; weights and ranges are computed once."""
        return Quantizer(self.transformed, self.calibration, self.spec)

    def qdq(self, strategy: Strategy) -> onnx.ModelProto:
        """The strategy as a standard QDQ model."""
        return self.quantizer.qdq(strategy)

    def artifact(self, strategy: Strategy) -> Artifact:
        """The strategy, compiled for this machine."""
        return self.candidate(strategy).artifact

    def candidate(self, strategy: Strategy, name: str = "candidate") -> Candidate:
        """The strategy as a candidate for the bench; float32 if it quantizes nothing. The last few are cached."""
        if strategy.is_float:
            return self.float_candidate
        key = strategy.key()
        if key not in self._candidates:
            while len(self._candidates) >= _KEPT:
                self._candidates.pop(next(iter(self._candidates)))
            proto = self.qdq(strategy)
            self._candidates[key] = Candidate(name, proto, self.build(proto))
        return replace(self._candidates[key], name=name)

    def lowered(self, proto: onnx.ModelProto) -> LoweredGraph:
        """The model lowered for this machine."""
        return lower(proto, self.host)

    def build(self, proto: onnx.ModelProto) -> Artifact:
        """The model compiled for this machine."""
        return build(self.lowered(proto), self.host, threads=self.threads, cache=self.cache)

    @cached_property
    def float_candidate(self) -> Candidate:
        """float32 as a candidate for the bench."""
        return Candidate(FLOAT32, self.model.proto, self.float_artifact, quantized=False)

    @cached_property
    def batches(self) -> list[dict[str, np.ndarray]]:
        """A few batches: the first for timing, all for comparing a device's outputs with this machine's."""
        return self.parts.search.whole_batches(self.model.batch, _CHECKED)

    def float_run_s(self) -> float:
        """Seconds per sample of float32."""
        feeds = self.batches[0]
        self.float_artifact.run(feeds)  # compiled and warm
        started, calls = time.perf_counter(), 0
        while calls < 2 or (calls < 20 and time.perf_counter() - started < _TRIED_S):
            self.float_artifact.run(feeds)
            calls += 1
        return (time.perf_counter() - started) / calls / self.model.batch
