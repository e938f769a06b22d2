"""``hago cache``: what the kernel cache holds, and emptying it."""

from __future__ import annotations

import argparse
from typing import Any

from ..compiler.cache import KernelCache

_MIB = 1 << 20


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``cache info`` and ``cache clear``."""
    parser = subparsers.add_parser("cache", help="what the kernel cache holds, and emptying it")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    info = commands.add_parser("info", help="where it is, how many kernels, how many bytes")
    clear = commands.add_parser("clear", help="delete compiled kernels (they are compiled again when needed)")
    clear.add_argument("--stale", action="store_true", help="only those of other versions of TVM or Hago")
    for command in (info, clear):
        command.add_argument("--cache", metavar="DIR", help="the cache's folder (default: the user's cache)")
    info.set_defaults(run=_info)
    clear.set_defaults(run=_clear)


def _info(arguments: argparse.Namespace) -> int:
    found = KernelCache(arguments.cache).info()
    print(f"folder   {found.folder}")
    print(f"version  {found.version}")
    print(f"kernels  {found.kernels} ({found.bytes / _MIB:.1f} MiB)")
    print(f"stale    {found.stale_kernels} ({found.stale_bytes / _MIB:.1f} MiB), of other versions")
    return 0


def _clear(arguments: argparse.Namespace) -> int:
    before = KernelCache(arguments.cache).clear(stale_only=arguments.stale)
    kernels = before.stale_kernels + (0 if arguments.stale else before.kernels)
    nbytes = before.stale_bytes + (0 if arguments.stale else before.bytes)
    print(f"deleted {kernels} kernels ({nbytes / _MIB:.1f} MiB) in {before.folder}")
    return 0
