"""Cubins, kept on disk across runs beside the kernels of processors.

    folder/nvrtc-VERSION/KEY.cubin     the code, then a checksum

KEY is a hash of the source and the architecture. Files appear whole; a damaged one is compiled again. Whoever can write
to the folder decides what runs on the GPU, so one that others can write to is refused.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..files import hash_bytes, make_folder, write_atomic
from ..kernels.cuda.nvrtc import compile_cubin, compiler_version
from ..runtime.checksum import checksum
from .cache_folder import check_private, own_content


class CubinCache:
    """Compiles each source once for each architecture."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def cubin(self, source: str, arch: str) -> bytes:
        """The code of ``source`` for ``arch`` ("sm_80"), out of the folder or compiled and kept.

        Raises MissingExtraError and BuildError as `compile_cubin` does, StorageError where the folder cannot be used.
        """
        folder = make_folder(self.root / f"nvrtc-{compiler_version()}")
        check_private(folder)
        path = folder / f"{hash_bytes(arch.encode(), source.encode())}.cubin"
        kept = own_content(path)
        if kept is not None:
            return bytes(kept)
        code = compile_cubin(source, arch)
        write_atomic(path, code + checksum(code))
        return code
