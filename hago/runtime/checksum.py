"""A checksum at the end of a compiled file, so that damage is noticed before a byte of it is mapped.

The loader maps a truncated file, and SIGBUS kills the process when it touches the missing part. Bytes
after the end of an ELF file are ignored by every loader, so a file with a checksum loads anywhere.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_MAGIC = b"hago-seal-sha256"  # written to files: never change it
_LENGTH = len(_MAGIC) + hashlib.sha256().digest_size


def checksum(content: bytes) -> bytes:
    """What follows this content in a file."""
    return _MAGIC + hashlib.sha256(content).digest()


def append_checksum(path: str | os.PathLike[str]) -> None:
    """Appends the checksum of the file's contents."""
    end = checksum(Path(path).read_bytes())
    with open(path, "ab") as file:
        file.write(end)


def checked_content(path: str | os.PathLike[str]) -> memoryview | None:
    """The content before the checksum; None unless the file is complete and unchanged."""
    data = Path(path).read_bytes()
    content, end = memoryview(data)[:-_LENGTH], data[-_LENGTH:]
    return content if end.startswith(_MAGIC) and hashlib.sha256(content).digest() == end[len(_MAGIC) :] else None


def has_valid_checksum(path: str | os.PathLike[str]) -> bool:
    """Whether the file ends in the right checksum, that is, whether it is complete and unchanged."""
    return checked_content(path) is not None
