"""The emulated block of the tests in the place of a GPU: `run.py --device packing.emulated`.

It needs the lowered graphs, which `make_bundle(for_emulation=True)` packs. Times are those of the emulation.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from emulated_gpu import EmulatedNetwork, emulated_call

from hago.compiler.choose import has_choice, variants
from hago.compiler.compile import symbol
from hago.compiler.program import ProgramStep
from hago.spec import load_spec

TORCH = "cpu"


def start(with_torch: bool = False) -> None:
    """Nothing has to be loaded."""


def describe() -> dict[str, Any]:
    """As gpu.py does."""
    return {"name": "emulated block", "capability": [8, 0], "multiprocessors": 1, "clock_hz": 1e6}


def copy_rate() -> float:
    """Of this machine's memory."""
    source = np.zeros(1 << 20, np.uint8)
    began = time.perf_counter()
    source.copy()
    return 2 * source.nbytes / (time.perf_counter() - began)


class Network:
    """A network of the bundle, run by emulation."""

    def __init__(self, path: Path, hw: str) -> None:
        self.emulated = EmulatedNetwork(pickle.loads(path.read_bytes()), load_spec(hw))
        self.spent = 0.0

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs. Raises RuntimeError for a fault that the emulation found."""
        began = time.perf_counter()
        outputs = self.emulated.run(feeds)
        self.spent = time.perf_counter() - began
        if self.emulated.faults:
            raise RuntimeError(f"the emulated block found {self.emulated.faults}")
        return outputs

    def seconds(self, count: int) -> float:
        """``count`` times what the last run took."""
        return count * self.spent

    def kernel_seconds(self, name: str, tensors: Sequence[Any], repeats: int) -> list[float]:
        """One call of a kernel of the network, or of one that it could have."""
        toolchain, program = self.emulated.toolchain, self.emulated.program
        steps = [step for step in program.steps if step.call is not None]
        steps += [one for step in steps if has_choice(step) for one in variants(step, program, toolchain)]
        found = next(step for step in steps if step.key is not None and symbol(step.key) == name)
        return [_called(found, toolchain.family, tensors)]


def _called(step: ProgramStep, family: Any, tensors: Sequence[Any]) -> float:
    assert step.call is not None
    call = emulated_call(step.call.template(step.call.params, family, 1))
    arrays = [np.zeros(shape, dtype) for dtype, shape in tensors]
    began = time.perf_counter()
    fault = call(arrays)
    if fault:
        raise RuntimeError(f"the emulated block found: {fault}")
    return time.perf_counter() - began


class Kernels:
    """The kernels of all networks."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks

    def kernel_seconds(self, name: str, tensors: Sequence[Any], repeats: int) -> list[float]:
        """As that of the network which has it."""
        for network in self.networks:
            try:
                return network.kernel_seconds(name, tensors, repeats)
            except StopIteration:
                continue
        raise KeyError(name)


def open_network(bundle: Any, entry: Mapping[str, Any]) -> Network:
    """A network of the manifest."""
    return _network(bundle.path(entry).with_suffix(".lowered"), bundle.manifest["hw"])


def open_kernels(bundle: Any) -> Kernels:
    """All kernels of the bundle."""
    return Kernels([open_network(bundle, entry) for entry in bundle.networks])


@cache
def _network(path: Path, hw: str) -> Network:
    return Network(path, hw)
