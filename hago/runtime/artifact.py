"""A compiled network: what `hago.compile` returns and `hago.load` reads back.

Running one needs only TVM's runtime and numpy; saving and profiling it need the machine that compiled it
(`Compiled`).
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, SupportsIndex

import numpy as np
import tvm_ffi
from tvm.runtime.vm import VirtualMachine

from .. import arguments
from ..errors import BuildError, DataError, MeasureError
from ..kernels import executor_named
from ..tensor import TensorInfo
from .checksum import has_valid_checksum
from .executor import unpack
from .processor import machine_name, machine_of, missing_features
from .threads import make_lock, use_threads

FORMAT = 1
_HOST = "cpu"  # reads a network's metadata, and runs networks whose metadata name no executor
_WRITTEN_BY = "`hago tune` and `hago compile` write them (model.so)"


class Compiled(Protocol):
    """What can be done with a network only where it was compiled."""

    @property
    def build_s(self) -> float:
        """Build time in seconds."""
        ...

    def export(self, path: Path, meta: Mapping[str, Any]) -> None:
        """Writes the network with ``meta`` as one shared object."""
        ...

    def kernel_times(self, repeats: int) -> list[tuple[str | None, str, float]]:
        """(layer, kernel family, seconds) of every kernel call in order."""
        ...


class Artifact:
    """A compiled network with static shapes; call it with numpy arrays.

    Threads may share it: concurrent calls take turns. A process that forks may use it in both processes.
    """

    def __init__(self, module: Any | None, meta: Mapping[str, Any], built: Compiled | None = None) -> None:
        """``module`` is TVM's executable; None for a network for another kind of machine, which can only be saved."""
        self._lock = make_lock()
        self._executor = executor_named(meta.get("executor", _HOST))
        self._machine: Any = None
        self.meta = dict(meta)
        self.input_info = tuple(TensorInfo(i["name"], i["dtype"], tuple(i["shape"])) for i in meta["inputs"])
        self.output_info = tuple(TensorInfo(o["name"], o["dtype"], tuple(o["shape"])) for o in meta["outputs"])
        self.threads = int(meta["threads"])
        self._built = built
        # Features that the code uses and this processor lacks: if there are any, it must not run.
        self.missing = [] if module is None else missing_features(meta.get("cpu_features", ()))
        zeros = [np.zeros(i.shape, i.dtype) for i in self.input_info]
        self._buffers: list[Any] = []
        self._main: Any = None
        if module is not None:
            try:
                self._machine = VirtualMachine(module, self._executor.device())
                self._buffers = [self._executor.tensor(array) for array in zeros]
                self._main = self._executor.prepared(self._machine, self._buffers)
            except Exception as error:
                raise self._executor.failure(error) from error
        # Inputs are copied here: to the memory of the buffers or, if numpy cannot see that, to an array beside it.
        shared = self._executor.shared_memory
        self._views = [_view(b, i) for b, i in zip(self._buffers, self.input_info, strict=False)] if shared else zeros

    @property
    def batch(self) -> int:
        """Samples per call (the first dimension of the first input)."""
        shape = self.input_info[0].shape if self.input_info else ()
        return shape[0] if shape else 1

    @property
    def timed_by_cpu(self) -> bool:
        """Whether a call on one thread takes its caller's CPU time and no other."""
        return self._executor.timed_by_cpu

    @property
    def has_clock(self) -> bool:
        """Whether the device itself tells how long calls take (`time_calls`)."""
        return self._executor.has_clock

    @property
    def build_s(self) -> float:
        """Build time in seconds; 0 for a loaded network."""
        return self._built.build_s if self._built else 0.0

    @property
    def size_bytes(self) -> int:
        """Size of the deployed constants (packed weights, biases, scales) in bytes."""
        return int(self.meta["size_bytes"])

    def __call__(self, *arrays: Any, **named: Any) -> list[np.ndarray]:
        """The outputs, in the model's order, for inputs given in order or by name.

        Raises DataError if an input is missing or does not fit.
        """
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            named, arrays = {**arrays[0], **named}, ()
        if len(arrays) > len(self.input_info):
            raise DataError(f"the network takes {len(self.input_info)} inputs, {len(arrays)} were given")
        feeds = {info.name: array for info, array in zip(self.input_info, arrays, strict=False)}
        for name in feeds:
            if name in named:
                raise DataError(f"input {name!r} is given twice, by position and by name")
        return self.run({**feeds, **named})

    def run(self, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """The outputs for inputs by name: float32 copies (or the model's own types).

        Raises DataError for inputs that do not fit, MeasureError if this processor cannot run it.
        """
        arrays = self._checked(feeds)
        with self._lock:
            outputs = self._on_device(arrays, lambda main: list(map(self._executor.array, main(*self._buffers))))
        return [as_declared(array, info) for array, info in zip(outputs, self.output_info, strict=True)]

    def time_calls(self, feeds: Mapping[str, Any], count: int) -> float:
        """Seconds that the device takes for ``count`` calls in a row, inputs and outputs in its memory.

        Only where it `has_clock`. Raises as `run` does.
        """
        arrays = self._checked(feeds)
        with self._lock:
            return self._on_device(arrays, lambda main: self._executor.time_calls(main, self._buffers, count))

    def _checked(self, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """The inputs in order. Raises DataError for those that do not fit, MeasureError if the network cannot run."""
        if self.missing or self._main is None:
            self._refuse()
        if len(feeds) != len(self.input_info):
            self._explain(feeds)
        arrays = []
        for info in self.input_info:
            value = feeds.get(info.name)
            if value is None or np.shape(value) != info.shape:
                self._explain(feeds)
            arrays.append(np.asarray(value))
        return arrays

    def _on_device(self, arrays: Sequence[np.ndarray], work: Callable[[Any], Any]) -> Any:
        """``work`` of the network's function, done, with ``arrays`` as inputs; the caller holds the lock."""
        for info, view, array in zip(self.input_info, self._views, arrays, strict=True):
            try:
                np.copyto(view, array, casting="same_kind")
            except TypeError as error:
                raise DataError(f"must be {info.dtype}, not {array.dtype}", where=f"input {info.name!r}") from error
        use_threads(self.threads)
        try:
            if not self._executor.shared_memory:
                for buffer, view in zip(self._buffers, self._views, strict=True):
                    buffer.copyfrom(view)
            done = work(self._main)
            self._executor.wait()
        except Exception as error:
            raise self._executor.failure(error) from error
        return done

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one self-contained shared object, weights included, for `hago.load`.

        Raises BuildError for a network that was loaded, or if no linker is found.
        """
        if self._built is None:
            raise BuildError("this network was loaded from a file; copy that file instead")
        self._built.export(Path(path), self.meta)

    def kernel_times(self, repeats: int = 10) -> list[tuple[str | None, str, float]]:
        """(layer, kernel family, seconds) of every kernel call in order, each measured on its own.

        Times are stored in the kernel cache. Raises BuildError for a loaded network.
        """
        if self._built is None:
            raise BuildError("the kernels of a loaded network cannot be timed")
        if self.missing or self._main is None:
            self._refuse()
        with self._lock:
            use_threads(self.threads)
            return self._built.kernel_times(repeats)

    def layer_times(self) -> dict[str, float]:
        """Seconds by layer; those of no layer (layout changes, conversions) are under ``""``."""
        return by_layer(self.kernel_times())

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuses pickling and copying, which both come here."""
        raise BuildError(
            "a compiled network cannot be pickled or copied: it is machine code",
            hint="use net.save(path) and, in the other process, hago.load(path); a forked process can use it as it is",
        )

    def _refuse(self) -> NoReturn:
        """Raises MeasureError: an instruction that the processor does not have would end the process."""
        here = f"lacks {', '.join(self.missing)}" if self.missing else f"is {machine_name()}"
        absent = self._executor.why_absent(self.meta.get("arch", ""))
        raise MeasureError(
            absent or f"this processor {here}: the network is for another processor",
            where=f"hardware {self.meta.get('hw')!r}",
            hint="save it and run it there; `hago hw detect` shows what fits this machine",
        )

    def _explain(self, feeds: Mapping[str, Any]) -> None:
        wanted = {info.name: info for info in self.input_info}
        for name in feeds:
            if name not in wanted:
                raise DataError(f"the network has no input {name!r}", hint=f"its inputs: {', '.join(wanted)}")
        for name, info in wanted.items():
            if name not in feeds:
                raise DataError(f"input {name!r} is missing", hint=f"its inputs: {', '.join(wanted)}")
            if np.shape(feeds[name]) != info.shape:
                raise DataError(
                    f"must have shape {list(info.shape)}, not {list(np.shape(feeds[name]))}",
                    where=f"input {name!r}",
                    hint="a compiled network has a fixed batch: compile with batch=... for another",
                )


def as_declared(array: np.ndarray, info: TensorInfo) -> np.ndarray:
    """An output in the model's type: the network returns bfloat16 as its bits, which become `ml_dtypes.bfloat16`."""
    if info.dtype != "bfloat16":
        return array
    from ml_dtypes import bfloat16

    return array.view(bfloat16)


def by_layer(costs: Iterable[tuple[str | None, str, float]]) -> dict[str, float]:
    """Sums by layer of (layer, kernel family, cost); those of no layer are under ``""``."""
    sums: dict[str, float] = {}
    for layer, _, cost in costs:
        sums[layer or ""] = sums.get(layer or "", 0.0) + cost
    return sums


def load(path: str | os.PathLike[str]) -> Artifact:
    """Reads a network that `Artifact.save` wrote. Needs no compiler.

    The file is machine code: load only what you trust. Raises BuildError if it is not such a file, or is for another
    processor.
    """
    where = arguments.path("a compiled network", path, BuildError)
    module, _, meta = open_library(where)
    try:
        net = Artifact(module, meta)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BuildError(f"its metadata are damaged: {error!r}", where=where, hint=_WRITTEN_BY) from error
    if net.missing:
        raise BuildError(
            f"this processor lacks {', '.join(net.missing)}: the network was compiled for {meta.get('hw')}",
            where=where,
            hint="compile it for this one; `hago hw detect` shows what fits this machine",
        )
    return net


def open_library(path: str) -> tuple[Any, Any, dict[str, Any]]:
    """What is in the file of a saved network: TVM's module, that of its kernels by their symbols, and the metadata.

    Raises BuildError as `load` does.
    """
    where = path
    if not Path(path).is_file():
        raise BuildError("no such file", where=where, hint=_WRITTEN_BY)
    try:
        intact, machine = has_valid_checksum(path), machine_of(path)
    except OSError as error:
        raise BuildError(f"cannot be read: {error.strerror}", where=where) from error
    if not intact:
        raise BuildError(
            "not a network that Hago compiled, or the file was truncated or changed",
            where=where,
            hint=f"copy it again; {_WRITTEN_BY}",
        )
    if machine not in (None, machine_name()):
        raise BuildError(
            f"the network was compiled for {machine}, this processor is {machine_name()}",
            where=where,
            hint="run it there, or compile it for this one; `hago hw detect` shows what fits this machine",
        )
    try:
        module = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")(_name_for_loader(path), "so")
        data = VirtualMachine(module, executor_named(_HOST).device())
        meta = json.loads(data["hago_meta"]().numpy().tobytes())
        found = meta.get("format")
    except Exception as error:
        raise BuildError(
            f"not a network that Hago compiled, or not for this processor: {error}", where=where, hint=_WRITTEN_BY
        ) from error
    if found != FORMAT:
        raise BuildError(
            f"format {found} is not format {FORMAT}, which this Hago reads",
            where=where,
            hint="compile it again with this Hago, or load it with the one that wrote it",
        )
    executor = executor_named(meta.get("executor", _HOST))
    absent = executor.why_absent(meta.get("arch", ""))
    if absent is not None:
        raise BuildError(
            f"the network was compiled for {meta.get('hw')}, and {absent}",
            where=where,
            hint="run it on a machine that has one, or compile it for this one; `hago hw detect` shows what fits",
        )
    kernels = next((one for one in module.imports if one.kind == "library"), module)
    try:
        if meta.get("device_code"):
            for code in unpack(data["hago_device_code"]().numpy().tobytes()):
                executor.attach(kernels, code)  # a kernel's host code looks for it in the library that it is in
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BuildError(f"its metadata are damaged: {error!r}", where=where, hint=_WRITTEN_BY) from error
    return module, kernels, meta


_files_seen: dict[str, list[tuple[int, int, int]]] = {}


def _name_for_loader(path: str | os.PathLike[str]) -> str:
    """The path, spelled differently when the file was replaced since it was last loaded.

    The system's loader compares names: it returns the library it has loaded, even if the file has changed since.
    """
    absolute = os.path.abspath(path)
    about = os.stat(absolute)
    seen = _files_seen.setdefault(absolute, [])
    file = (about.st_dev, about.st_ino, about.st_mtime_ns)
    if file not in seen:
        seen.append(file)
    folder, name = os.path.split(absolute)
    return os.path.join(folder, *["."] * seen.index(file), name)


def _view(buffer: Any, info: TensorInfo) -> np.ndarray:
    """The memory of a tensor as a numpy array, to copy into without a new tensor."""
    dtype = np.dtype(info.dtype)
    count = int(np.prod(info.shape, dtype=np.int64))
    pointer = buffer.data_ptr() if hasattr(buffer, "data_ptr") else None
    if pointer is None:
        return np.from_dlpack(buffer)
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(pointer)
    return np.frombuffer(memory, dtype).reshape(info.shape)  # type: ignore[call-overload]
