"""Runs the networks and kernels of this folder on the machine's GPU, and writes what it finds as JSON.

    python3 run.py                      # eight minutes at most; results in results/
    python3 run.py --only times --seconds 120

Needs Python 3.12, numpy and NVIDIA's driver, no network and no compiler; PyTorch, ONNX Runtime and TensorRT are
measured where they are installed. Each stage is a process of its own that writes results/STAGE.json as soon as it has
something, so a stage that fails or takes too long costs the others nothing. results/gpu.json has all of them:
`hago report --gpu results/gpu.json` shows it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

from bundle import Bundle, Notes, read_bundle
from stages import STAGES, Stage

HERE = Path(__file__).resolve().parent
FORMAT = 1
_GRACE_S = 10  # a stage stops by itself in time; this long after that it is stopped


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--bundle", type=Path, default=HERE, help="the folder (default: that of this script)")
    add("--out", type=Path, help="folder for the results (default: results, in the bundle)")
    add("--seconds", type=float, default=460.0, help="for everything (default: %(default)s)")
    add("--only", nargs="*", choices=[stage.name for stage in STAGES], help="these stages alone")
    add("--device", default="gpu", help="the module that runs networks (default: %(default)s)")
    options = parser.parse_args()
    began = time.monotonic()
    out = options.out or options.bundle / "results"
    out.mkdir(parents=True, exist_ok=True)
    bundle = read_bundle(options.bundle, out / "unpacked")
    sys.path.insert(0, str(bundle.files / "site"))
    device = importlib.import_module(options.device)
    ends = {stage.name: _run(stage, bundle, device, out, began + options.seconds) for stage in _chosen(options.only)}
    return _summary(bundle, out, ends, time.monotonic() - began)


def _chosen(only: list[str] | None) -> list[Stage]:
    return [stage for stage in STAGES if only is None or stage.name in only]


def _run(stage: Stage, bundle: Bundle, device: Any, out: Path, end: float) -> str:
    """Runs one stage in a process of its own; returns how it ended."""
    seconds = min(stage.seconds, end - time.monotonic())
    (out / f"{stage.name}.json").unlink(missing_ok=True)
    if seconds < stage.least:
        return _told(stage, "no time left", 0.0)
    began = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=_work, args=(stage, bundle, device, out, seconds))
    process.start()
    process.join(seconds + _GRACE_S)
    if process.is_alive():
        process.kill()
        process.join()
        return _told(stage, f"stopped after {seconds + _GRACE_S:.0f} s", time.monotonic() - began)
    code = process.exitcode
    how = "done" if code == 0 else "failed" if code == 1 else f"ended by signal {-(code or 0)}"
    return _told(stage, how, time.monotonic() - began)


def _work(stage: Stage, bundle: Bundle, device: Any, out: Path, seconds: float) -> None:
    notes = Notes(out / f"{stage.name}.json", seconds)
    try:
        stage.run(bundle, device, notes)
    except BaseException as error:
        notes.failed("stage", error)
        sys.exit(1)
    finally:
        notes.write()


def _told(stage: Stage, how: str, seconds: float) -> str:
    print(f"{stage.name}: {how}, {seconds:.1f} s", flush=True)
    return how


def _summary(bundle: Bundle, out: Path, ends: dict[str, str], seconds: float) -> int:
    """Writes gpu.json and prints one line; returns the exit code."""
    found = {}
    for stage in STAGES:
        path = out / f"{stage.name}.json"
        if path.is_file():
            found[stage.name] = json.loads(path.read_text())
    about = {key: bundle.manifest[key] for key in ("made", "commit", "hw", "arch", "models", "not_built")}
    kept = ("name", "model", "precision", "batch", "strategy")
    about["networks"] = [{key: entry[key] for key in kept} for entry in bundle.networks]
    data = {"hago_gpu_results": FORMAT, "bundle": about, "ends": ends, "seconds": round(seconds, 1), **found}
    (out / "gpu.json").write_text(json.dumps(data))
    exact = found.get("exactness", {}).get("networks", {}).values()
    right = sum(bool(one.get("right")) for one in exact)
    print(f"{right} of {len(bundle.networks)} networks right; {_ways(ends)}; {seconds:.0f} s; {out / 'gpu.json'}")
    return 0 if set(ends.values()) <= {"done"} and right == len(bundle.networks) else 1


def _ways(ends: dict[str, str]) -> str:
    bad = [f"{name} {how}" for name, how in ends.items() if how != "done"]
    return f"stages: {', '.join(bad)}" if bad else "all stages done"


if __name__ == "__main__":
    sys.exit(main())
