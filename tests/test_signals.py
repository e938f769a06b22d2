"""SIGINT, SIGTERM and SIGHUP in the commands that are no search: one sentence, the code, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from hago.compiler.linker import linker
from hago.model import load_model
from hago.spec import resolve_hw

if linker() is None or not resolve_hw("auto").kernels_available:
    pytest.skip("a linker and kernels for this machine are needed", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent

# Where each command stands when the signal comes: in a function that it passes on its way, which says so and waits.
COMMANDS = {
    "inspect": ("inspect model.onnx", "hago.inspect", "inspect_model"),
    "quantize": ("quantize model.onnx --calibration samples.npz --out out.onnx", "hago.qdq", "quantize_model"),
    "compile": ("compile model.onnx --threads 1 --out model.so", "hago.compiler.built", "append_checksum"),
    "build": ("build model.onnx --hw x86-avx2 --out board", "hago.compiler.built", "append_checksum"),
    "run": ("run ready.so --data samples.npz --out outputs.npz", "os", "fsync"),
    "compare": ("compare model.onnx --data samples.npz --rounds 2 --out compared", "hago.compare", "compare"),
    "measure": (
        "measure model.onnx --strategy strategy.yaml --data samples.npz --devices local --out measured.json",
        "hago.device.measure_on",
        "measure_on",
    ),
}
SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"]

_WAITS = """
import importlib, sys, time
from hago.cli import main
module = importlib.import_module({module!r})
def waits(*arguments, **more):
    print("MARK", flush=True)
    time.sleep(120)
setattr(module, {name!r}, waits)
sys.exit(main({words!r}))
"""


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a kernel cache that is warm, and a model, samples, a strategy and a compiled network."""
    folder = tmp_path_factory.mktemp("signals")
    model, _ = tiny.write(folder)
    (folder / "temporary").mkdir()
    strategy = f"hago_strategy: 1\nmodel: {load_model(model).hash}\nhw: x86-avx2\nlayers: {{}}\n"
    (folder / "strategy.yaml").write_text(strategy)
    import hago

    loaded = hago.compile(str(model), threads=1, cache=folder / "cache" / "hago")
    loaded.save(folder / "ready.so")
    return folder


def left(folder: Path) -> set[str]:
    """All files and folders but those of the kernel cache, whose kernels are whole or not there."""
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if "cache" not in path.relative_to(folder).parts
    }


@pytest.mark.parametrize(("command", "number"), [(c, SIGNALS[i % 3]) for i, c in enumerate(COMMANDS)])
def test_a_signal_ends_a_command_at_once_and_cleanly(ready: Path, command: str, number: str) -> None:
    words, module, name = COMMANDS[command]
    before = left(ready)
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITS.format(module=module, name=name, words=words.split())],
        cwd=ready,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(ready / "cache"),
            "TMPDIR": str(ready / "temporary"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "MARK\n":
            break
    process.send_signal(getattr(signal, number))
    _, said = process.communicate(timeout=60)
    told = "Ctrl-C" if number == "SIGINT" else number
    assert process.returncode == 128 + getattr(signal, number), said
    assert said.splitlines()[-1] == f"stopped by {told}: what was not finished has not been written"
    assert "Traceback" not in said
    assert left(ready) == before
    cached = [path.name for path in (ready / "cache").rglob("*") if path.is_file()]
    assert all(name.endswith((".so", ".o", ".json")) and not name.startswith(".") for name in cached)
