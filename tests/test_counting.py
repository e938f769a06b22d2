"""Instructions counted in the emulator: of networks and of kernels, the same every time."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hago.compiler.build import cross_build
from hago.compiler.cache import KernelCache
from hago.compiler.executable import symbol
from hago.data import make_samples
from hago.device.counting import Counter, KernelTypes, arm_machine, count_instructions
from hago.device.emulated import sysroot
from hago.errors import DeviceError
from hago.lower import lower
from hago.model import load_model
from hago.qdq import Quantizer
from hago.spec import load_spec, resolve_hw
from hago.strategy import uniform
from hago.tuning.calibrating import calibrate_model

pytestmark = [
    pytest.mark.aarch64,
    pytest.mark.skipif(
        sysroot() is None or not shutil.which("qemu-aarch64") or not (shutil.which("cc") or shutil.which("gcc")),
        reason="counting needs scripts/aarch64_sysroot.py, qemu-aarch64 (Debian: qemu-user) and a C compiler",
    ),
]
SPEC = "arm-cortex-a76"
DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"
Kernels = list[tuple[str, KernelTypes]]


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    with Counter(SPEC) as counter:
        yield counter


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Kernels]]:
    """The example in both precisions: the saved network, and symbol and arguments of each kernel call."""
    place = tmp_path_factory.mktemp("networks")
    cache = KernelCache(place / "kernels")
    model, host, spec = load_model(DIGITS / "model.onnx"), resolve_hw("auto"), load_spec(SPEC)
    with np.load(DIGITS / "samples.npz") as file:
        samples = make_samples(file["x"].astype(np.float32)[:16], model.inputs)
    quantizer = Quantizer(model, calibrate_model(model, samples, host, cache=cache), spec)
    protos = {"int8": quantizer.qdq(uniform(model, spec)), "float32": model.proto}
    return {name: saved(proto, spec, cache, place / f"{name}.so") for name, proto in protos.items()}


def saved(proto: onnx.ModelProto, spec: Any, cache: KernelCache, library: Path) -> tuple[Path, Kernels]:
    network = cross_build(lower(proto, spec), spec, threads=1, cache=cache)
    network.save(library)
    program, kernels = network.built.program, []
    for step in program.steps:
        if step.key is not None:
            kinds = [program.types[i] if isinstance(i, str) else i for i in (*step.inputs, *step.output)]
            kernels.append((symbol(step.key), [(str(kind.dtype), tuple(kind.shape)) for kind in kinds]))
    return library, kernels


def test_counts_are_the_same_every_time_and_fewer_in_int8(
    counter: Counter, networks: dict[str, tuple[Path, Kernels]]
) -> None:
    (int8, _), (float32, _) = networks["int8"], networks["float32"]
    first, other, second = counter.count(int8), counter.count(float32), counter.count(int8)
    assert first == second == count_instructions(int8, SPEC)
    assert first.by_class["dot"] > 0 and other.by_class["dot"] == 0
    assert first.total < other.total


def test_a_second_thread_does_not_lay_out_memory() -> None:
    """How far a second thread gets depends on the machine's load, and the main one's counts on where memory lies."""
    machine = arm_machine(SPEC)
    code = "import os; ls = os.listdir; n = ls('/proc/self/task'); import numpy; print(n == ls('/proc/self/task'))"
    command = [machine.emulator, machine.python, "-c", code]
    assert subprocess.check_output(command, env=dict(machine.environment), text=True) == "True\n"


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_kernels_are_nearly_all_of_a_network(
    counter: Counter, networks: dict[str, tuple[Path, Kernels]], precision: str
) -> None:
    library, kernels = networks[precision]
    counts = counter.count_kernels(library, kernels)
    assert counts == counter.count_kernels(library, kernels)
    total = sum(count.total for count in counts)
    # The machine that calls them takes some thousand instructions a kernel.
    assert total <= counter.count(library).total <= total + 5000 * (len(kernels) + 1)


def test_what_fails_is_an_error_and_the_counter_goes_on(
    counter: Counter, networks: dict[str, tuple[Path, Kernels]], tmp_path: Path
) -> None:
    library, _ = networks["int8"]
    before, broken = counter.count(library), tmp_path / "broken.so"
    broken.write_bytes(library.read_bytes()[:5000])
    for path in (broken, tmp_path / "absent.so"):
        with pytest.raises(DeviceError, match="the emulated network failed"):
            counter.count(path)
    with pytest.raises(DeviceError, match="hago_nothing"):
        counter.count_kernels(library, [("hago_nothing", [])])
    assert counter.count(library) == before


def test_what_does_not_end_in_time_is_given_up(networks: dict[str, tuple[Path, Kernels]]) -> None:
    library, _ = networks["int8"]
    with Counter(SPEC, time_s=0.01) as counter:
        with pytest.raises(DeviceError, match=r"did not end within"):
            counter.count(library)
        counter.time_s = 600
        assert counter.count(library).total > 0
