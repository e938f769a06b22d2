"""Compiles one kernel for this machine and calls it with numpy arrays: for tests, timing and exploration.

`hago.compiler`, which makes artifacts, compiles the same PrimFuncs but caches and links them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm.target import Target

from ...errors import BuildError, MeasureError
from ...runtime.processor import missing_features
from ...spec import load_spec
from ..common.calls import Template
from .executor import EXECUTOR
from .families import Isa
from .pipeline import compile_template


def target_of(isa: Isa) -> Target:
    """The LLVM target of the oldest x86 processor that has this instruction set."""
    return Target({"kind": "llvm", "mcpu": isa.mcpu, "mattr": [f"+{name}" for name in isa.features]})


def missing(isa: Isa) -> list[str]:
    """LLVM's names of the features that kernels of this instruction set need and this processor lacks."""
    return missing_features(list(dict.fromkeys([*load_spec(isa.name).cpu_features, *isa.features])))


class Jitted:
    """A compiled kernel: call it with its input arrays, then its output arrays, which it fills.

    It can be compiled and inspected on any machine. Running it raises MeasureError if the processor lacks what it
    needs.
    """

    def __init__(self, function: Any, isa: Isa, *, general: bool = False) -> None:
        self.primfunc = function
        self._missing = missing(isa)
        try:
            self.executable = compile_template(function, "kernel", target_of(isa), general=general)
        except Exception as error:
            raise BuildError(f"the kernel does not compile: {error}", where=isa.name) from error
        self._call = self.executable["kernel"]

    def __call__(self, *arrays: np.ndarray) -> None:
        """Inputs, then outputs, C-contiguous; afterwards every writeable array holds its new contents."""
        self._check()
        tensors = _tensors(arrays)
        self._call(*tensors)
        for array, tensor in zip(arrays, tensors, strict=True):
            if array.flags.writeable:
                array[...] = tensor.numpy().reshape(array.shape)

    def time_s(self, *arrays: np.ndarray, repeat: int = 7, min_repeat_ms: int = 20) -> float:
        """Median seconds of one call, over ``repeat`` measurements of at least ``min_repeat_ms`` each."""
        self._check()
        tensors = _tensors(arrays)
        evaluator = self.executable.mod.time_evaluator(
            "kernel", EXECUTOR.device(), number=1, repeat=repeat, min_repeat_ms=min_repeat_ms
        )
        return float(np.median(evaluator(*tensors).results))

    def assembly(self) -> str:
        """The machine code as LLVM prints it, to see whether it is vectorised."""
        return str(self.executable.mod.inspect_source("asm"))

    def _check(self) -> None:
        if self._missing:
            raise MeasureError(f"this processor lacks {', '.join(self._missing)}, which the kernel needs")


def _tensors(arrays: Sequence[np.ndarray]) -> list[Any]:
    # np.ascontiguousarray would give a scalar one dimension.
    return [tvm.runtime.tensor(np.require(array, requirements="C")) for array in arrays]


def jit(template: Template | Callable[..., Any], params: Any, isa: Isa, threads: int = 1) -> Jitted:
    """``template(params, isa, threads)``, compiled.

    Raises BuildError if TVM or LLVM rejects it.
    """
    from .fallback import fallback

    return Jitted(template(params, isa, threads), isa, general=template is fallback)
