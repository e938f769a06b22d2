"""Kernels for newer x86 processors on one that has AVX2 and no more.

A template is compiled for AVX2, as it is, to LLVM's IR, where LLVM splits wide vectors by itself. What is left are
the instructions that templates name. Those that AVX2 lacks get their meaning: a function of the same name, written
in plain IR after Intel's manual (Software Developer's Manual, volume 2; AMX: Architecture Instruction Set Extensions).
So all of a template runs, and a numpy reference can hold it to the bit, wherever the tests do.

Tiles (AMX) lie in memory of the module: one thread at a time may run such a kernel.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import tvm
from tvm.target import Target

from hago.kernels.cpu.families import AVX2
from hago.kernels.cpu.jit import Jitted, missing
from hago.kernels.cpu.pipeline import compile_template
from hago.spec import HardwareSpec, load_spec

_TARGET = Target(dict(load_spec(AVX2.name).target))


class Emulated(Jitted):
    """A kernel for a newer processor, to be called like one of this processor's."""

    def __init__(self, function: Any, *, general: bool = False) -> None:
        self.primfunc, self._missing = function, missing(AVX2)
        self.executable = _compiled(function, "kernel", _TARGET, general=general)
        self._call = self.executable.mod["kernel"]


def emulated(spec: HardwareSpec) -> HardwareSpec:
    """The spec, for `emulation`: its kernels, compiled for this processor."""
    old = load_spec(AVX2.name)
    return replace(spec, target=old.target, cpu_features=old.cpu_features)


@contextmanager
def emulation() -> Iterator[None]:
    """Where networks for `emulated` specs can be built and run."""
    with mock.patch("hago.kernels.cpu.backend.compile_template", _compiled):
        yield


def _compiled(function: Any, name: str, target: Target, *, general: bool = False) -> Any:
    compiled = compile_template(function, name, target, general=general)
    if str(target) != str(_TARGET):
        return compiled
    module = compiled.mod
    text = str(module.inspect_source("ll"))
    code = with_meanings(text)
    if code == text:
        return compiled
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "kernel.ll"
        file.write_text(code)
        return SimpleNamespace(mod=tvm.runtime.load_module(str(file)))


def with_meanings(code: str) -> str:
    """LLVM IR with a function for every instruction that AVX2 lacks."""
    code = code.replace("bfloat", "i16")  # templates hand them on without computing; LLVM would call libraries for it
    added: set[str] = set()
    while wanted := {name for name in re.findall(r"@([\w.]+)", code) if name in _MEANINGS} - added:
        added |= wanted
        code += "".join(_MEANINGS[name] for name in sorted(wanted))
    for name in added:
        code = re.sub(rf"^declare .*@{re.escape(name)}\(.*\n", "", code, flags=re.MULTILINE)
        code = re.sub(rf"@{re.escape(name)}\b(?![.\w])", f"@emulated.{name}", code)  # LLVM keeps "llvm." for itself
    return code


def _shuffled(result: str, source: str, kind: str, size: int, indices: Sequence[int]) -> str:
    first, second = f"{source}, {source}".split(", ")[:2]
    picked = ", ".join(f"i32 {i}" for i in indices)
    vector = f"<{size} x {kind}>"
    return f"  {result} = shufflevector {vector} {first}, {vector} {second}, <{len(indices)} x i32> <{picked}>\n"


def _dot(name: str, lanes: int, kinds: Sequence[str], code: str, steps: Sequence[int]) -> str:
    """acc + the products of neighbouring elements, in the order ``steps``; ``code`` makes them of %a and %b."""
    a, b, acc, add = kinds
    count = lanes * len(steps)
    sums = f"<{lanes} x {acc}>"
    lines = [f"define internal {sums} @{name}({sums} %s0, <{count} x {a}> %a, <{count} x {b}> %b) {{\n"]
    lines.append(code.replace("{n}", str(count)))
    for at, step in enumerate(steps):
        lines.append(_shuffled(f"%p{at}", "%p", acc, count, range(step, count, len(steps))))
        lines.append(f"  %s{at + 1} = {add} {sums} %s{at}, %p{at}\n")
    return "".join(lines) + f"  ret {sums} %s{len(steps)}\n}}\n"


def _halves(name: str, half: str, inputs: Sequence[tuple[int, str]], output: tuple[int, str], *, mask: str = "") -> str:
    """An instruction on 512 bits as the one on 256, twice; (elements, type) of 512 bits each."""
    count, kind = output
    given = ", ".join(f"<{n} x {t}> %x{i}" for i, (n, t) in enumerate(inputs))
    code = f"define internal <{count} x {kind}> @{name}({given}{mask}) {{\n"
    for part, start in (("low", 0), ("high", 1)):
        halved = []
        for i, (n, t) in enumerate(inputs):
            code += _shuffled(f"%{part}{i}", f"%x{i}", t, n, range(start * n // 2, (start + 1) * n // 2))
            halved.append(f"<{n // 2} x {t}> %{part}{i}")
        code += f"  %{part} = call <{count // 2} x {kind}> @{half}({', '.join(halved)})\n"
    code += _shuffled("%both", "%low, %high", kind, count // 2, range(count))
    if mask:
        code += f"  %bits = bitcast i{count} %mask to <{count} x i1>\n"
        code += f"  %y = select <{count} x i1> %bits, <{count} x {kind}> %both, <{count} x {kind}> %old\n"
    return code + f"  ret <{count} x {kind}> %{'y' if mask else 'both'}\n}}\n"


_BYTES = (
    "  %x = zext <{n} x i8> %a to <{n} x i32>\n  %y = sext <{n} x i8> %b to <{n} x i32>\n"
    "  %p = mul <{n} x i32> %x, %y\n"
)
_BFLOATS = (
    "".join(
        f"  %{x}0 = zext <{{n}} x i16> %{a} to <{{n}} x i32>\n  %{x}1 = shl <{{n}} x i32> %{x}0, splat (i32 16)\n"
        f"  %{x} = bitcast <{{n}} x i32> %{x}1 to <{{n}} x float>\n"
        for x, a in (("x", "a"), ("y", "b"))
    )
    + "  %p = fmul <{n} x float> %x, %y\n"
)


def _permuted() -> str:
    """Bytes picked from two tables: bit 6 of an index tells which."""
    bytes_ = "<64 x i8>"
    lines = [
        f"define internal {bytes_} @llvm.x86.avx512.vpermi2var.qi.512({bytes_} %a, {bytes_} %at, {bytes_} %b) {{",
        f"  %tables = alloca [2 x {bytes_}]",
        f"  store {bytes_} %a, ptr %tables",
        f"  %second = getelementptr i8, ptr %tables, i64 64\n  store {bytes_} %b, ptr %second",
        f"  %masked = and {bytes_} %at, splat (i8 127)",
    ]
    for i in range(64):
        old = f"%y{i}" if i else "poison"
        lines += [
            f"  %i{i} = extractelement {bytes_} %masked, i64 {i}\n  %w{i} = zext i8 %i{i} to i64",
            f"  %q{i} = getelementptr i8, ptr %tables, i64 %w{i}\n  %v{i} = load i8, ptr %q{i}",
            f"  %y{i + 1} = insertelement {bytes_} {old}, i8 %v{i}, i64 {i}",
        ]
    return "\n".join([*lines, f"  ret {bytes_} %y64\n}}\n"])


_TILE_ROW = """
define internal ptr @tile.row(i8 %t, i64 %row) {
  %i = zext i8 %t to i64
  %tile = shl i64 %i, 10
  %line = shl i64 %row, 6
  %at = add i64 %tile, %line
  %p = getelementptr i8, ptr @tile.data, i64 %at
  ret ptr %p
}
"""
_TILE_ROWS = """
define internal i64 @tile.rows(i8 %t) {
  %i = zext i8 %t to i64
  %at = add i64 %i, 48
  %p = getelementptr i8, ptr @tile.shapes, i64 %at
  %v = load i8, ptr %p
  %rows = zext i8 %v to i64
  ret i64 %rows
}
"""
_TILE_BYTES = """
define internal i64 @tile.bytes(i8 %t) {
  %i = zext i8 %t to i64
  %even = shl i64 %i, 1
  %at = add i64 %even, 16
  %p = getelementptr i8, ptr @tile.shapes, i64 %at
  %v = load i16, ptr %p
  %bytes = zext i16 %v to i64
  ret i64 %bytes
}
"""
_SET_SHAPES = """
define internal void @llvm.x86.ldtilecfg(ptr %p) {
  call void @llvm.memcpy.p0.p0.i64(ptr @tile.shapes, ptr %p, i64 64, i1 false)
  call void @llvm.memset.p0.i64(ptr @tile.data, i8 0, i64 8192, i1 false)
  ret void
}
"""
_GET_SHAPES = """
define internal void @llvm.x86.sttilecfg(ptr %p) {
  call void @llvm.memcpy.p0.p0.i64(ptr %p, ptr @tile.shapes, i64 64, i1 false)
  ret void
}
"""


def _moved_tile(name: str, to: str, source: str, clear: str = "") -> str:
    """A tile from or to memory, whose rows lie ``stride`` bytes apart."""
    return f"""
define internal void @{name}(i8 %t, ptr %p, i64 %stride) {{
start:
  %data = call ptr @tile.row(i8 %t, i64 0)
{clear}  %rows = call i64 @tile.rows(i8 %t)
  %bytes = call i64 @tile.bytes(i8 %t)
  br label %row
row:
  %r = phi i64 [0, %start], [%next, %row]
  %tile = call ptr @tile.row(i8 %t, i64 %r)
  %at = mul i64 %r, %stride
  %memory = getelementptr i8, ptr %p, i64 %at
  call void @llvm.memcpy.p0.p0.i64(ptr %{to}, ptr %{source}, i64 %bytes, i1 false)
  %next = add i64 %r, 1
  %more = icmp ult i64 %next, %rows
  br i1 %more, label %row, label %end
end:
  ret void
}}
"""


def _tile_product(name: str, step: str, acc: str, wide: str) -> str:
    """C += A B: every row of C by ``step``, over the groups of four bytes of a row of A and the rows of B."""
    return f"""
define internal void @{name}(i8 %c, i8 %a, i8 %b) {{
start:
  %rows = call i64 @tile.rows(i8 %c)
  %bytes = call i64 @tile.bytes(i8 %a)
  %steps = lshr i64 %bytes, 2
  br label %row
row:
  %m = phi i64 [0, %start], [%next.m, %stored]
  %sums.at = call ptr @tile.row(i8 %c, i64 %m)
  %a.at = call ptr @tile.row(i8 %a, i64 %m)
  %before = load {acc}, ptr %sums.at
  br label %step
step:
  %k = phi i64 [0, %row], [%next.k, %step]
  %sums = phi {acc} [%before, %row], [%after, %step]
  %four.at = getelementptr i32, ptr %a.at, i64 %k
  %four = load i32, ptr %four.at
  %once = insertelement <16 x i32> poison, i32 %four, i64 0
  %all = shufflevector <16 x i32> %once, <16 x i32> poison, <16 x i32> zeroinitializer
  %x = bitcast <16 x i32> %all to {wide}
  %b.at = call ptr @tile.row(i8 %b, i64 %k)
  %y = load {wide}, ptr %b.at
  %after = call {acc} @{step}({acc} %sums, {wide} %x, {wide} %y)
  %next.k = add i64 %k, 1
  %more.k = icmp ult i64 %next.k, %steps
  br i1 %more.k, label %step, label %stored
stored:
  store {acc} %after, ptr %sums.at
  %next.m = add i64 %m, 1
  %more.m = icmp ult i64 %next.m, %rows
  br i1 %more.m, label %row, label %end
end:
  ret void
}}
"""


def _meanings() -> dict[str, str]:
    found = {}
    for bits in (128, 256, 512):
        name = f"llvm.x86.avx512.vpdpbusd.{bits}"
        found[name] = _dot(name, bits // 32, ("i8", "i8", "i32", "add"), _BYTES, range(4))
        name = f"llvm.x86.avx512bf16.dpbf16ps.{bits}"
        found[name] = _dot(name, bits // 32, ("i16", "i16", "float", "fadd"), _BFLOATS, (1, 0))
    bytes_, words, ints, floats = (64, "i8"), (32, "i16"), (16, "i32"), (16, "float")
    for name, half, inputs, output in (
        ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx2.pmadd.ub.sw", [bytes_, bytes_], words),
        ("llvm.x86.avx512.pmaddw.d.512", "llvm.x86.avx2.pmadd.wd", [words, words], ints),
        ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx2.packssdw", [ints, ints], words),
        ("llvm.x86.avx512.packuswb.512", "llvm.x86.avx2.packuswb", [words, words], bytes_),
    ):
        found[name] = _halves(name, half, inputs, output)
    name = "llvm.x86.avx512.mask.cvtps2dq.512"  # the last number, 4, is the rounding mode in force
    mask = ", <16 x i32> %old, i16 %mask, i32 %rounding"
    found[name] = _halves(name, "llvm.x86.avx.cvt.ps2dq.256", [floats], ints, mask=mask)
    found["llvm.x86.avx512.vpermi2var.qi.512"] = _permuted()
    clear = "  call void @llvm.memset.p0.i64(ptr %data, i8 0, i64 1024, i1 false)\n"
    return found | {
        "tile.data": "\n@tile.data = internal global [8192 x i8] zeroinitializer, align 64\n",
        "tile.shapes": "\n@tile.shapes = internal global [64 x i8] zeroinitializer, align 64\n",
        "tile.row": _TILE_ROW,
        "tile.rows": _TILE_ROWS,
        "tile.bytes": _TILE_BYTES,
        "llvm.x86.ldtilecfg": _SET_SHAPES,
        "llvm.x86.sttilecfg": _GET_SHAPES,
        "llvm.x86.tileloadd64": _moved_tile("llvm.x86.tileloadd64", "tile", "memory", clear),
        "llvm.x86.tilestored64": _moved_tile("llvm.x86.tilestored64", "memory", "tile"),
        "llvm.x86.tdpbusd": _tile_product(
            "llvm.x86.tdpbusd", "llvm.x86.avx512.vpdpbusd.512", "<16 x i32>", "<64 x i8>"
        ),
        "llvm.x86.tdpbf16ps": _tile_product(
            "llvm.x86.tdpbf16ps", "llvm.x86.avx512bf16.dpbf16ps.512", "<16 x float>", "<32 x i16>"
        ),
    }


_MEANINGS = _meanings()
