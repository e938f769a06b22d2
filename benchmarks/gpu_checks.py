"""Runs the networks of `gpu_networks` on the emulated block of a GPU and compares each node with its reference."""

from __future__ import annotations

import pickle
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from common import REPOSITORY
from gpu_faults import Case
from gpu_networks import PLACE, RealModel

from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.compiler.choose import has_choice, variants
from hago.compiler.conformance import Conformance, single_node
from hago.compiler.program import ProgramStep, Refusal
from hago.files import write_atomic
from hago.kernels.common.calls import stored_array
from hago.lower import LoweredGraph, lower, reference
from hago.model import load_model
from hago.qdq import Quantizer
from hago.spec import HardwareSpec, load_spec, resolve_hw

sys.path.insert(0, str(REPOSITORY / "tests"))
from emulated_gpu import EmulatedNetwork

_TOLERANCE = 1e-5  # of floats, relative to the largest value of a tensor
_CASES = 2  # kernels of each family and network that faults are put into
_CASE_S = 0.5  # seconds that one run of such a kernel may take


@dataclass
class Family:
    """What was found of one family's kernels. ``elements`` must be equal (``wrong`` are not), ``floats`` nearly."""

    kernels: list[str] = field(default_factory=list)
    elements: int = 0
    wrong: int = 0
    floats: int = 0
    float_error: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass
class Checked:
    """One model at one precision on one GPU; ``outputs`` against the reference, and against this machine's code.

    ``tile`` is the place of its kernels' tiles among those that a measurement may choose from, 0 that of the estimate.
    """

    model: str
    precision: str
    spec: str
    tile: int
    seeds: int
    families: dict[str, Family]
    refused: dict[str, int]  # reason -> nodes, computed by the reference instead
    outputs: str = ""
    as_processor: str = ""
    seconds: float = 0.0
    error: str = ""


class Watched(EmulatedNetwork):
    """An emulated network that notes what its kernels do; nodes without a kernel are computed by the reference."""

    def __init__(self, lowered: LoweredGraph, spec: HardwareSpec, tile: int) -> None:
        self.refused: list[Refusal] = []
        super().__init__(lowered, spec, refused=self.refused)
        self.program = replace(self.program, steps=tuple(self._with_tile(one, tile) for one in self.program.steps))
        self._graph = lowered
        names = {one.node for one in self.refused}
        self._makers = {out: node for node in lowered.nodes if node.name in names for out in node.outputs}
        self.cases: dict[str, dict[str, Case]] = {}  # family -> a few of its kernels with barriers

    def launch(self, step: ProgramStep, arrays: list[np.ndarray]) -> str:
        started = time.process_time()
        before = [array.copy() for array in arrays]
        fault = super().launch(step, arrays)
        seconds = time.process_time() - started
        barriers = self.call(step).kernel.body.count("__syncthreads();")
        call, gpu = step.call, self.toolchain.family.name
        assert call is not None
        if barriers and not fault and seconds < _CASE_S:
            case = Case(call.family, call.template, call.params, gpu, before, arrays, barriers, seconds)
            known = self.cases.setdefault(call.family, {})
            known[step.key or ""] = case
            if len(known) > _CASES:
                del known[min(known, key=lambda key: (known[key].barriers, known[key].seconds))]
        return fault

    def _with_tile(self, step: ProgramStep, tile: int) -> ProgramStep:
        if not has_choice(step):
            return step
        found = variants(step, self.program, self.toolchain)
        return found[min(tile, len(found) - 1)]

    def _value(self, values: dict[str, np.ndarray], item: str | np.ndarray) -> np.ndarray:
        if isinstance(item, str) and item in self._makers and item not in values:
            alone = single_node(self._graph, self._makers[item])
            feeds = {name: self._value(values, name) for name in alone.inputs}
            for name, made in zip(alone.outputs, reference(alone)(feeds), strict=True):
                values[name] = stored_array(made)
        return super()._value(values, item)


def check(models: Path, spec_name: str, precision: str, name: str, tile: int, seeds: int, place: Path) -> Checked:
    """Runs one network, on as many samples as seeds."""
    found = Checked(name, precision, spec_name, tile, seeds, {}, {})
    started = time.process_time()
    try:
        _check(RealModel(models, name, 1, PLACE), load_spec(spec_name), found, place)
    except Exception as error:
        found.error = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    found.seconds = time.process_time() - started
    return found


def _check(real: RealModel, spec: HardwareSpec, found: Checked, place: Path) -> None:
    made: list[Watched] = []

    def emulate(lowered: LoweredGraph) -> Watched:
        made.append(Watched(lowered, spec, found.tile))
        return made[-1]

    lowered = real.lowered(found.precision, spec)
    conformance = Conformance(lowered, spec, make=emulate)
    (network,) = made
    found.refused = dict(Counter(one.error.what for one in network.refused))
    family_of: dict[str, str] = {}
    for step in network.program.steps:
        if step.call is not None and step.key is not None:
            one = found.families.setdefault(step.call.family, Family())
            one.kernels = sorted({*one.kernels, step.key})
            family_of.update(dict.fromkeys(step.output, step.call.family))
    nodes = {node.name: node for node in conformance.fused.nodes}
    processor = _on_processor(real, found.precision, spec)
    verdicts: list[tuple[str, str]] = []
    for seed in range(found.seeds):
        network.seed = seed
        feeds = {real.model.inputs[0].name: real.bundle["x"][seed : seed + 1]}
        result = conformance.check(feeds)
        for fault in network.faults:
            found.families[fault.partition(" of ")[0]].faults.append(fault)
        for node_check in result.nodes:
            family = found.families.get(family_of.get(nodes[node_check.name].outputs[0], ""))
            if family is None:
                continue
            if node_check.exact:
                family.elements += node_check.elements
                family.wrong += node_check.differing
            else:
                family.floats += node_check.elements
                family.float_error = max(family.float_error, node_check.error)
                family.wrong += node_check.differing if node_check.error > _TOLERANCE else 0
        outputs = network.run(feeds)
        theirs = processor(feeds)
        verdicts.append((_against(result.outputs), _equal(outputs[: len(theirs)], theirs)))
    found.outputs, found.as_processor = (max(texts, key=len) for texts in zip(*verdicts, strict=True))
    for case in (case for cases in network.cases.values() for case in cases.values()):
        text = sha256(f"{case.template.__qualname__} {case.params!r} {case.gpu}".encode()).hexdigest()[:16]
        write_atomic(place / f"case-{text}.pickle", pickle.dumps(case))


def _on_processor(real: RealModel, precision: str, spec: HardwareSpec) -> Any:
    """The same network, compiled for this machine."""
    host = resolve_hw("auto")
    if precision == "float32":
        proto = real.model.proto
    else:
        proto = Quantizer(real.model, real.calibration, spec).qdq(real.strategy(precision, spec))
    return build(lower(load_model(proto).proto, host), host, threads=1, cache=KernelCache(PLACE / "kernels")).run


def _against(outputs: Iterable[Any]) -> str:
    differing = [one for one in outputs if one.differing]
    return "equal" if not differing else f"within {max(one.error for one in differing):.0e}"


def _equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> str:
    if all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, theirs, strict=True)):
        return "equal"
    largest = max(float(np.abs(b).max()) for b in theirs)
    return f"within {max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)) / largest:.0e}"
