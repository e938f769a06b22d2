"""Finds the spec that fits this machine's processor.

There are two sources. LLVM names the processor from CPUID and knows what such a processor has by
definition; /proc/cpuinfo (Linux) lists what the kernel and a hypervisor have enabled. If they disagree, the kernel
is right: code that uses anything else dies with SIGILL.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import SpecError
from ..runtime import processor
from ..runtime.amx import allow_tiles
from .load import load_spec, spec_names
from .types import HardwareSpec

# Names in /proc/cpuinfo that differ from LLVM's; others agree once "avx512_" has lost its "_".
_LLVM_NAMES = {
    "abm": "lzcnt",
    "bmi1": "bmi",
    "avx_vnni": "avxvnni",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fullfp16",
}
_FAMILY_OF_MACHINE = {"x86_64": "x86", "amd64": "x86", "aarch64": "arm", "arm64": "arm"}


@dataclass(frozen=True)
class HostInfo:
    """What was found about this machine. Features have LLVM's names; sizes are in bytes, 0 if unknown."""

    machine: str
    cpu: str
    llvm_cpu: str
    logical_cpus: int
    physical_cores: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    features: frozenset[str]
    source: str  # the source of the features: "/proc/cpuinfo" or "LLVM"
    llvm_features: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Detection:
    """The spec that fits, the host, and why: one line per spec of its family."""

    spec: HardwareSpec
    host: HostInfo
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


LlvmView = Callable[[], tuple[str, frozenset[str]]]


def llvm_view() -> tuple[str, frozenset[str]]:
    """LLVM's name of this processor and the features of that name's definition.

    Imports TVM. Empty if only TVM's runtime is installed.
    """
    try:
        from tvm.target import Target, codegen

        name = str(codegen.llvm_get_system_cpu())
        target = Target({"kind": "llvm", "mcpu": name})
        return name, frozenset(str(feature) for feature in codegen.llvm_get_cpu_features(target))
    except (ImportError, AttributeError, RuntimeError, ValueError):
        return "", frozenset()


def read_host(
    llvm: LlvmView = llvm_view,
    cpuinfo: Path = processor.CPUINFO,
    sysfs: Path = processor.SYSTEM_CPUS,
    machine: str | None = None,
    tiles: Callable[[], bool] = allow_tiles,
) -> HostInfo:
    """Reads processor, cores, caches and features; the arguments are for tests."""
    llvm_cpu, llvm_features = llvm()
    blocks = processor.read_cpuinfo(cpuinfo)
    first = blocks[0] if blocks else {}
    flags = (first.get("flags") or first.get("Features") or "").split()
    cores = {(block.get("physical id"), block["core id"]) for block in blocks if "core id" in block}
    logical = len(blocks) or os.cpu_count() or 1
    caches = processor.read_caches(sysfs)
    features = frozenset(map(_llvm_name, flags)) if flags else llvm_features
    if "amx-tile" in features and not tiles():
        features = frozenset(feature for feature in features if not feature.startswith("amx-"))
    return HostInfo(
        machine=(machine or platform.machine()).lower(),
        cpu=first.get("model name") or platform.processor() or llvm_cpu or "unknown processor",
        llvm_cpu=llvm_cpu,
        logical_cpus=logical,
        physical_cores=len(cores) or logical,
        l1_bytes=_level(caches, 1),
        l2_bytes=_level(caches, 2),
        l3_bytes=_level(caches, 3),
        features=features,
        source="/proc/cpuinfo" if flags else "LLVM",
        llvm_features=llvm_features,
    )


def _llvm_name(flag: str) -> str:
    return _LLVM_NAMES.get(flag) or (flag.replace("_", "") if flag.startswith("avx512_") else flag)


def _level(caches: Mapping[str, int], level: int) -> int:
    """Bytes of the cache of that level, be it for data alone or unified; 0 where unknown."""
    return caches.get(f"L{level}d") or caches.get(f"L{level}", 0)


def best_fit(host: HostInfo, specs: Iterable[HardwareSpec]) -> Detection:
    """The spec of the host's family that needs the most and gets all of it.

    Wider vectors win over narrower, then more features over fewer. Raises SpecError if none fits.
    """
    family = _FAMILY_OF_MACHINE.get(host.machine)
    members = [spec for spec in specs if spec.family == family]
    missing = {spec.name: [f for f in spec.cpu_features if f not in host.features] for spec in members}
    fitting = [spec for spec in members if not missing[spec.name]]
    if not fitting:
        nearest = min(missing, key=lambda name: len(missing[name]), default=None)
        lacks = f": the nearest, {nearest}, needs {' '.join(missing[nearest])}" if nearest else ""
        raise SpecError(
            f"no shipped spec fits {host.cpu} ({host.machine}){lacks}",
            where="hw auto",
            hint="name one (hago hw list), or write a spec of your own that extends one",
        )
    best = max(fitting, key=lambda spec: (spec.vector_bits, len(spec.cpu_features)))
    reasons = []
    for spec in sorted(members, key=lambda spec: (spec is not best, spec not in fitting, spec.name)):
        if spec is best:
            reasons.append(f"{spec.name} fits: all {len(spec.cpu_features)} features that it needs are present")
        elif spec in fitting:
            reasons.append(f"{spec.name} would run too, but uses less of the processor")
        else:
            reasons.append(f"{spec.name} does not fit: no {' '.join(missing[spec.name])}")
    return Detection(best, host, tuple(reasons), tuple(_disagreements(host, best, members)))


def _disagreements(host: HostInfo, best: HardwareSpec, members: list[HardwareSpec]) -> Iterable[str]:
    if host.source == "LLVM" or not host.llvm_features:
        return
    wanted = {feature for spec in members for feature in spec.cpu_features}
    off = sorted(wanted & host.llvm_features - host.features)
    if off:
        yield (
            f"LLVM expects {' '.join(off)} of a {host.llvm_cpu}, but {host.source} does not list it "
            "(switched off by firmware, kernel or hypervisor): not used"
        )
    unknown = sorted(set(best.cpu_features) - host.llvm_features)
    if unknown:
        names = " ".join(unknown)
        yield f"{host.source} lists {names}, which LLVM does not expect of a {host.llvm_cpu}: used"


def check_target(spec: HardwareSpec) -> None:
    """Checks that TVM and LLVM know the spec's target. Imports TVM.

    Raises SpecError if TVM rejects it, LLVM does not know the processor or a feature (LLVM itself would
    only warn and continue without it), or an entry of ``cpu_features`` is not a feature of that target.
    """
    from tvm.target import Target, codegen

    where = f"{spec.path or spec.name}: target"
    try:
        Target(spec.target)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1]
        raise SpecError(f"TVM rejects it: {reason}", where=where) from error
    for target, wanted in ((spec.target, spec.cpu_features), (spec.target.get("host", {}), ())):
        if target.get("kind") != "llvm":
            continue
        mcpu, triple = (
            target.get("mcpu", "generic"),
            target.get("mtriple") or codegen.llvm_get_system_triple(),
        )
        if not codegen.llvm_is_valid_cpu(mcpu, triple):
            raise SpecError(f"LLVM knows no processor {mcpu!r} for {triple}", where=f"{where}.mcpu")
        known = {str(feature) for feature in codegen.llvm_get_cpu_features(Target(target))}
        asked = [item[1:] for item in target.get("mattr", ()) if item.startswith("+")]
        if unknown := [feature for feature in (*asked, *wanted) if feature not in known]:
            raise SpecError(f"LLVM does not give {mcpu} the features {' '.join(unknown)}", where=where)


def detect_host() -> Detection:
    """This machine and the shipped spec that fits it. Imports TVM. Raises SpecError if none fits."""
    return best_fit(read_host(), [load_spec(name) for name in spec_names()])
