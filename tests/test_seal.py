"""Damage to a compiled file is seen before it is mapped into memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from hago.runtime.seal import is_sealed, seal

CONTENT = bytes(range(256)) * 8


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.so"
    path.write_bytes(CONTENT)
    assert not is_sealed(path)
    seal(path)
    return path


def test_a_sealed_file_keeps_its_content(sealed: Path) -> None:
    assert is_sealed(sealed)
    assert sealed.read_bytes().startswith(CONTENT)


@pytest.mark.parametrize("length", [0, 1, 47, 48, 1000, len(CONTENT), len(CONTENT) + 47])
def test_a_file_cut_short_is_not_sealed(sealed: Path, length: int) -> None:
    sealed.write_bytes(sealed.read_bytes()[:length])
    assert not is_sealed(sealed)


@pytest.mark.parametrize("place", [0, 700, len(CONTENT) - 1, len(CONTENT), len(CONTENT) + 20])
def test_one_changed_bit_breaks_the_seal(sealed: Path, place: int) -> None:
    data = bytearray(sealed.read_bytes())
    data[place] ^= 1
    sealed.write_bytes(data)
    assert not is_sealed(sealed)


def test_bytes_after_the_seal_break_it(sealed: Path) -> None:
    with sealed.open("ab") as file:
        file.write(b"\0")
    assert not is_sealed(sealed)
