"""``hago cache``: shows and empties the kernel cache."""

from __future__ import annotations

import argparse
from typing import Any

from ..compiler.cache import KernelCache
from .common_arguments import add_cache, leaf

_DESCRIPTION = "The cache of compiled kernels, shared by all models."


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``cache info`` and ``cache clear``."""
    about = "show or empty the kernel cache"
    parser = subparsers.add_parser("cache", help=about, description=_DESCRIPTION)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    info = leaf(commands, "info", "show location, number of kernels and size")
    clear = leaf(commands, "clear", "delete compiled kernels (they are rebuilt when needed)")
    clear.add_argument("--stale", action="store_true", help="only kernels of other versions of TVM or Hago")
    for command in (info, clear):
        add_cache(command)
    info.set_defaults(run=_info)
    clear.set_defaults(run=_clear)


def _info(arguments: argparse.Namespace) -> int:
    from ..text import size

    found = KernelCache(arguments.cache).info()
    print(f"folder   {found.folder}")
    print(f"version  {found.version}")
    print(f"kernels  {found.kernels} ({size(found.bytes)})")
    print(f"stale    {found.stale_kernels} ({size(found.stale_bytes)}), of other versions")
    return 0


def _clear(arguments: argparse.Namespace) -> int:
    from ..text import plural, size

    before = KernelCache(arguments.cache).clear(stale_only=arguments.stale)
    kernels = before.stale_kernels + (0 if arguments.stale else before.kernels)
    nbytes = before.stale_bytes + (0 if arguments.stale else before.bytes)
    print(f"deleted {plural(kernels, 'kernel')} ({size(nbytes)}) in {before.folder}")
    return 0
