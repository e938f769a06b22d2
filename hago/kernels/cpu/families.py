"""The kernel families of processors, as plain values: what each instruction set offers the templates.

The differences between processors are here, once: templates ask for an instruction's name or a number, never for the
processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

PRECISIONS = frozenset({"float32", "int8", "int7", "bfloat16", "float16"})
"""What templates exist for; a spec says which of these its processor has instructions for."""


@dataclass(frozen=True)
class Isa:
    """What a template must know about an instruction set.

    ``bits`` is the vector width, ``registers`` the number of vector registers. Dot products have their names in
    dot.py; ``""`` means none.
    """

    name: str
    bits: int
    registers: int
    mcpu: str = field(default="", repr=False)  # LLVM's name of the oldest x86 processor that has all of it
    features: tuple[str, ...] = field(default=(), repr=False)  # LLVM's names of what mcpu does not imply
    arm: bool = False  # rounds, clamps and narrows as in epilogue_arm.py, else as in epilogue_x86.py
    exact_dot: str = "maddwd"  # exact for all 8-bit integers
    fast_dots: tuple[str, ...] = ()  # faster ones, fastest first, for weights whose sums stay within 16 bits
    fast_depthwise: tuple[str, ...] = ()  # the same for depthwise kernels
    fast_depthwise_below: int | None = None  # channels; None: any number
    bf16_dot: str = ""
    fp16_dot: str = ""
    lane_dots: frozenset[str] = frozenset()  # those that take one lane of a vector as a factor
    tiles: bool = False  # has instructions that multiply whole tiles (AMX)
    lookup: str = ""  # how 256-entry tables are read from registers: "vbmi", "tbl" (lookup.py)
    narrows_bf16: bool = False  # has an instruction that rounds float32 to bfloat16
    narrows: int = 1  # how many vectors of sums are narrowed to one vector of bytes together
    steps_ahead: int = 0  # how many reduction steps ahead weights are prefetched: some hundred cycles; 0: not at all
    shared_issue: bool = False  # loads take issue slots from arithmetic: small cores

    @property
    def lanes(self) -> int:
        """32-bit lanes in one vector."""
        return self.bits // 32

    def fit(self, channels: int) -> Isa:
        """The same instructions on the widest vectors (not under 128 bits) that ``channels`` lanes fill."""
        bits = self.bits
        while bits > 128 and bits // 32 > channels:
            bits //= 2
        return replace(self, bits=bits)


_SUMS = ("smull7", "smull")
_LANES = frozenset({"sdot", "usdot", "bfdot", "fma", "half"})

AVX2 = Isa("x86-avx2", 256, 16, "haswell", fast_dots=("maddubs",), fast_depthwise=("maddubs",), steps_ahead=32)
AVX_VNNI = Isa("x86-avx-vnni", 256, 16, "alderlake", exact_dot="vnni", steps_ahead=32)
AVX512_VNNI = Isa("x86-avx512-vnni", 512, 32, "cascadelake", exact_dot="vnni", steps_ahead=32)
AVX512_BF16 = replace(
    AVX512_VNNI,
    name="x86-avx512-bf16",
    mcpu="cooperlake",
    features=("avx512vbmi",),
    bf16_dot="bf16",
    lookup="vbmi",
)
AMX = replace(AVX512_BF16, name="x86-amx", mcpu="sapphirerapids", tiles=True)
NEON = Isa(
    "arm-neon",
    128,
    32,
    arm=True,
    exact_dot="mlal16",
    fast_dots=_SUMS,
    fast_depthwise=_SUMS,
    lane_dots=_LANES,
    lookup="tbl",
    narrows=4,
    shared_issue=True,
)
DOTPROD = replace(
    NEON,
    name="arm-dotprod",
    exact_dot="sdot",
    fast_dots=(),
    fast_depthwise_below=16,  # a dot product of rows would have to interleave fewer channels one by one
    fp16_dot="half",
)
I8MM = replace(DOTPROD, name="arm-i8mm", exact_dot="usdot", bf16_dot="bfdot", narrows_bf16=True)

FAMILIES: Mapping[str, Isa] = {
    isa.name: isa for isa in (AVX2, AVX_VNNI, AVX512_VNNI, AVX512_BF16, AMX, NEON, DOTPROD, I8MM)
}
