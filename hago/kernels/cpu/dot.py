"""The dot-product instructions that the dense templates are written with.

Each multiplies KP neighbouring reduction steps of one pixel (broadcast to all lanes) by the packed weights of
L output channels and adds the products to the lanes' accumulators:

    acc [L] += sum over k of a [L, KP] * w [L, KP]      a: the same KP elements in every lane

    vnni     u8 x s8, four steps, exact (vpdpbusd)
    maddubs  u8 x s8, four steps; pairs of products saturate at int16 (vpmaddubsw), so it is exact only for
             weights that `pairs_fit_int16` accepts, as it does all 7-bit weights
    maddwd   int16 x int16, two steps, exact (vpmaddwd): 8-bit values widened beforehand
    fma      float32, one step
    bf16     bfloat16, two steps, float32 accumulators (vdpbf16ps)

On Arm:

    sdot     s8 x s8, four steps, exact
    usdot    u8 x s8, four steps, exact
    smull    s8 x s8, eight steps: two products are added in int16 (smull, smlal), then neighbours in int32 (sadalp);
             exact for weights that `sums_fit_int16` accepts: all but -128 (see pairwise.py)
    smull7   the same with four products in int16, exact for all 7-bit weights
    mlal16   int16 x int16, one step, exact (smlal): 8-bit values widened beforehand
    bfdot    bfloat16, two steps, float32 accumulators
    half     float16, one step, eight channels, float16 accumulators (see float16.py)

Those on s8 x s8 read an unsigned activation's code less 128: nothing changes but the zero point.

Two more multiply whole tiles of up to 16 pixels by 16 output channels (AMX, see tiles.py); operands and results
are those of an instruction on vectors:

    tile-u8s8  of vnni (tdpbusd)
    tile-bf16  of bf16 (tdpbf16ps)

And two multiply pairs of pixels by pairs of channels (Arm, see pairs.py), with twice the products:

    usmmla  of usdot, eight steps
    bfmmla  of bfdot, four steps
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from .families import Isa
from .pairwise import TIMES, laid_out, llvm


@dataclass(frozen=True)
class Dot:
    """One instruction; ``cost`` counts the instructions of a step, for estimates."""

    name: str
    pack: int  # KP
    x_type: str  # as the kernel's input holds it
    read_type: str  # as the dot product reads it; if it differs, the kernel widens a copy first
    weight_numpy: np.dtype[Any]
    integer: bool
    cost: int
    tile_instruction: str = ""  # LLVM's name; empty for instructions on vectors
    shift: int = 0  # subtracted from an activation's code when it is read
    pairs: bool = False  # whether it multiplies pairs of pixels by pairs of channels
    terms: int = 0  # products that are first added up in int16 (pairwise.py); 0: none are

    @property
    def tiles(self) -> bool:
        """Whether it multiplies tiles."""
        return bool(self.tile_instruction)

    @property
    def half(self) -> bool:
        """Whether short sums are float16, of weights divided by a factor per channel."""
        return self.read_type == "float16"

    @property
    def widens(self) -> bool:
        """Whether the input is copied to a wider type first."""
        return self.x_type != self.read_type

    @property
    def narrow(self) -> bool:
        """Whether products are first added up in int16, which takes extra registers."""
        return self.terms > 0

    def weight_type(self, lanes: int) -> str:
        """TVM's type of one vector of packed weights [L*KP]."""
        return f"{self.weight_numpy.name}x{lanes * self.pack}"

    def load(self, x: Any, at: Any, lanes: int) -> Any:
        """KP elements of one pixel, broadcast to every lane: [L*KP]."""
        if self.pack == 1:
            return T.broadcast(x[at], lanes)
        if self.narrow:  # the copy holds every pair once per lane
            return x.vload([at * TIMES], f"int8x{lanes * self.pack}")
        packed = T.reinterpret("int32", x.vload([at], f"{self.read_type}x{self.pack}"))
        # LLVM has no unsigned types: its intrinsics on bytes take int8 for TVM.
        wide = f"{'int8' if self.read_type == 'uint8' else self.read_type}x{lanes * self.pack}"
        return T.reinterpret(wide, T.broadcast(packed, lanes))

    def read(self, codes: Any, lanes: int = 1) -> Any:
        """``codes``, as memory holds them, in the type that the instruction reads."""
        kind = self.read_type if lanes == 1 else f"{self.read_type}x{lanes}"
        if self.shift:
            flip = T.Cast("uint8", T.int32(self.shift))
            return T.reinterpret(kind, T.bitwise_xor(codes, flip if lanes == 1 else T.broadcast(flip, lanes)))
        return T.Cast(kind, codes)

    def load_row(self, x: Any, at: Any, lanes: int) -> Any:
        """``lanes`` packed steps of one pixel, for `spread`: [lanes], each lane the KP elements of one step."""
        if self.pack == 1:
            return x.vload([at], f"{self.read_type}x{lanes}")
        return T.reinterpret(f"int32x{lanes}", x.vload([at], f"{self.read_type}x{lanes * self.pack}"))

    def spread(self, row: Any, step: int, lanes: int) -> Any:
        """What `load` gives for one of the steps in a row: [L*KP]. Arm's instructions take one lane as a factor."""
        lane = T.Shuffle([row], [step] * lanes)
        kind = "int8" if self.integer else self.read_type
        return lane if self.pack == 1 else T.reinterpret(f"{kind}x{lanes * self.pack}", lane)

    def laid_out(self, packed: np.ndarray) -> np.ndarray:
        """Packed weights [.., L*KP], channel by channel, in the order that the instruction takes."""
        return laid_out(packed) if self.narrow else packed

    def step(self, isa: Isa, acc: Any, a: Any, w: Any) -> Any:
        """``acc`` [L] plus the products of ``a`` and ``w`` [L*KP], those of a lane added up."""
        return _STEPS[self.name](isa, acc, a, w)

    def half_step(self, acc: Any, x: Any, at: Any, w: Any) -> Any:
        """The first half of a step of a `narrow` instruction; ``w`` [L*KP/2] are its weights."""
        return T.call_extern("int32x4", "hago_half", acc, x.vload([at * TIMES], "int8x16"), w)

    @contextmanager
    def scope(self, isa: Isa) -> Iterator[None]:
        """Encloses all steps: defines the functions that TVM's own types cannot express."""
        if self.narrow:
            with T.attr(T.int32(0), "pragma_import_llvm", llvm(self.terms)):
                yield
            return
        if self.name not in _BF16_LLVM:
            yield
            return
        # TVM turns bfloat16 into uint16 before LLVM sees it, but the intrinsic wants LLVM's bfloat.
        names = {"name": f"hago_{self.name}_{isa.bits}", "llvm": _BF16_LLVM[self.name].format(bits=isa.bits)}
        code = _BF16_CODE.format(**names, lanes=isa.lanes, n=isa.lanes * 2)
        with T.attr(T.int32(0), "pragma_import_llvm", code):
            yield


Step = Callable[[Isa, Any, Any, Any], Any]
"""(instruction set, acc [L], a [L*KP], w [L*KP]) -> acc [L]."""


def _fma(kind: str) -> Step:
    return lambda isa, acc, a, w: T.call_llvm_pure_intrin(f"{kind}x{isa.lanes}", "llvm.fma", a, w, acc)


def _vnni(isa: Isa, acc: Any, a: Any, w: Any) -> Any:
    return T.call_llvm_pure_intrin(f"int32x{isa.lanes}", f"llvm.x86.avx512.vpdpbusd.{isa.bits}", acc, a, w)


def _maddwd(isa: Isa, acc: Any, a: Any, w: Any) -> Any:
    """int16 [2 L] x int16 [2 L] -> int32 [L]: two products in each lane."""
    return acc + T.call_llvm_pure_intrin(f"int32x{isa.lanes}", _MADDWD[isa.bits], a, w)


def _maddubs(isa: Isa, acc: Any, a: Any, w: Any) -> Any:
    """u8 [4 L] x s8 [4 L] -> int16 [2 L], whose neighbours a product with ones then adds up."""
    pairs = T.call_llvm_pure_intrin(f"int16x{isa.lanes * 2}", _MADDUBS[isa.bits], a, w)
    return _maddwd(isa, acc, pairs, T.broadcast(T.int16(1), isa.lanes * 2))


def _mlal16(isa: Isa, acc: Any, a: Any, w: Any) -> Any:
    kind = f"int32x{isa.lanes}"
    return acc + T.Cast(kind, a) * T.Cast(kind, w)


def _neon(name: str, weights_first: bool = False) -> Step:
    """Arm's sdot, usdot, usmmla. The factor that may be one lane of a register comes second, or is the unsigned one."""

    def step(isa: Isa, acc: Any, a: Any, w: Any) -> Any:
        factors = (w, a) if weights_first else (a, w)
        return T.call_llvm_pure_intrin(f"int32x{isa.lanes}", f"llvm.aarch64.neon.{name}.v4i32.v16i8", acc, *factors)

    return step


def _bfloat16(name: str) -> Step:
    """By the function that `Dot.scope` defines."""
    return lambda isa, acc, a, w: T.call_extern(f"float32x{isa.lanes}", f"hago_{name}_{isa.bits}", acc, a, w)


def _narrow(isa: Isa, acc: Any, a: Any, w: Any) -> Any:
    """By the function that `Dot.scope` defines."""
    return T.call_extern(f"int32x{isa.lanes}", "hago_step", acc, a, w)


_STEPS: Mapping[str, Step] = {
    "vnni": _vnni,
    "maddubs": _maddubs,
    "maddwd": _maddwd,
    "fma": _fma("float32"),
    "bf16": _bfloat16("bf16"),
    "sdot": _neon("sdot", weights_first=True),
    "usdot": _neon("usdot"),
    "smull": _narrow,
    "smull7": _narrow,
    "mlal16": _mlal16,
    "bfdot": _bfloat16("bfdot"),
    "half": _fma("float16"),
    "usmmla": _neon("usmmla"),
    "bfmmla": _bfloat16("bfmmla"),
}
_MADDUBS = {
    512: "llvm.x86.avx512.pmaddubs.w.512",
    256: "llvm.x86.avx2.pmadd.ub.sw",
    128: "llvm.x86.ssse3.pmadd.ub.sw.128",
}
_MADDWD = {
    512: "llvm.x86.avx512.pmaddw.d.512",
    256: "llvm.x86.avx2.pmadd.wd",
    128: "llvm.x86.sse2.pmadd.wd",
}
_BF16_LLVM = {
    "bf16": "llvm.x86.avx512bf16.dpbf16ps.{bits}",
    "bfdot": "llvm.aarch64.neon.bfdot.v4f32.v8bf16",
    "bfmmla": "llvm.aarch64.neon.bfmmla",
}
_BF16_CODE = """
declare <{lanes} x float> @{llvm}(<{lanes} x float>, <{n} x bfloat>, <{n} x bfloat>)
define <{lanes} x float> @{name}(<{lanes} x float> %c, <{n} x i16> %a, <{n} x i16> %b) alwaysinline {{
  %x = bitcast <{n} x i16> %a to <{n} x bfloat>
  %y = bitcast <{n} x i16> %b to <{n} x bfloat>
  %r = call <{lanes} x float> @{llvm}(<{lanes} x float> %c, <{n} x bfloat> %x, <{n} x bfloat> %y)
  ret <{lanes} x float> %r
}}
"""

_I8, _I16 = np.dtype(np.int8), np.dtype(np.int16)
_BF16 = np.dtype(np.uint16)  # memory holds bfloat16 as its bits, and kernels take them so
DOTS = {
    dot.name: dot
    for dot in (
        Dot("vnni", 4, "uint8", "uint8", _I8, True, 1),
        Dot("maddubs", 4, "uint8", "uint8", _I8, True, 3),
        Dot("maddwd", 2, "uint8", "int16", _I16, True, 2),
        Dot("fma", 1, "float32", "float32", np.dtype(np.float32), False, 1),
        Dot("bf16", 2, "uint16", "uint16", _BF16, False, 1),
        Dot("sdot", 4, "uint8", "int8", _I8, True, 1, shift=128),
        Dot("usdot", 4, "uint8", "uint8", _I8, True, 1),
        Dot("smull", 8, "uint8", "int8", _I8, True, 6, shift=128, terms=2),
        Dot("smull7", 8, "uint8", "int8", _I8, True, 5, shift=128, terms=4),
        Dot("mlal16", 1, "uint8", "int16", _I16, True, 1),
        Dot("bfdot", 2, "uint16", "uint16", _BF16, False, 1),
        Dot("half", 1, "float16", "float16", np.dtype(np.float16), False, 1),
        Dot("usmmla", 8, "uint8", "uint8", _I8, True, 1, pairs=True),
        Dot("bfmmla", 4, "uint16", "uint16", _BF16, False, 1, pairs=True),
        Dot("tile-u8s8", 4, "uint8", "uint8", _I8, True, 1, "llvm.x86.tdpbusd"),
        Dot("tile-bf16", 2, "uint16", "uint16", _BF16, False, 1, "llvm.x86.tdpbf16ps"),
    )
}


def pairs_fit_int16(packed: np.ndarray) -> bool:
    """Whether no pair of products 255*w0 + 255*w1 of neighbouring packed weights leaves int16.

    ``packed`` is int8 with an even last axis. True for all weights in [-64, 64].
    """
    pairs = packed.astype(np.int32).reshape(-1, 2)
    high = np.maximum(pairs, 0).sum(1).max(initial=0)
    low = np.minimum(pairs, 0).sum(1).min(initial=0)
    return bool(255 * high <= 32767 and 255 * low >= -32768)
