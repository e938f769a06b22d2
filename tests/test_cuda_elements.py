"""What NVRTC makes of the kernels for GPUs that move elements or compute single ones: instructions and registers."""

from __future__ import annotations

from functools import cache

import pytest
from cuda_harness import SMALL
from test_cuda_fallback import CASES as LOWERED
from test_cuda_movement import CASES as MOVED
from test_cuda_pointwise import CASES as COMPUTED

from hago.kernels.cuda.backend import BACKEND
from hago.kernels.cuda.cuda_source import source_of
from hago.kernels.cuda.nvrtc import compile_cubin, installed_version
from hago.kernels.cuda.sass import disassemble

pytestmark = pytest.mark.skipif(not installed_version(), reason="the extra cuda is not installed")
OTHERS = ("sm_75", "sm_90a")

# Case -> what instructions of its kernel must begin with: accesses of 128 bits above all.
KERNELS = {
    "slice of whole words": ("LDG.E.128", "STG.E.128"),
    "transpose in tiles of bytes": ("LDS.U", "STS.U8", "BAR.SYNC"),
    "concat with tables, of words": ("LDG.E.128", "STG.E.128", "LDG.E.U8"),
    "resize linear, channels last": ("LDG.E.128", "STG.E.128"),
    "pad around whole words": ("STG.E.128",),
    "QAdd ": ("LDG.E.128", "STG.E.128", "FFMA"),
    "QLookup float32": ("STG.E.128",),
    "Quantize  (1, 34, 3, 40)": ("LDG.E.128", "STG.E"),
    "Fused float16": ("LDG.E.128", "STG.E.128", "F2F.F16.F32|F2FP"),
    "Fused uint8": ("LDG.E.128", "STG.E.128"),
    "Cast to int64": (),
    "several nests, with temporaries": (),
    "largest": (),
}

SOME = ("transpose in tiles of bytes", "QAdd ", "Fused float16", "several nests, with temporaries")
"""What is compiled for the other architectures too."""


@cache
def source(name: str) -> str:
    node = {**MOVED, **COMPUTED, **LOWERED}[name].node
    call = BACKEND.emit(node, SMALL)[-1]
    return source_of(call.template(call.params, SMALL, 1), "kernel").text


@pytest.mark.parametrize(
    ("name", "arch"), [*((name, "sm_80") for name in KERNELS), *((name, arch) for name in SOME for arch in OTHERS)]
)
def test_threads_move_whole_words_and_spill_nothing(name: str, arch: str) -> None:
    sass = disassemble(compile_cubin(source(name), arch))
    assert not sass.spills and sass.registers <= 128
    for wanted in KERNELS[name]:
        assert any(found.startswith(one) for found in sass.instructions for one in wanted.split("|")), (
            wanted, sorted(sass.instructions)
        )  # fmt: skip
