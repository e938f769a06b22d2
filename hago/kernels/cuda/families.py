"""The kernel families of NVIDIA GPUs, as plain values: what each architecture offers the templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PRECISIONS = frozenset({"float32", "int8", "int4", "float16", "bfloat16"})
"""What templates exist for; a spec says which of these its tensor cores have."""


@dataclass(frozen=True)
class Gpu:
    """What a template must know about an architecture; ``arch`` is NVRTC's name of it."""

    name: str
    arch: str
    multiprocessors: int  # of a typical device, to choose tiles by
    shared_bytes: int  # the most shared memory that a block may have
    asynchronous: bool = True  # copies to shared memory that the program need not wait for (cp.async)
    bf16: bool = True  # tensor cores take bfloat16 and tf32
    int4: bool = True  # tensor cores take 4-bit numbers
    warpgroups: bool = False  # wgmma


SM75 = Gpu("nvidia-sm75", "sm_75", 40, 64 << 10, asynchronous=False, bf16=False)
SM80 = Gpu("nvidia-sm80", "sm_80", 108, 163 << 10)
SM87 = Gpu("nvidia-sm87", "sm_87", 16, 163 << 10)
SM89 = Gpu("nvidia-sm89", "sm_89", 58, 99 << 10)
SM90 = Gpu("nvidia-sm90", "sm_90a", 132, 227 << 10, int4=False, warpgroups=True)

FAMILIES: Mapping[str, Gpu] = {gpu.name: gpu for gpu in (SM75, SM80, SM87, SM89, SM90)}
