"""Which spec fits which processor: told from the features that real machines list."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from hago.cli import hw as cli_hw
from hago.errors import SpecError
from hago.spec import HardwareSpec, detect, load_spec, resolve_hw, spec_names
from hago.spec.host import HostInfo, LlvmView, best_fit, detect_host, llvm_view, read_host

# Excerpts of the flags in /proc/cpuinfo, as the kernel spells them.
_V3 = "fpu sse sse2 ssse3 fma sse4_1 sse4_2 movbe popcnt avx f16c abm bmi1 avx2 bmi2"
_V4 = f"{_V3} avx512f avx512dq avx512cd avx512bw avx512vl"
_ICE = f"{_V4} avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vpopcntdq"
_ARM = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
X86 = {
    "Intel Xeon E5-2680 v4 (Broadwell)": (_V3, "x86-avx2"),
    "AMD Ryzen 9 5950X (Zen 3)": (_V3 + " vaes", "x86-avx2"),
    "Intel Xeon Gold 6148 (Skylake, no VNNI)": (_V4, "x86-avx2"),
    "Intel Core i9-12900K (Alder Lake)": (_V3 + " avx_vnni", "x86-avx-vnni"),
    "Intel Xeon Gold 6248 (Cascade Lake)": (_V4 + " avx512_vnni", "x86-avx512-vnni"),
    "Intel Xeon Platinum 8375C (Ice Lake)": (_ICE, "x86-avx512-vnni"),
    "Intel Xeon Platinum 8376H (Cooper Lake)": (_V4 + " avx512_vnni avx512_bf16", "x86-avx512-vnni"),
    "AMD EPYC 9354 (Zen 4)": (_ICE + " avx512_bf16", "x86-avx512-bf16"),
    "AMD EPYC 9355 (Zen 5)": (_ICE + " avx512_bf16 avx_vnni avx512_vp2intersect", "x86-avx512-bf16"),
    "Intel Xeon 8480+ (Sapphire Rapids)": (
        _ICE + " avx512_bf16 avx_vnni avx512_fp16 amx_bf16 amx_tile amx_int8",
        "x86-amx",
    ),
    "the same under a hypervisor that hides AMX": (_ICE + " avx512_bf16 avx_vnni", "x86-avx512-bf16"),
    "the same under one that hides AVX-512": (_V3 + " avx_vnni", "x86-avx-vnni"),
}
ARM = {
    "Raspberry Pi 4": ("fp asimd evtstrm crc32 cpuid", "arm-cortex-a72"),
    "Raspberry Pi 5": (_ARM + " atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp", "arm-cortex-a76"),
    "Graviton 2": (_ARM + " atomics fphp asimdhp asimdrdm lrcpc asimddp ssbs", "arm-cortex-a76"),
    "Graviton 3": (_ARM + " fphp asimdhp asimddp sve i8mm bf16 svebf16 svei8mm rng", "arm-neoverse-v1"),
}


def _llvm(name: str = "", features: str = "") -> LlvmView:
    return lambda: (name, frozenset(features.split()))


def _host(tmp_path: Path, cpuinfo: str, machine: str, llvm: LlvmView | None = None, tiles: bool = True) -> HostInfo:
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    return read_host(llvm or _llvm(), file, tmp_path / "sys", machine, lambda: tiles)


def _specs() -> list[HardwareSpec]:
    return [load_spec(name) for name in spec_names()]


@pytest.mark.parametrize("cpu", X86)
def test_x86(cpu: str, tmp_path: Path) -> None:
    flags, expected = X86[cpu]
    host = _host(tmp_path, f"processor\t: 0\nmodel name\t: {cpu}\nflags\t\t: {flags}\n\n", "x86_64")
    found = best_fit(host, _specs())
    assert found.spec.name == expected
    assert host.cpu == cpu and host.source == "/proc/cpuinfo"
    assert set(found.spec.cpu_features) <= host.features
    assert found.reasons[0] == (
        f"{expected} fits: all {len(found.spec.cpu_features)} features that it needs are present"
    )
    assert len(found.reasons) == sum(name.startswith("x86") for name in spec_names())


def test_tiles_that_linux_does_not_hand_out_are_no_feature(tmp_path: Path) -> None:
    flags, _ = X86["Intel Xeon 8480+ (Sapphire Rapids)"]
    host = _host(tmp_path, f"processor\t: 0\nflags\t\t: {flags}\n\n", "x86_64", tiles=False)
    assert not any(feature.startswith("amx") for feature in host.features)
    assert best_fit(host, _specs()).spec.name == "x86-avx512-bf16"


@pytest.mark.parametrize("cpu", ARM)
def test_arm(cpu: str, tmp_path: Path) -> None:
    flags, expected = ARM[cpu]
    host = _host(tmp_path, f"processor : 0\nFeatures : {flags}\n\nHardware : x\n", "aarch64", _llvm("cortex-a72"))
    assert best_fit(host, _specs()).spec.name == expected
    assert host.logical_cpus == 1


def test_cores_and_caches(tmp_path: Path) -> None:
    text = "".join(
        f"processor : {i}\nmodel name : X\nphysical id : {i // 4}\ncore id : {i % 2}\nflags : fma\n\n" for i in range(8)
    )
    for index, (level, kind, size) in enumerate(
        [
            ("1", "Data", "48K"),
            ("1", "Instruction", "32K"),
            ("2", "Unified", "1280K"),
            ("3", "Unified", "18M"),
        ]
    ):
        folder = tmp_path / "sys" / "cpu0" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(value + "\n")
    (tmp_path / "sys" / "cpu0" / "cache" / "index9").mkdir()  # empty, as some hypervisors leave it
    host = _host(tmp_path, text, "x86_64")
    assert (host.logical_cpus, host.physical_cores) == (8, 4)
    assert (host.l1_bytes, host.l2_bytes, host.l3_bytes) == (48 * 1024, 1280 * 1024, 18 * 2**20)


def test_llvm_speaks_where_there_is_no_cpuinfo(tmp_path: Path) -> None:
    llvm = _llvm("apple-m1", "neon dotprod fullfp16 aes")
    host = read_host(llvm, tmp_path / "none", tmp_path / "none", "arm64")
    found = best_fit(host, _specs())
    assert host.source == "LLVM" and host.l1_bytes == 0 and host.logical_cpus >= 1
    assert found.spec.name == "arm-cortex-a76" and found.notes == ()


def test_the_kernel_is_believed_over_llvm_and_the_difference_reported(tmp_path: Path) -> None:
    definition = (
        "avx2 bmi bmi2 f16c fma lzcnt movbe avx512f avx512bw avx512cd avx512dq avx512vl avx512vnni avxvnni "
        "avx512vbmi avx512bf16 amx-tile amx-int8 amx-bf16"
    )
    cpuinfo = f"processor : 0\nflags : {_ICE} avx512_bf16\n\n"
    found = best_fit(_host(tmp_path, cpuinfo, "x86_64", _llvm("sapphirerapids", definition)), _specs())
    assert found.spec.name == "x86-avx512-bf16"
    assert found.notes == (
        "LLVM expects amx-bf16 amx-int8 amx-tile avxvnni of a sapphirerapids, but /proc/cpuinfo does not "
        "list it (switched off by firmware, kernel or hypervisor): not used",
    )
    found = best_fit(_host(tmp_path, cpuinfo, "x86_64", _llvm("x86-64-v3", "avx2 fma")), _specs())
    assert found.spec.name == "x86-avx512-bf16"
    assert found.notes[0].startswith("/proc/cpuinfo lists avx512bf16 avx512bw")


@pytest.mark.parametrize(
    ("machine", "flags", "message"),
    [
        (
            "x86_64",
            "fpu sse sse2",
            "no shipped spec fits old (x86_64): the nearest, x86-avx2, needs avx2 bmi",
        ),
        ("riscv64", "", "no shipped spec fits old (riscv64)\n  hint: name one (hago hw list)"),
    ],
)
def test_nothing_fits(machine: str, flags: str, message: str, tmp_path: Path) -> None:
    host = _host(tmp_path, f"processor : 0\nmodel name : old\nflags : {flags}\n\n", machine)
    with pytest.raises(SpecError) as caught:
        best_fit(host, _specs())
    assert message in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = detect_host()
    except SpecError:
        pytest.skip("no shipped spec fits this processor")
    name, features = llvm_view()
    assert found.host.llvm_cpu == name and found.host.llvm_features == features
    assert found.spec == detect() == resolve_hw("auto")
    assert set(found.spec.cpu_features) <= found.host.features
    parser = argparse.ArgumentParser("hago")
    cli_hw.register(parser.add_subparsers())
    arguments = parser.parse_args(["hw", "detect"])
    assert arguments.run(arguments) == 0
    out = capsys.readouterr().out
    assert found.spec.name in out and found.host.cpu in out and "why" in out and "\x1b" not in out


def test_reading_specs_imports_no_compiler() -> None:
    """`import hago.spec` stays light: TVM is imported only to detect and to check targets."""
    import subprocess

    code = "import sys, hago.spec as s, hago.cli.hw; s.load_spec('x86-avx2'); sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
