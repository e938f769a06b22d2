"""Faults put into kernels for GPUs, which the emulated block must show: deleted barriers, wrong indices and types."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import REPOSITORY

from hago.kernels.cuda.cuda_source import source_of
from hago.kernels.cuda.families import FAMILIES

sys.path.insert(0, str(REPOSITORY / "tests"))
from emulated_gpu import EmulatedCall, emulated_call

_BARRIER = re.compile(r"__syncthreads\(\);")
_CHANGES: tuple[tuple[str, str, str], ...] = (
    ("no wait for copies", r"hago::wait_copies<\d+>\(\);", ""),
    ("no wait for products", r"hago::wait_wgmma<\d+>\(\);", ""),
    ("wrong row of a fragment", r"\(\(int\)threadIdx\.x\) & 15", "((int)threadIdx.x) & 7"),
    ("wrong type", r"hago::mma_u8s8", "hago::mma_s8s8"),
    ("wrong type", r"hago::wgmma_u8s8", "hago::wgmma_s8s8"),
    ("wrong lane", r"(hago::exchange\(.*), 16\)", r"\1, 8)"),
)
"""What is changed, its pattern, its replacement."""


@dataclass(frozen=True)
class Case:
    """One kernel's call: its arrays ``before`` and ``after`` a run that was right, which took ``seconds``."""

    family: str
    template: Callable[..., Any]
    params: Any
    gpu: str
    before: list[np.ndarray]
    after: list[np.ndarray]
    barriers: int
    seconds: float

    def function(self) -> Any:
        """What the template makes."""
        return self.template(self.params, FAMILIES[self.gpu], 1)


@dataclass(frozen=True)
class FaultCheck:
    """One change of one kernel: wrong elements, or the fault, for each order of threads."""

    gpu: str
    family: str
    change: str
    elements: int
    found: list[str] = field(default_factory=list)

    @property
    def shows(self) -> bool:
        """Whether the change showed at all."""
        return any(one != "0" for one in self.found)

    @property
    def most(self) -> int:
        """The most elements that were wrong in one run."""
        return max(int(one) if one.isdigit() else 0 for one in self.found)


def check_faults(path: Path, seeds: int) -> list[FaultCheck]:
    """Puts every fault into the kernel of the case in this file."""
    case: Case = pickle.loads(path.read_bytes())
    function = case.function()
    text = source_of(function, "kernel").kernel
    outputs = [i for i, (a, b) in enumerate(zip(case.before, case.after, strict=True)) if a.tobytes() != b.tobytes()]
    elements = sum(case.after[i].size for i in outputs)
    found = []
    for change, edit in (("none", lambda kernel: kernel), *_edits(text)):
        call = emulated_call(function, edit)
        results = [_wrong(case, call, outputs, seed) for seed in range(seeds)]
        found.append(FaultCheck(case.gpu, case.family, change, elements, results))
    return found


def _edits(text: str) -> Iterator[tuple[str, Callable[[str], str]]]:
    places = [one.span() for one in _BARRIER.finditer(text)]
    for number, (start, end) in enumerate(places, 1):
        yield f"barrier {number} of {len(places)} deleted", lambda kernel, s=start, e=end: kernel[:s] + kernel[e:]
    for change, pattern, replacement in _CHANGES:
        if re.search(pattern, text):
            yield change, lambda kernel, p=pattern, r=replacement: re.sub(p, r, kernel)


def _wrong(case: Case, call: EmulatedCall, outputs: list[int], seed: int) -> str:
    arrays = [array.copy() for array in case.before]
    fault = call(arrays, seed)
    if fault:
        return fault
    return str(
        sum(int((arrays[i].view(_bits(arrays[i])) != case.after[i].view(_bits(arrays[i]))).sum()) for i in outputs)
    )


def _bits(array: np.ndarray) -> Any:
    """The unsigned type of as many bytes: floats are compared bit by bit."""
    return np.dtype(f"u{array.dtype.itemsize}")
