"""Where compiled kernels are stored, and whether another user could put code there."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..errors import HagoWarning, StorageError
from ..files import TemporaryFolder
from ..runtime.checksum import checked_content

_MOST_LINKS = 40


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/hago``, or ``~/.cache/hago``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hago"


def usable_default() -> Path:
    """The default folder; if it cannot be used, a temporary one for this process, with a warning (once)."""
    folder = default_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_private(folder)
        usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
        reason = "it cannot be written"
    except OSError as error:
        usable, reason = False, f"it cannot be created: {error.strerror}"
    except StorageError as error:
        usable, reason = False, f"{error.where}: {error.what}"
    return folder if usable else _for_this_process(folder, reason)


@cache
def _for_this_process(folder: Path, reason: str) -> Path:
    warnings.warn(
        f"the kernel cache {folder} cannot be used ({reason}): kernels are compiled again in every run; "
        "name another folder with cache=... (--cache)",
        HagoWarning,
        stacklevel=2,
    )
    temporary = TemporaryFolder()
    _kept.append(temporary)
    return Path(temporary.name)


_kept: list[TemporaryFolder] = []  # until the process ends


def own_content(path: Path) -> memoryview | None:
    """What Hago wrote to a file of the cache for this user or root; None if it is missing, damaged or another's."""
    try:
        return checked_content(path) if path.stat().st_uid in (os.geteuid(), 0) else None
    except OSError:  # another process has cleared it
        return None


def check_private(folder: Path) -> None:
    """Raises StorageError if another user could put files into the folder, much as ssh protects its keys.

    The folder, all folders above it, and links on the way must belong to this user or root and must not be writable
    by others. Above it, the sticky bit is enough (others cannot replace what is not theirs), and so is write access
    for a group that has no member but this user.
    """
    end = folder.resolve()
    for place in _on_the_way(folder.absolute()):
        about = place.lstat()
        if about.st_uid not in (os.geteuid(), 0):
            wrong, hint = f"it belongs to another user ({about.st_uid})", "chown it"
        elif stat.S_ISDIR(about.st_mode) and _lets_others_in(about, above=place != end):
            wrong, hint = "others can write to it", "chmod go-w it"
        else:
            continue
        raise StorageError(
            f"the kernel cache contains code that Hago runs, and {wrong}",
            where=str(folder if place == end else place),
            hint=f"{hint}, or name another folder with cache=... (--cache)",
        )


def _lets_others_in(about: os.stat_result, *, above: bool) -> bool:
    """Whether others can put files there or, ``above`` the cache, replace this user's files."""
    if above and about.st_mode & stat.S_ISVTX:
        return False
    if about.st_mode & stat.S_IWGRP and not (above and _is_own_group(about.st_gid)):
        return True
    return bool(about.st_mode & stat.S_IWOTH)


def _is_own_group(group: int) -> bool:
    """Whether it is the user's private group, which most systems create, with no other member."""
    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


def _on_the_way(path: Path) -> Iterator[Path]:
    """Every folder and link on the way to an absolute path, from the root down."""
    place, links, parts = Path(path.anchor), 0, list(reversed(path.parts[1:]))
    yield place
    while parts:
        part = parts.pop()
        place = place.parent if part == ".." else place / part
        yield place
        if place.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise StorageError("is a loop of symbolic links", where=str(path))
            target = Path(os.readlink(place))
            place = Path(target.anchor) if target.is_absolute() else place.parent
            parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
