"""Damage to a compiled file is seen before it is mapped into memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from hago.runtime.checksum import append_checksum, has_valid_checksum

CONTENT = bytes(range(256)) * 8


@pytest.fixture
def checked(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.so"
    path.write_bytes(CONTENT)
    assert not has_valid_checksum(path)
    append_checksum(path)
    return path


def test_a_file_with_a_checksum_keeps_its_content(checked: Path) -> None:
    assert has_valid_checksum(checked)
    assert checked.read_bytes().startswith(CONTENT)


@pytest.mark.parametrize("length", [0, 1, 47, 48, 1000, len(CONTENT), len(CONTENT) + 47])
def test_a_file_cut_short_fails_its_check(checked: Path, length: int) -> None:
    checked.write_bytes(checked.read_bytes()[:length])
    assert not has_valid_checksum(checked)


@pytest.mark.parametrize("place", [0, 700, len(CONTENT) - 1, len(CONTENT), len(CONTENT) + 20])
def test_one_changed_bit_breaks_the_checksum(checked: Path, place: int) -> None:
    data = bytearray(checked.read_bytes())
    data[place] ^= 1
    checked.write_bytes(data)
    assert not has_valid_checksum(checked)


def test_bytes_after_the_checksum_break_it(checked: Path) -> None:
    with checked.open("ab") as file:
        file.write(b"\0")
    assert not has_valid_checksum(checked)
