"""What can be done with a network only where it was compiled: save it, and time its kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from ..errors import StorageError
from ..files import TemporaryFolder, require_space, write_atomic, write_failure
from ..kernels.common.calls import KernelCall
from ..measure.kernels import KernelTime, least_of, time_kernel
from ..runtime.checksum import append_checksum
from ..runtime.executor import Executor, pack
from ..tensor import TensorType
from .cache import KernelCache
from .compile import compile_missing, symbol
from .executable import executable
from .linker import link, require_linker
from .program import Program, ProgramStep
from .toolchain import Toolchain


@dataclass(frozen=True)
class KernelUse:
    """One call of a kernel: its layer, the kernel, and the types and shapes of its inputs and outputs."""

    layer: str | None
    family: str
    key: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def symbol(self) -> str:
        """The kernel's name in its module, and in a saved network."""
        return symbol(self.key)


@dataclass(frozen=True)
class Built:
    """The program behind an artifact, and its kernels.

    ``modules`` are the loaded kernels, each None if the network is for another machine.
    """

    program: Program
    modules: Mapping[str, Any]
    toolchain: Toolchain
    cache: KernelCache
    build_s: float

    @property
    def executor(self) -> Executor:
        """The executor of the target that it was compiled for."""
        return self.toolchain.backend.executor

    def export(self, path: Path, meta: Mapping[str, Any]) -> None:
        """Links kernels, constants and program into one shared object."""
        triple = self.toolchain.triple
        require_linker(triple, str(path))
        objects = self._objects()
        codes, on_device = self.device_codes(), self.toolchain.backend.has_device_code
        data = {"meta": json.dumps(dict(meta)).encode(), **({"device_code": pack(codes)} if on_device else {})}
        linked = executable(self.program, hold=on_device, **data)
        for key, path_of_object in objects.items():
            library = tvm.runtime.load_static_library(str(path_of_object), [symbol(key)])
            linked.mod.import_module(library)
        if not objects:  # all outputs are inputs or constants; TVM does not export a module that imports nothing
            nothing = tvm.tirx.PrimFunc([], tvm.tirx.Evaluate(0)).with_attr("global_symbol", "hago_no_kernels")
            module = tvm.IRModule({"hago_no_kernels": nothing})
            linked.mod.import_module(tvm.compile(module, target=self.toolchain.target).mod)
        # Weights and kernels, once in LLVM's temporary files and once in the result.
        size = int(meta["size_bytes"]) + sum(item.stat().st_size for item in objects.values()) + sum(map(len, codes))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFolder() as place:
                hint = "free some space there, or set TMPDIR to a folder with more"
                require_space(place, 2 * size + (1 << 20), hint, where=f"temporary files in {Path(place).parent}")
                require_space(path.parent, size + (1 << 18), where=str(path))
                library = Path(place) / path.name
                linked.export_library(str(library), fcompile=_Linker(triple), workspace_dir=place)
                append_checksum(library)
                write_atomic(path, library.read_bytes(), mode=0o755)
        except OSError as error:
            raise write_failure(error, path, size) from error

    def export_kernels(self, path: Path) -> None:
        """Links only the kernels into a library, in which each has its symbol. Raises BuildError."""
        link(list(self._objects().values()), path, self.toolchain.triple)

    def device_codes(self) -> list[bytes]:
        """What the kernels launch on a device beside the processor; empty if there is none."""
        return [code for key in self.modules if (code := self.cache.device_code(key)) is not None]

    def _objects(self) -> dict[str, Path]:
        """Key -> object file of every kernel; those that have disappeared from the cache are compiled again."""

        def stored(key: str) -> Path | None:
            return self.cache.object_file(key, self.toolchain.backend.has_device_code)

        lost = [key for key in self.modules if stored(key) is None]
        for key in lost:
            self.cache.forget(key)
        if lost:
            compile_missing(self.program, self.toolchain, self.cache)
        found = {key: stored(key) for key in self.modules}
        if None in found.values():
            raise StorageError(
                "files disappear from the kernel cache while they are in use",
                where=str(self.cache.folder),
                hint="is another process clearing it?",
            )
        return {key: path for key, path in found.items() if path is not None}

    def uses(self) -> list[KernelUse]:
        """Every kernel call of the program, in order."""
        types = self.program.types

        def use(step: ProgramStep, call: KernelCall, key: str) -> KernelUse:
            kinds = [_type(item, types) for item in (*step.inputs, *step.output)]
            return KernelUse(call.layer, call.family, key, tuple((k.dtype, k.shape) for k in kinds))

        steps = self.program.steps
        return [use(s, s.call, s.key) for s in steps if s.key is not None and s.call is not None]

    def kernel_times(self, repeats: int) -> list[tuple[str | None, str, float]]:
        """Times every kernel on its own, on zeros.

        Times in the cache are not measured again, unless the machine was busy then: once in each process.
        """
        measure = lambda uses: [self._time(use, repeats) for use in uses]  # noqa: E731
        return self.kernel_costs(self.executor.place(), measure)

    def kernel_costs(
        self, place: str, measure: Callable[[Sequence[KernelUse]], Sequence[KernelTime]]
    ) -> list[tuple[str | None, str, float]]:
        """(layer, family, cost) of every kernel call, in order, as ``measure`` finds it at ``place``.

        ``place`` names a machine and the kind of cost; a cost that the cache holds for it is not measured again if
        that cannot improve it.
        """
        uses = self.uses()
        new = list({use.key: use for use in uses if self.cache.wants_time(use.key, place)}.values())
        for use, found in zip(new, measure(new) if new else (), strict=True):
            self.cache.remember_time(use.key, place, found)
        known = {use.key: self.cache.time_of(use.key, place) or KernelTime(0.0) for use in uses}
        return [(use.layer, use.family, known[use.key].seconds) for use in uses]

    def _time(self, use: KernelUse, repeats: int) -> KernelTime:
        executor, module = self.executor, self.modules[use.key]
        tensors = [executor.tensor(np.zeros(shape, dtype)) for dtype, shape in use.tensors]
        if executor.has_clock:
            return least_of(executor.kernel_times(module[use.symbol], tensors, repeats))

        def run(calls: int) -> int:
            timed = max(1, calls - 1)
            module.time_evaluator(use.symbol, executor.device(), number=timed, repeat=1)(*tensors)
            return timed + 1  # it makes one call before it begins

        return time_kernel(run, repeats, by_cpu=executor.timed_by_cpu and self.toolchain.threads == 1)


def _type(item: str | np.ndarray, types: Mapping[str, TensorType]) -> TensorType:
    return types[item] if isinstance(item, str) else TensorType(item.dtype.name, item.shape)


class _Linker:
    """Links for TVM's export, which takes a callable that also knows the target."""

    def __init__(self, triple: str) -> None:
        self._triple = triple

    def get_target_triple(self) -> str:
        return self._triple

    def __call__(self, target: str, objects: list[str], **_: Any) -> None:
        link([Path(name) for name in objects], Path(target), self._triple)
