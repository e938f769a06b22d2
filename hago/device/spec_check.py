"""Compares a device with its spec."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.linker import link, object_code
from ..errors import BuildError, DeviceError
from ..files import TemporaryFolder
from ..kernels import executor_named
from ..runtime.processor import ARM_FEATURE_WORDS, GOVERNOR, arm_features, missing_features
from ..spec import HardwareSpec, resolve_hw
from .config import Device
from .gpu_check import GpuFacts, check_here, check_there
from .remote import RemoteSession, connect

_UNREADABLE = "not readable"


@dataclass(frozen=True)
class Finding:
    """The findings about a device: ``facts`` as (name, value), and what is wrong."""

    device: Device
    spec: HardwareSpec
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check_device(device: Device) -> Finding:
    """Connects to the device and examines it. Raises DeviceError if it cannot be reached."""
    spec = resolve_hw(device.spec)
    if device.is_local:
        return _here(device, spec)
    with connect(device) as session:
        return _there(session, spec)


def _here(device: Device, spec: HardwareSpec) -> Finding:
    from ..measure.environment import read_environment

    environment = read_environment()
    facts = (
        ("processor", environment.cpu),
        ("spec", spec.name),
        ("clock governor", environment.governor or _UNREADABLE),
        ("TVM", environment.packages.get("apache-tvm", "?")),
    )
    gpu = check_here(spec) if spec.family == "nvidia" else GpuFacts()
    problems = (*_lacking(missing_features(spec.cpu_features), spec), *gpu.problems)
    return Finding(device, spec, (*facts, *gpu.facts), problems)


def _there(session: RemoteSession, spec: HardwareSpec) -> Finding:
    facts = [("address", session.device.address), ("spec", spec.name)]
    triple = spec.triple or "x86_64-linux-gnu"
    problems: list[str] = []
    try:
        words, ffi = session.call("running a probe", lambda: _probe(session, spec, triple))
    except DeviceError as error:
        return Finding(session.device, spec, tuple(facts), (f"code for {triple} does not run there: {error.what}",))
    facts.append(("architecture", triple.partition("-")[0]))
    if spec.family == "arm":
        features = arm_features(words.__getitem__)
        facts.append(("features", " ".join(sorted(features))))
        problems += _lacking([name for name in spec.cpu_features if name not in features], spec)
    facts.append(("clock governor", _read(session, str(GOVERNOR))))
    facts.append(("TVM's FFI", ffi))
    own = _own_ffi()
    if ffi != own:
        problems.append(f"its TVM has FFI {ffi}, the one here {own}: install the same version there (docs/devices.md)")
    if spec.family == "nvidia" and not problems:
        gpu = check_there(session, spec)
        facts += gpu.facts
        problems += gpu.problems
    return Finding(session.device, spec, tuple(facts), tuple(problems))


def _lacking(missing: list[str], spec: HardwareSpec) -> tuple[str, ...]:
    return (f"the processor lacks {', '.join(missing)}, which {spec.name} requires",) if missing else ()


def _probe(session: RemoteSession, spec: HardwareSpec, triple: str) -> tuple[dict[int, int], str]:
    """The device's feature words by number and its version of TVM's FFI, read by code that needs no features."""
    import tvm
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T
    from tvm.target import Target

    size = len(ARM_FEATURE_WORDS) + 2  # the version of TVM's FFI is three words of 32 bits
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("probe")
        words = T.arg("words", T.buffer((size,), "int64"))
        for i, word in enumerate(ARM_FEATURE_WORDS):
            T.buffer_store(words, T.call_extern("int64", "getauxval", T.int64(word)), [i])
        T.evaluate(T.call_extern("int32", "TVMFFIGetVersion", T.address_of(words[len(ARM_FEATURE_WORDS)])))
    module = tvm.compile(tvm.IRModule({"probe": builder.get()}), target=Target({"kind": "llvm", "mtriple": triple}))
    with TemporaryFolder() as place:
        made, library = Path(place) / "probe.o", Path(place) / "hago_probe.so"
        made.write_bytes(object_code(module.mod))
        try:
            link([made], library, triple)
        except BuildError as error:
            raise DeviceError(error.what, hint=error.hint) from error
        remote = session.remote
        remote.upload(str(library))
        buffer = executor_named("cpu").tensor(np.zeros(size, np.int64), remote)
        remote.load_module(library.name)["probe"](buffer)
        found = buffer.numpy()
        words_by_number = dict(zip(ARM_FEATURE_WORDS, map(int, found[:-2]), strict=True))
        return words_by_number, ".".join(map(str, found[-2:].view(np.uint32)[:3]))


def _read(session: RemoteSession, path: str) -> str:
    try:
        text: Any = session.call(f"reading {path}", lambda: bytes(session.remote.download(path)))
    except DeviceError:
        return _UNREADABLE
    return text.decode(errors="replace").strip() or _UNREADABLE


def _own_ffi() -> str:
    """The version of TVM's FFI here, as its library reports it."""
    import tvm_ffi

    words = (ctypes.c_uint32 * 3)()
    ctypes.CDLL(tvm_ffi.libinfo.find_libtvm_ffi()).TVMFFIGetVersion(words)
    return ".".join(map(str, words))
