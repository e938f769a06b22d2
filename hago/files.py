"""Files that are either whole or not there: written beside their place, then moved onto it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from .errors import StorageError


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made where it is not there. Raises StorageError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the folder cannot be made: {error.strerror}", where=str(path), hint="choose another with --out"
        ) from error
    return Path(path)


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Writes ``data`` to ``path`` so that a reader, or a crash, never sees half of it.

    Raises StorageError (disk full, no permission, no such folder).
    """
    target = Path(path)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise StorageError(
            f"cannot be written: {error.strerror or error}",
            where=str(target),
            hint="free some space or choose another folder, then run again (a search resumes where it was)",
        ) from error


def require_space(folder: str | os.PathLike[str], nbytes: int) -> None:
    """Raises StorageError where fewer bytes than this are free: for writers that cannot fail gracefully."""
    if shutil.disk_usage(folder).free < nbytes:
        raise StorageError(
            f"{os.strerror(errno.ENOSPC)}: {nbytes / 2**20:.1f} MiB are needed",
            where=str(folder),
            hint="free some space, then run again",
        )


def hash_bytes(*parts: bytes | str) -> str:
    """The SHA-256, in hexadecimal, of the parts, each told apart from the next by its length."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
