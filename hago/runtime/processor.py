"""What this processor can do, according to Linux. All of Hago looks up features here."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from .amx import allow_tiles

CPUINFO, SYSTEM_CPUS = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu")
GOVERNOR = SYSTEM_CPUS / "cpu0" / "cpufreq" / "scaling_governor"

# Bits of Linux's auxiliary vector (uapi/asm/hwcap.h of arm64) by LLVM's name of the feature.
_HWCAP, _HWCAP2 = ARM_FEATURE_WORDS = 16, 26
_ARM_FEATURE_BITS = {
    "neon": (_HWCAP, 1), "fullfp16": (_HWCAP, 10), "dotprod": (_HWCAP, 20), "sve": (_HWCAP, 22),
    "i8mm": (_HWCAP2, 13), "bf16": (_HWCAP2, 14),
}  # fmt: skip
_OTHER_NAMES = {"bmi": "bmi1", "lzcnt": "abm", "sha": "shani", "prfchw": "3dnowprefetch"}


_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}  # by their numbers in <elf.h>


def machine_name() -> str:
    """The kind of this machine, as in LLVM's triples: x86_64, aarch64."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def machine_of(path: str | os.PathLike[str]) -> str | None:
    """The kind of machine that a shared object is for; None for another file, or an unknown machine."""
    with open(path, "rb") as file:
        head = file.read(20)
    if len(head) < 20 or not head.startswith(b"\x7fELF"):
        return None
    return _ELF_MACHINES.get(int.from_bytes(head[18:20], "little" if head[5] == 1 else "big"))


def read_cpuinfo(path: Path = CPUINFO) -> list[dict[str, str]]:
    """The fields of each logical processor; empty if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    blocks = []
    for part in text.split("\n\n"):
        pairs = (line.split(":", 1) for line in part.splitlines() if ":" in line)
        block = {key.strip(): value.strip() for key, value in pairs}
        if "processor" in block:
            blocks.append(block)
    return blocks


def processor_name() -> str:
    """The processor's name with family and model number, since virtual machines shorten it to "AMD EPYC"."""
    names = next(iter(read_cpuinfo()), {})
    name = names.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{k} {names[key]}" for k, key in (("family", "cpu family"), ("model", "model")) if key in names]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def read_caches(system_cpus: Path = SYSTEM_CPUS) -> dict[str, int]:
    """Bytes of one instance of each cache that holds data, by name ("L1d", "L2"); empty where unknown."""
    caches: dict[str, int] = {}
    for index in sorted((system_cpus / "cpu0" / "cache").glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 1)
            if kind in ("Data", "Unified"):
                caches[f"L{int(level)}{'d' if kind == 'Data' else ''}"] = int(size.rstrip("KMG")) * unit
        except (OSError, ValueError):
            continue
    return caches


def missing_features(wanted: Collection[str]) -> list[str]:
    """Those of the features (LLVM's names) that this process cannot use; none if that is unknown.

    Requests AMX tiles if they are among them.
    """
    host = host_features()
    missing = [name for name in wanted if host and linux_name(name) not in host]
    tiles = [name for name in wanted if name.startswith("amx-") and name not in missing]
    return missing if not tiles or allow_tiles() else missing + tiles


@cache
def host_features() -> frozenset[str]:
    """The processor's features, as `plain` spells them; empty if they cannot be read."""
    if platform.machine() in ("aarch64", "arm64"):
        return _own_arm_features()
    first = next(iter(read_cpuinfo()), {})
    return frozenset(map(plain, first.get("flags", "").split()))


def is_virtual() -> bool:
    """Whether a hypervisor presents this x86 processor; others do not say, and count as real."""
    return "hypervisor" in host_features()


def arm_features(word: Callable[[int], int]) -> frozenset[str]:
    """The features in the words of an auxiliary vector; ``word`` returns one by its number."""
    return frozenset(name for name, (number, bit) in _ARM_FEATURE_BITS.items() if word(number) >> bit & 1)


def _own_arm_features() -> frozenset[str]:
    """The features that the kernel reports to every process; an emulator reports those that it emulates."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):  # not Linux
        return frozenset()
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return arm_features(getauxval)


def linux_name(feature: str) -> str:
    """Linux's name of a feature, given LLVM's, as `plain` spells it."""
    return plain(_OTHER_NAMES.get(feature, feature))


def plain(feature: str) -> str:
    """One spelling for LLVM's avx512vnni and Linux's avx512_vnni."""
    return feature.replace("_", "").replace(".", "").replace("-", "")
