"""The stages, in the order in which they run: (bundle, device, notes) -> what goes into results/STAGE.json.

``device`` is the module gpu.py, or one that stands in for it (`run.py --device`).
"""

from __future__ import annotations

import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import floors
import peers
import turns
from bundle import Bundle, Notes

_ASKED_OF_SMI = (
    "name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem",
    "clocks_event_reasons.active", "power.draw", "power.limit", "temperature.gpu", "utilization.gpu", "memory.used",
)  # fmt: skip
_PACKAGES = ("torch", "numpy", "triton", "onnxruntime", "onnxruntime-gpu", "tensorrt", "nvidia-cudnn-cu13")
_REPEATS = 5


@dataclass(frozen=True)
class Stage:
    """``seconds`` is what it may take, ``least`` what it needs to be worth starting."""

    name: str
    run: Callable[[Bundle, Any, Notes], None]
    seconds: float
    least: float = 5.0


def environment(bundle: Bundle, device: Any, notes: Notes) -> None:
    """What this machine is."""
    notes.put(smi(), "smi")
    machine = {"system": platform.platform(), "python": platform.python_version(), "processor": platform.processor()}
    notes.put(machine, "machine")
    notes.put({name: version for name in _PACKAGES if (version := _version(name))}, "packages")
    device.start()
    notes.put(device.describe(), "device")


def exactness(bundle: Bundle, device: Any, notes: Notes) -> None:
    """Every network's outputs against those expected: equal where they are integers, else within a tolerance."""
    device.start()
    for entry in bundle.networks:
        with _kept(notes, entry["name"]):
            if notes.left < 2:
                notes.put(True, "cut")
                return
            found = _compared(bundle, entry, device.open_network(bundle, entry))
            notes.put(found, "networks", entry["name"])
            if not found["right"]:
                print(f"  {entry['name']}: {found}", flush=True)


def _compared(bundle: Bundle, entry: Mapping[str, Any], network: Any) -> dict[str, Any]:
    import numpy as np

    inputs, expected = bundle.samples(entry["model"]), bundle.expected(entry)
    count, batch = len(expected[0]), entry["batch"]
    outputs: list[list[Any]] = [[] for _ in expected]
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch) % count
        feeds = {name: np.ascontiguousarray(array[rows]) for name, array in inputs.items()}
        for kept, output in zip(outputs, network.run(feeds), strict=True):
            kept.append(output.reshape(batch, -1))
    found = [np.concatenate(kept)[:count] for kept in outputs]
    wanted = [array.reshape(count, -1) for array in expected]
    wrong = sum(int((a != b).sum()) for a, b in zip(found, wanted, strict=True))
    told = {
        "exact": entry["exact"],
        "elements": sum(array.size for array in wanted),
        "wrong": wrong,
        "error": max(_error(a, b) for a, b in zip(found, wanted, strict=True)),
        "samples": count,
    }
    labels = bundle.labels(entry["model"])
    if labels is not None:
        told["classes_right"] = int((found[0].argmax(-1) == labels[:count]).sum())
    told["right"] = wrong == 0 if entry["exact"] else told["error"] <= entry["tolerance"]
    return told


def _error(found: Any, wanted: Any) -> float:
    """The largest difference, relative to the largest value."""
    import numpy as np

    a, b = found.astype(np.float64), wanted.astype(np.float64)
    worst = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
    return worst if np.isfinite(worst) else 1e30


def times(bundle: Bundle, device: Any, notes: Notes) -> None:
    """Every network beside PyTorch's eager mode and CUDA graphs, and beside ONNX Runtime, at each batch."""
    _beside(bundle, device, notes, [peers.eager, peers.graphs, peers.onnx_runtime], least=8.0)


def compiled(bundle: Bundle, device: Any, notes: Notes) -> None:
    """The same beside networks that PyTorch compiled, which takes long: the most important models alone."""
    _beside(bundle, device, notes, [peers.compiled], least=35.0)


def _beside(
    bundle: Bundle, device: Any, notes: Notes, kinds: Sequence[Callable[..., Iterator[Any]]], least: float
) -> None:
    torch = peers.torch_on(device.TORCH)
    if torch is None:
        notes.put("PyTorch is not installed, or finds no GPU", "errors", "torch")
    device.start(with_torch=torch is not None)
    notes.put(smi(), "smi_before")
    for model, batch, entries in bundle.groups():
        place = f"{model} b{batch}"
        if notes.left < least:
            notes.put(True, "cut")
            break
        contenders = []
        for entry in entries:
            with _kept(notes, entry["name"]):
                network = device.open_network(bundle, entry)
                network.run(bundle.samples(model, batch))
                contenders.append(turns.Contender(f"hago {entry['precision']}", network.seconds))
        for kind in kinds:
            with _kept(notes, f"{place} {kind.__name__}"):
                if torch is not None or kind is peers.onnx_runtime:
                    contenders += kind(torch, device.TORCH, bundle.graph(model), batch, notes)
        with _kept(notes, place):
            notes.put(turns.measured(contenders, notes), "networks", model, str(batch))
            notes.put(smi(), "smi_under_load")
        del contenders
        peers.freed(torch)


def kernels(bundle: Bundle, device: Any, notes: Notes) -> None:
    """Every kernel of every network by itself, against the least time for its bytes and for its operations."""
    device.start()
    about = device.describe()
    rate = device.copy_rate()
    notes.put(rate, "copied_bytes_per_s")
    peaks = floors.peaks(about)
    notes.put(peaks, "operations_per_s")
    known: dict[str, float] = {}
    for entry in bundle.networks:
        with _kept(notes, entry["name"]):
            if notes.left < 3:
                notes.put(True, "cut")
                return
            network, rows = device.open_network(bundle, entry), []
            for use in entry["kernels"]:
                if use["symbol"] not in known:
                    known[use["symbol"]] = min(network.kernel_seconds(use["symbol"], use["tensors"], _REPEATS))
                rows.append({**floors.row(use, rate, peaks), "seconds": known[use["symbol"]]})
            notes.put(rows, "networks", entry["name"])


def tune(bundle: Bundle, device: Any, notes: Notes) -> None:
    """Candidates of tiles, shape by shape: the time of each, and the best."""
    device.start()
    if not bundle.manifest["tune"]:
        return
    library = device.open_kernels(bundle)
    for shape in bundle.manifest["tune"]:
        if notes.left < 2:
            notes.put(True, "cut")
            return
        tried: list[dict[str, Any]] = []
        for one in shape["candidates"]:
            with _kept(notes, f"{shape['shape']} {one['tile']}"):
                least = min(library.kernel_seconds(one["symbol"], shape["tensors"], _REPEATS))
                tried.append({"tile": one["tile"], "key": one["key"], "seconds": least})
        tried.sort(key=lambda one: float(one["seconds"]))
        chosen = next((one["seconds"] for one in tried if one["key"] == shape["chosen"]), None)
        notes.put({"chosen_seconds": chosen, "tried": tried}, "shapes", shape["shape"])


STAGES = (
    Stage("environment", environment, 25.0, 1.0),
    Stage("exactness", exactness, 100.0),
    Stage("times", times, 140.0),
    Stage("kernels", kernels, 60.0),
    Stage("tune", tune, 60.0),
    Stage("compiled", compiled, 100.0, 40.0),
)


@contextmanager
def _kept(notes: Notes, where: str) -> Iterator[None]:
    """What fails in the block is noted, and the stage goes on."""
    try:
        with warnings.catch_warnings(record=True) as given:
            yield
    except Exception as error:
        notes.failed(where, error)
    for one in given:
        if one.category.__name__ == "HagoWarning":
            notes.put(str(one.message), "warnings", where)


def smi() -> dict[str, str]:
    """What nvidia-smi says of the first GPU; empty without it."""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(_ASKED_OF_SMI)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_ASKED_OF_SMI, (value.strip() for value in done.stdout.split(",")), strict=False))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
