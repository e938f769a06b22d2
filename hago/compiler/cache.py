"""The on-disk cache of compiled kernels.

    folder/VERSION/KEY.o      the object, for linking into an exported model
    folder/VERSION/KEY.so     the same, ready to load
    folder/VERSION/KEY.device the code for the device beside the processor, if it has some
    folder/VERSION/KEY.json   what it is, its measured time on each processor, and whether the machine was quiet

KEY is a hash of everything the code depends on; VERSION combines TVM's version and a hash of the templates' source.
Files are renamed into place when they are complete, so any number of processes may share a folder. As with any
compiler cache, whoever can write to it can run code, so a folder that others can write to is refused
(cache_folder.py).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from .. import arguments
from ..documents import read_document
from ..errors import StorageError
from ..files import TemporaryFolder, hash_bytes, require_space, write_atomic, write_failure
from ..kernels import TARGETS
from ..kernels.common.backend import Code
from ..measure.kernels import KernelTime
from ..runtime.checksum import append_checksum
from ..runtime.executor import Executor
from .cache_folder import check_private, default_folder, own_content, usable_default
from .linker import link, linker, object_code

_HARDLY_ANY_SPACE = 1 << 20  # bytes
_TIMES = ("times_s", "times_disturbed")
_SOURCES = (".py", ".cuh")  # of templates, and of what they call
_AROUND = 1 << 14  # bytes that a shared object and a description add to the code
_HINT = "free some space, or name another folder with cache=... (--cache)"


def template_version() -> str:
    """TVM's version and a hash of all targets' templates: compiled code is valid for these only."""
    return _version_of(tuple(TARGETS.values()))


@cache
def _version_of(packages: tuple[str, ...]) -> str:
    found = (find_spec(package) for package in ("hago.kernels", *packages))
    folders = [folder for spec in found if spec is not None for folder in spec.submodule_search_locations or ()]
    sources = {path for folder in folders for path in Path(folder).rglob("*") if path.suffix in _SOURCES}
    digest = hash_bytes(*(path.read_bytes() for path in sorted(sources)))
    return f"tvm-{version('apache-tvm')}-{digest[:12]}"


@dataclass(frozen=True)
class CacheInfo:
    """What `hago cache info` shows."""

    folder: Path
    version: str
    kernels: int
    bytes: int
    stale_kernels: int
    stale_bytes: int


class KernelCache:
    """Kernels in a folder (created on the first write), and those that this process has loaded."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._named = folder is not None
        self.root = Path(arguments.path("cache", folder, StorageError)) if folder is not None else default_folder()
        self.folder = self.root / template_version()
        self._loaded: dict[str, Any] = {}
        self._times: dict[str, dict[str, KernelTime]] = {}
        self._timed: set[tuple[str, str]] = set()  # in this process
        self._lock = Lock()
        self._ready = False

    @classmethod
    def of(cls, cache: KernelCache | str | os.PathLike[str] | None) -> KernelCache:
        """The given cache, or the one in that folder; the user's default for None."""
        return cache if isinstance(cache, KernelCache) else cls(cache)

    def get(self, key: str, executor: Executor, device_code: bool = False) -> Any | None:
        """The loaded module of a kernel, for ``executor`` to run, or None if it has to be compiled first.

        ``device_code``: whether it consists of code for the processor and code for a device beside it.
        """
        with self._lock:
            if key in self._loaded:
                return self._loaded[key]
        if not self._named:
            self._make_ready()
        path = self.folder / f"{key}.so"
        if not path.is_file():
            return None
        self._make_ready()
        if own_content(path) is None or (device_code and self.device_code(key) is None):  # damaged: compile again
            return None
        try:
            module = self._load(key, executor)
        except Exception as error:
            # A file that does not load is compiled again rather than reported.
            del error
            path.unlink(missing_ok=True)
            return None
        with self._lock:
            return self._loaded.setdefault(key, module)

    def _load(self, key: str, executor: Executor) -> Any:
        import tvm  # here, because reading the cache's size must not load a compiler

        module = tvm.runtime.load_module(str(self.folder / f"{key}.so"))
        code = self.device_code(key)
        if code is not None:
            executor.attach(module, code)
        return module

    def put(self, key: str, code: Code, about: dict[str, Any], executor: Executor) -> Any:
        """Stores a kernel for this machine; returns the module that ``executor`` is to run.

        If the machine has no linker, the module is kept in memory, for this process. Raises StorageError if the
        folder cannot be written to.
        """
        runnable = code.host
        if linker() is not None:
            self._keep(key, code, about, shared=True)
            runnable = self._load(key, executor)
        elif code.device:
            executor.attach(runnable, code.device)
        with self._lock:
            return self._loaded.setdefault(key, runnable)

    def put_object(self, key: str, code: Code, about: dict[str, Any]) -> None:
        """Stores a kernel for another machine: only its object, as it cannot be loaded here."""
        self._keep(key, code, about, shared=False)

    def _keep(self, key: str, code: Code, about: dict[str, Any], *, shared: bool) -> None:
        try:
            self._write(key, code, about, shared)
        except FileNotFoundError:  # another process has cleared the cache
            self._write(key, code, about, shared)

    def _write(self, key: str, code: Code, about: dict[str, Any], shared: bool) -> None:
        self._make_ready()
        try:
            with TemporaryFolder(self.folder) as place:
                made = {".o": Path(place) / "kernel.o"}
                compiled = object_code(code.host)
                require_space(place, (2 if shared else 1) * len(compiled) + len(code.device) + _AROUND)
                made[".o"].write_bytes(compiled)
                if code.device:
                    made[".device"] = Path(place) / "kernel.device"
                    made[".device"].write_bytes(code.device)
                if shared:
                    made[".so"] = Path(place) / "kernel.so"
                    link([made[".o"]], made[".so"])
                for path in made.values():
                    append_checksum(path)
                self._describe(key, about)
                for suffix, path in made.items():
                    os.replace(path, self.folder / f"{key}{suffix}")
        except FileNotFoundError:
            raise
        except Exception as error:
            # LLVM and the linker report a full disk in their own way.
            full = not isinstance(error, OSError) and _is_full(self.folder)
            if not full and not isinstance(error, (OSError, StorageError)):
                raise
            if isinstance(error, StorageError):
                raise StorageError(f"the kernel cache {error.what}", where=str(self.folder), hint=_HINT) from error
            cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else error
            failure = write_failure(cause, self.folder, what="the kernel cache cannot be written")
            raise StorageError(failure.what, where=failure.where, hint=_HINT) from error

    def _describe(self, key: str, about: Mapping[str, Any]) -> None:
        """Writes what the kernel is, beside the times that are known of it."""
        path = self.folder / f"{key}.json"
        times = {}
        if path.is_file():
            with suppress(StorageError):
                times = {
                    name: value
                    for name, value in read_document(path, error=StorageError).data.items()
                    if name in _TIMES
                }
        write_atomic(path, json.dumps({**times, **about}, sort_keys=True))

    def object_file(self, key: str, device_code: bool = False) -> Path | None:
        """A kernel's object, for linking it into a model; None if it, or its ``device_code``, is lost or damaged."""
        path = self.folder / f"{key}.o"
        whole = path.is_file() and own_content(path) is not None
        return path if whole and not (device_code and self.device_code(key) is None) else None

    def device_code(self, key: str) -> bytes | None:
        """What the device beside the processor runs; None if there is none, or it is damaged."""
        content = own_content(self.folder / f"{key}.device")
        return None if content is None else bytes(content)

    def forget(self, key: str) -> None:
        """Removes a kernel, on disk and in memory, so that it is compiled again."""
        with self._lock:
            self._loaded.pop(key, None)
        for suffix in (".so", ".o", ".device"):
            (self.folder / f"{key}{suffix}").unlink(missing_ok=True)

    def time_of(self, key: str, place: str) -> KernelTime | None:
        """The kernel's stored time at this place (a processor or a device)."""
        if key not in self._times:
            self._times[key] = _read_times(self.folder / f"{key}.json")
        return self._times[key].get(place)

    def times_of(self, key: str) -> dict[str, KernelTime]:
        """Place -> the kernel's stored time there."""
        self.time_of(key, "")
        return dict(self._times[key])

    def wants_time(self, key: str, place: str) -> bool:
        """Whether to time the kernel there: it never was, or only on a busy machine and not yet by this process."""
        known = self.time_of(key, place)
        return known is None or not (known.is_quiet or (key, place) in self._timed)

    def remember_time(self, key: str, place: str, found: KernelTime) -> None:
        """Stores a measured time beside the kernel; in memory only, if that cannot be written."""
        self._timed.add((key, place))
        self._times.pop(key, None)  # another process may have written a better one in between
        best = found.better(self.time_of(key, place))
        self._times[key][place] = best
        path = self.folder / f"{key}.json"
        try:
            self._make_ready()
            about = read_document(path, error=StorageError).data if path.is_file() else {}
            # Two tables; older versions read and write the first one.
            about.setdefault("times_s", {})[place] = best.seconds
            about.setdefault("times_disturbed", {})[place] = best.disturbed
            write_atomic(path, json.dumps(about, sort_keys=True))
        except (TypeError, AttributeError, StorageError):
            return

    def info(self) -> CacheInfo:
        """Counts kernels and bytes, those of other versions separately."""
        here = others = here_bytes = other_bytes = 0
        for path in self.root.glob("tvm-*/*"):
            try:
                size = path.stat().st_size
            except FileNotFoundError:  # another process has just renamed it
                continue
            if path.parent == self.folder:
                here, here_bytes = here + (path.suffix == ".so"), here_bytes + size
            else:
                others, other_bytes = others + (path.suffix == ".so"), other_bytes + size
        return CacheInfo(self.root, self.folder.name, here, here_bytes, others, other_bytes)

    def clear(self, stale_only: bool = False) -> CacheInfo:
        """Deletes all kernels (or those of other versions); returns what was deleted."""
        before = self.info()
        for folder in self.root.glob("tvm-*"):
            if folder.is_dir() and not (stale_only and folder == self.folder):
                shutil.rmtree(folder, ignore_errors=True)
        return before

    def _make_ready(self) -> None:
        """Creates the folder, and checks that nobody else can write to it. Raises StorageError.

        If the default folder cannot be used, a temporary one takes its place.
        """
        if self._ready and self.folder.is_dir():
            return
        if not self._named:
            self.root = usable_default()
            self.folder = self.root / self.folder.name
        try:
            for folder in (self.root, self.folder):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(
                f"the kernel cache cannot be created: {error.strerror}",
                where=str(self.folder),
                hint="name another folder with cache=... (--cache)",
            ) from error
        check_private(self.folder)
        self._ready = True


def _read_times(path: Path) -> dict[str, KernelTime]:
    """Place -> time, from a kernel's description; empty if that is damaged, so that kernels are timed again."""
    try:
        about = read_document(path, error=StorageError).data
        disturbed = about.get("times_disturbed", {})
        times = {place: KernelTime(float(s), disturbed.get(place)) for place, s in about.get("times_s", {}).items()}
        return {place: time for place, time in times.items() if time.is_possible}
    except (StorageError, ValueError, TypeError, AttributeError):
        return {}


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _HARDLY_ANY_SPACE
    except OSError:
        return False
