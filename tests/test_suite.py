"""What holds for all tests: none has a deadline, and the processor can be made to look older than it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import hide_features
from hypothesis import settings

from hago.kernels.cpu.families import AMX, AVX2, AVX512_VNNI, AVX_VNNI
from hago.kernels.cpu.jit import missing
from hago.measure.environment import read_environment
from hago.runtime import processor
from hago.spec import load_spec, spec_names
from hago.spec.host import best_fit, read_host


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor that has all that any spec asks for."""
    flags = {processor.linux_name(name) for spec in spec_names() for name in load_spec(spec).cpu_features}
    block = {"processor": "0", "model name": "X", "flags": " ".join(sorted(flags))}
    monkeypatch.setattr(processor, "read_cpuinfo", lambda path=processor.CPUINFO: [dict(block)])
    monkeypatch.setattr(processor, "allow_tiles", lambda: True)
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    processor.host_features.cache_clear()
    yield
    monkeypatch.undo()
    processor.host_features.cache_clear()


def fitting() -> str:
    host = read_host(lambda: ("", frozenset()), machine="x86_64", tiles=lambda: True)
    return best_fit(host, map(load_spec, spec_names())).spec.name


def test_no_test_has_a_deadline() -> None:
    assert settings.default.deadline is None and settings.default.derandomize
    assert settings.get_profile("explore").deadline is None


@pytest.mark.usefixtures("newest")
def test_hidden_features_are_hidden_from_all_that_ask() -> None:
    assert not any(map(missing, (AVX2, AVX_VNNI, AVX512_VNNI))) and "avx512f" in read_environment().features
    hide_features(load_spec("x86-avx2"))
    assert fitting() == "x86-avx2"
    assert not missing(AVX2) and all(map(missing, (AVX_VNNI, AVX512_VNNI, AMX)))
    assert "avx2" in read_environment().features
    assert not [name for name in read_environment().features if name.startswith(("avx512", "avx_vnni", "amx"))]


@pytest.mark.usefixtures("newest")
def test_what_the_processor_is_taken_for_still_has_its_own() -> None:
    hide_features(load_spec("x86-avx512-vnni"))
    assert fitting() == "x86-avx512-vnni"
    assert not missing(AVX512_VNNI) and missing(AVX_VNNI) == ["avxvnni"] and missing(AMX)
