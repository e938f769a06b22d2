"""The package for a board: the compiled network and a script that runs it, with only TVM's runtime and numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..compiler.build import cross_build
from ..compiler.cache import KernelCache
from ..files import write_atomic
from ..lower import lower
from ..model import Model
from ..result_files import LIBRARY_FILE, QDQ_FILE, SCRIPT_FILE
from ..spec import HardwareSpec
from ..tensor import TensorInfo

RUNNER = '''"""Runs model.so on samples: python run.py SAMPLES.npz (key x). Needs: pip install apache-tvm=={tvm} numpy.

Prints the median time of one call and, where the file has labels y, the share of right classes.
"""

import sys
import time
from pathlib import Path

import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine

INPUT, SHAPE, DTYPE, DEVICE = {name!r}, {shape!r}, {dtype!r}, {device!r}


def load() -> tuple[VirtualMachine, tvm.runtime.Device]:
    module = tvm.runtime.load_module(str(Path(__file__).with_name("model.so")))
    if DEVICE != "cpu":  # its code: one part after another, each after its length
        code = VirtualMachine(module, tvm.cpu())["hago_device_code"]().numpy().tobytes()
        attach = tvm.get_global_func(f"ffi.Module.load_from_bytes.{{DEVICE}}")
        while code:
            size, code = int.from_bytes(code[:8], "little"), code[8:]
            module.import_module(attach(code[:size]))
            code = code[size:]
    device = tvm.runtime.device(DEVICE)
    return VirtualMachine(module, device), device


def main() -> None:
    samples = np.load(sys.argv[1])
    machine, device = load()
    batch, times, classes = SHAPE[0], [], []
    for start in range(0, len(samples["x"]) - batch + 1, batch):
        x = np.ascontiguousarray(samples["x"][start : start + batch], DTYPE).reshape(SHAPE)
        begin = time.perf_counter()
        outputs = machine["main"](tvm.runtime.tensor(x, device))
        device.sync()
        times.append(time.perf_counter() - begin)
        classes.extend(outputs[0].numpy().reshape(batch, -1).argmax(axis=1))
    print(f"{{1e3 * np.median(times):.3f}} ms for one call ({{INPUT}} {{list(SHAPE)}}), {{len(times)}} calls")
    if "y" in samples:
        right = np.asarray(classes) == samples["y"][: len(classes)]
        print(f"top-1: {{100 * right.mean():.2f}} % of {{len(right)}}")


if __name__ == "__main__":
    main()
'''


@dataclass(frozen=True)
class Package:
    """A folder for one board."""

    folder: Path
    library: Path
    meta: dict[str, Any]


def make_package(
    model: Model, proto: onnx.ModelProto, spec: HardwareSpec, folder: Path, *, threads: int, cache: KernelCache
) -> Package:
    """Compiles ``proto`` (the model, or its QDQ form) and writes model.so, run.py and, if quantized, the QDQ file."""
    net = cross_build(lower(proto, spec), spec, threads=threads, cache=cache)
    library = folder / LIBRARY_FILE
    net.save(library)
    write_runner(model.inputs[0], folder, net.built.executor.kind)
    if proto is not model.proto:
        write_atomic(folder / QDQ_FILE, proto.SerializeToString())
    return Package(folder, library, dict(net.meta))


def write_runner(info: TensorInfo, folder: Path, device: str = "cpu") -> None:
    """Writes run.py, for a network with this (first) input on a device of TVM's kind ``device``."""
    from importlib.metadata import version

    text = RUNNER.format(
        tvm=version("apache-tvm"), name=info.name, shape=tuple(info.shape), dtype=info.dtype, device=device
    )
    write_atomic(folder / SCRIPT_FILE, text)
