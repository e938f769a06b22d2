"""``hago hw`` on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from hago.cli import hw as cli_hw
from hago.errors import HagoError, SpecError
from hago.spec import (
    OP_KINDS,
    load_spec,
    shipped_folder,
    spec_names,
)
from hago.spec.host import check_target

_HEAD = """\
name: mine
description: A spec of one's own.
extends: x86-avx2
"""


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser("hago")
    cli_hw.register(parser.add_subparsers())
    parsed = parser.parse_args(list(arguments))
    return int(parsed.run(parsed))


def test_list_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hw", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    for name in spec_names():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert (" yes " if name.startswith(("x86", "arm", "nvidia")) else " not yet ") in line


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, worse = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    good.write_text(_HEAD)
    bad.write_text(_HEAD + "kernel: x\nmachine: {cors: 1}\n")
    worse.write_text(_HEAD + "target: {mcpu: pentium-9}\n")
    assert run("hw", "check", str(good)) == 0
    assert capsys.readouterr().out == f"{good}: good (mine: 31 ways for 14 kinds of operation)\n"
    assert run("hw", "check", str(bad), str(good), str(worse), str(shipped_folder() / "arm.yaml")) == 2
    out = capsys.readouterr().out
    assert f"{bad}:4: kernel: unknown key" in out and f"{bad}:5: machine.cors: unknown key" in out
    assert f"{good}: good" in out and "arm.yaml: good (a family" in out
    assert f"{worse}: target.mcpu: LLVM knows no processor 'pentium-9' for x86_64-linux-gnu" in out


def test_show_of_nothing() -> None:
    with pytest.raises(HagoError, match="there is no such hardware spec"):
        run("hw", "show", "cray-1")


@pytest.mark.parametrize("name", spec_names())
def test_show_is_readable_when_piped(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = load_spec(name)
    assert run("hw", "show", spec.name) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "…" not in out
    assert max(map(len, out.splitlines())) <= 160
    for word in (spec.name, spec.device, *OP_KINDS, spec.find("conv", "int8").instruction.split()[0]):
        assert word in out


_EARLY = """\
types:
  weight4: {storage: int8, bits: 4, symmetric: true}
  float16: {storage: float16}
ways:
  w4a16: {like: float32, precision: w4a16, weight: weight4, activation: float16, granularities: [per_channel]}
ops:
  conv: [int8, w4a16, float32]
"""


@pytest.mark.parametrize(("kernels", "marked"), [("", ["w4a16"]), ("kernels: null\n", [])])
def test_show_marks_what_has_no_kernel_yet(
    kernels: str, marked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of hardware that has no kernels at all the title says so."""
    file = tmp_path / "mine.yaml"
    file.write_text(_HEAD + kernels + _EARLY)
    assert run("hw", "show", str(file)) == 0
    lines = capsys.readouterr().out.splitlines()
    (way,) = [index for index, line in enumerate(lines) if "w4a16" in line]
    assert lines[way].split()[:3] == ["w4a16", "float16", "int4"]
    assert [index for index, line in enumerate(lines) if "no kernel yet" in line] == [way + 1 for _ in marked]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "target: {kind: cuda, arch: banana, mtriple: null, mcpu: null}\n",
            "TVM rejects it: .*invalid CUDA arch",
        ),
        ("cpu_features: [avx2, warp-drive]\n", "LLVM does not give x86-64-v3 the features warp-drive"),
    ],
)
def test_targets_that_nobody_knows(body: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(_HEAD + body)
    with pytest.raises(SpecError, match=message):
        check_target(load_spec(file))
