"""Single kernels against the processor's peaks, and 7-bit weights against 8-bit ones where `vpmaddubsw` saturates.

    python benchmarks/kernels.py

Every instruction set that this processor runs, one core. AVX2 is compiled for Haswell.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, markdown, provenance, write_table
from peaks import copy_bandwidth, dot_peak

from hago.kernels.cpu.dense import DenseParams, dense, pack_channels, pack_weights
from hago.kernels.cpu.depthwise import DepthwiseParams, depthwise, pack_depthwise_channels, pack_depthwise_weights
from hago.kernels.cpu.dot import DOTS
from hago.kernels.cpu.epilogue import bounds, zeros
from hago.kernels.cpu.families import FAMILIES as ISAS
from hago.kernels.cpu.families import Isa
from hago.kernels.cpu.jit import jit
from hago.kernels.cpu.tiles import tiled
from hago.runtime.processor import missing_features
from hago.spec import load_spec

SHAPES = {
    "3x3, 256 to 256, 28x28": DenseParams("", "uint8", 1, 28, 28, 256, 256, (3, 3), (1, 1), (1, 1, 1, 1)),
    "3x3, 64 to 64, 56x56": DenseParams("", "uint8", 1, 56, 56, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1)),
    "1x1, 256 to 256, 28x28": DenseParams("", "uint8", 1, 28, 28, 256, 256),
    "1x1, 64 to 256, 56x56": DenseParams("", "uint8", 1, 56, 56, 64, 256),
}
DEPTHWISE = {
    "depthwise 3x3, 64, 112x112": DepthwiseParams("", "uint8", 1, 112, 112, 64, (3, 3), (1, 1), (1, 1, 1, 1)),
    "depthwise 3x3, 256, 28x28": DepthwiseParams("", "uint8", 1, 28, 28, 256, (3, 3), (1, 1), (1, 1, 1, 1)),
}


def main() -> None:
    options = arguments(__doc__, out=Path("reports/kernels.md")).parse_args()
    rows: list[dict[str, Any]] = []
    for isa in ISAS.values():
        if missing_features(load_spec(isa.name).cpu_features):
            print(f"{isa.name}: not on this processor", flush=True)
            continue
        for dot in _dots(isa):
            for name, params in (*SHAPES.items(), *DEPTHWISE.items()):
                if isinstance(params, DepthwiseParams) and DOTS[dot].tiles:
                    continue
                rows.append(measure(name, params, dot, isa))
                print(" ".join(cells(rows[-1])), flush=True)
    text = "# Kernels against the peak\n\n" + _INTRODUCTION + markdown(_HEAD, [cells(row) for row in rows])
    text += "\n" + seven_bits(rows) + "\n" + provenance(1) + "\n"
    write_table(options.out, text, rows)


_INTRODUCTION = """
One core, inputs in the cache. *Peak* is what a loop over registers alone reaches with the same instruction, for
depthwise kernels (which do little with each byte) the bandwidth of a copy that reads and writes as many bytes; both
measured in the same run. *Dots us*: what the kernel's dot products alone would take in that loop, those included that
a depthwise kernel wastes on the fourth row of a pack of four: no kernel can be faster. Requantization to 8 bits is part
of every integer kernel. Medians of 7 measurements.

"""
_HEAD = ["instruction set", "dot product", "kernel", "us", "dots us", "G multiply-adds/s", "GB/s", "of the peak"]


def _dots(isa: Isa) -> list[str]:
    """The dot products that distinguish an instruction set from the lesser ones."""
    if isa.tiles:
        return ["tile-u8s8", "tile-bf16"]
    if isa.exact_dot == "vnni":
        return [] if isa.lookup == "vbmi" else ["vnni", "fma"]
    return ["maddubs", "maddwd", "fma"]


def measure(name: str, params: Any, dot: str, isa: Isa) -> dict[str, Any]:
    kind, rng = DOTS[dot], np.random.default_rng(0)
    p = replace(params, dot=dot, out="uint8" if kind.integer else "float32")
    thin = isinstance(p, DepthwiseParams)
    o = p.c if thin else p.o

    def per_channel(values: np.ndarray) -> np.ndarray:
        return pack_depthwise_channels(values, p, isa) if thin else pack_channels(values, 1, isa)

    if kind.integer:
        x = rng.integers(0, 256, (p.n, p.h, p.w, p.c)).astype(np.uint8)
        w = rng.integers(-63, 64, (o, *p.kernel, 1 if thin else p.c)).astype(np.int8)
        numbers = [per_channel(np.full(o, 1e-4, np.float32)), zeros(7, 100), bounds(-100, 155)]
        bias = np.zeros(o, np.int32)
    else:
        x = rng.standard_normal((p.n, p.h, p.w, p.c)).astype(np.float32)
        w = rng.standard_normal((o, *p.kernel, 1 if thin else p.c)).astype(np.float32)
        numbers, bias = [bounds(-np.inf, np.inf)], np.zeros(o, np.float32)
        if kind.read_type == "uint16":  # bfloat16 is the upper half of a float32
            x, w = ((a.view(np.uint32) >> 16).astype(np.uint16) for a in (x, w))
    packed = pack_depthwise_weights(w[..., 0], p, isa) if thin else pack_weights(w, p, isa)
    y = np.zeros((p.n, p.oh, p.ow, o), p.out)
    kernel = jit(depthwise if thin else tiled if kind.tiles else dense, p, isa)
    seconds = kernel.time_s(x, packed, per_channel(bias), *numbers, y)
    moved = x.nbytes + packed.nbytes + y.nbytes
    # Rows of a depthwise kernel that only fill up a lane are multiplied, too.
    rows = -(-p.kernel[0] // kind.pack) * kind.pack / p.kernel[0] if thin else 1
    dots = p.macs * rows / dot_peak(dot, isa)
    best = moved / copy_bandwidth(moved // 2, isa) if thin else dots
    return {
        "isa": isa.name, "dot": dot, "kernel": name, "us": seconds * 1e6, "macs": p.macs, "bytes": moved,
        "dots_us": dots * 1e6, "peak": best / seconds,
    }  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    seconds = row["us"] * 1e-6
    return [
        row["isa"], row["dot"], row["kernel"], f"{row['us']:.1f}", f"{row['dots_us']:.1f}",
        f"{row['macs'] / seconds / 1e9:.0f}", f"{row['bytes'] / seconds / 1e9:.0f}", f"{100 * row['peak']:.0f} %",
    ]  # fmt: skip


def seven_bits(rows: list[dict[str, Any]]) -> str:
    """Without VNNI: what 7-bit weights save over 8-bit ones, which must be widened to 16 bits."""
    times = {(row["dot"], row["kernel"]): row["us"] for row in rows if row["isa"] == "x86-avx2"}
    found = [
        f"{name} {times['maddwd', name] / times['maddubs', name]:.2f}"
        for name in (*SHAPES, *DEPTHWISE)
        if ("maddwd", name) in times
    ]
    if not found:
        return ""
    return (
        "Without VNNI (AVX2, compiled for Haswell) 7-bit weights are faster than 8-bit ones by these factors: "
        + "; ".join(found)
        + ". 8-bit weights could leave int16 in `vpmaddubsw` and are widened to 16 bits first.\n"
    )


if __name__ == "__main__":
    main()
