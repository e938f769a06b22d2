"""Where a compiled network spends its time, layer by layer, against what the processor reaches at best.

    python benchmarks/profile.py --only tin200_mobilenetv2 --precision int8

Dot products are told as a share of a loop that does nothing else, everything else as a share of the bandwidth
of a copy of the same size; both are measured in the same run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import EVERY_MODEL, arguments, load_bundle, markdown, provenance, write_table
from peaks import copy_bandwidth, dot_peak
from runtimes import quantized

import hago
from hago.kernels import backend_of
from hago.kernels.common.calls import item_bytes
from hago.kernels.cpu.families import Isa
from hago.spec import resolve_hw
from hago.tensor import TensorType


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/profile.md"))
    parser.set_defaults(only=list(EVERY_MODEL))
    parser.add_argument("--precision", nargs="*", default=["int8", "float32"], choices=("int8", "float32"))
    parser.add_argument("--rows", type=int, default=12, help="kernels shown of each network (default: 12)")
    parser.add_argument("--hw", default="auto", help="hardware spec (default: this machine's)")
    options = parser.parse_args()
    spec = resolve_hw(options.hw)
    isa = backend_of(spec).families[spec.kernels or ""]
    peaks = Peaks(isa)
    text, data = "# Where the time goes\n" + _INTRODUCTION.format(isa=isa.name), []
    for name in options.only:
        for precision in options.precision:
            source = load_bundle(options.models, name)["model"]
            file = source if precision == "float32" else quantized(name, options, spec)
            rows = profile(hago.compile(file, hw=spec, threads=options.threads), peaks)
            data.append({"model": name, "precision": precision, "kernels": rows})
            total = sum(row["us"] for row in rows)
            print(f"{name} {precision}: {total:.0f} us in {len(rows)} kernels", flush=True)
            shown = sorted(rows, key=lambda row: -row["lost_us"])[: options.rows]
            text += f"\n## {name}, {precision}: {total:.0f} us in {len(rows)} kernels\n\n"
            text += markdown(_HEAD, [cells(row, total) for row in shown])
    text += "\n" + peaks.text() + "\n" + provenance(options.threads) + "\n"
    write_table(options.out, text, data)


_INTRODUCTION = """
Times of single kernels on zeros, each measured by itself, `{isa}`. *Peak*: for dot products the share of a loop over
registers alone, for all else the share of the bandwidth of a copy that reads and writes as many bytes. *Lost*: time
above 100 %. The kernels that lose the most come first.

"""
_HEAD = ["layer", "kernel", "shape", "us", "of network", "G multiply-adds/s", "GB/s", "peak", "lost us"]


class Peaks:
    """Peaks by instruction and by size, measured when first asked for."""

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self.dots: dict[str, float] = {}
        self.copies: dict[int, float] = {}

    def dot(self, name: str) -> float:
        if name not in self.dots:
            self.dots[name] = dot_peak(name, self.isa)
        return self.dots[name]

    def copy(self, nbytes: int) -> float:
        """Bytes per second of a copy that touches about as many bytes."""
        size = 1 << max(10, (max(nbytes, 1) // 2).bit_length())
        if size not in self.copies:
            self.copies[size] = copy_bandwidth(size, self.isa)
        return self.copies[size]

    def text(self) -> str:
        dots = ", ".join(f"{name} {peak / 1e9:.0f} G multiply-adds/s" for name, peak in sorted(self.dots.items()))
        copies = ", ".join(f"{size // 1024} KiB {speed / 1e9:.0f} GB/s" for size, speed in sorted(self.copies.items()))
        return f"Peaks of one core: {dots}. Copies (read and written): {copies}.\n"


def profile(net: Any, peaks: Peaks) -> list[dict[str, Any]]:
    """One row for each kernel call."""
    program = net._built.program
    steps = [step for step in program.steps if step.key is not None]
    rows = []
    for step, (layer, family, seconds) in zip(steps, net.kernel_times(), strict=True):
        params = step.call.params
        moved = sum(_nbytes(item, program.types) for item in (*step.inputs, *step.output))
        macs, dot = getattr(params, "macs", 0), getattr(params, "dot", None)
        best = moved / peaks.copy(moved)
        if macs and dot and family != "depthwise":
            best = max(best, macs / peaks.dot(dot))
        rows.append(
            {
                "layer": layer or "",
                "family": family + (f" {dot}" if dot else ""),
                "shape": _shape(params, step, program.types),
                "us": seconds * 1e6,
                "macs": macs,
                "bytes": moved,
                "peak": best / seconds,
                "lost_us": max(0.0, seconds - best) * 1e6,
            }
        )
    return rows


def _nbytes(item: Any, types: Any) -> int:
    kind = types[item] if isinstance(item, str) else TensorType(item.dtype.name, item.shape)
    return kind.size * item_bytes(kind.dtype)


def _shape(params: Any, step: Any, types: Any) -> str:
    if hasattr(params, "kernel") and hasattr(params, "h"):
        channels = f"{params.c}" + (f"->{params.o}" if hasattr(params, "o") else "")
        kernel = "x".join(map(str, params.kernel)) + (f"/{params.strides[0]}" if params.strides[0] > 1 else "")
        return f"{params.h}x{params.w}, {channels}, {kernel}"
    return "x".join(map(str, types[step.output[0]].shape))


def cells(row: dict[str, Any], total: float) -> list[str]:
    seconds = row["us"] * 1e-6
    return [
        row["layer"][-40:],
        row["family"],
        row["shape"],
        f"{row['us']:.1f}",
        f"{100 * row['us'] / total:.0f} %",
        f"{row['macs'] / seconds / 1e9:.0f}" if row["macs"] else "",
        f"{row['bytes'] / seconds / 1e9:.0f}",
        f"{100 * row['peak']:.0f} %",
        f"{row['lost_us']:.1f}",
    ]


if __name__ == "__main__":
    main()
