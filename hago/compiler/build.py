"""Lowered graph -> artifact: a small VM executable that calls kernels from the cache.

Every kernel is compiled by itself, once; a candidate of a search is then only a new list of calls, and
building it takes milliseconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm.target import Target

from ..errors import BuildError, HagoError
from ..files import hash_bytes
from ..kernels import cpu  # noqa: F401 - registers the emitters
from ..kernels.cpu.base import EMITTERS, ISAS, Isa, KernelCall, NodeView, TensorType, stored, stored_array
from ..kernels.cpu.fallback import emit_fallback, fallback
from ..kernels.cpu.fusion import fuse_elementwise
from ..kernels.cpu.pipeline import compile_template
from ..lower.graph import LoweredGraph, Node
from ..runtime.artifact import FORMAT, Artifact
from ..runtime.threads import default_threads
from .built import Built, triple_of
from .cache import KernelCache
from .executable import executable, symbol
from .linker import is_foreign

if TYPE_CHECKING:
    from ..spec import HardwareSpec

_ALIASES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}


@dataclass(frozen=True)
class Step:
    """One step of a program: a kernel call, or a tensor seen in another shape."""

    output: tuple[str, ...]
    inputs: tuple[str | np.ndarray, ...]
    key: str | None = None  # None: an alias of the only input
    call: KernelCall | None = None


@dataclass(frozen=True)
class Program:
    """What an artifact executes: steps over named tensors with static types."""

    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, TensorType]  # as memory holds them
    constants: Mapping[str, np.ndarray]
    declared: Mapping[str, TensorType] = field(default_factory=dict)  # of inputs and outputs, as ONNX has them


def build(
    lowered: LoweredGraph,
    spec: HardwareSpec,
    *,
    threads: int = 1,
    cache: KernelCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Artifact:
    """Compiles what is not in the cache yet, and puts the calls together.

    For another kind of machine (AArch64, on x86), what is returned can be saved, not run.
    ``progress`` hears how many of the missing kernels are compiled. Raises BuildError, and
    UnsupportedOpError for an operator that neither Hago nor TVM knows.
    """
    started = time.perf_counter()
    built = _built(lowered, spec, threads, cache, progress)
    if is_foreign(triple_of(built.target)):
        return Artifact(None, _describe(built.program, spec, threads), built)
    linked = executable(built.program)
    for kernel in built.modules.values():
        linked.mod.import_module(kernel)
    built = replace(built, build_s=time.perf_counter() - started)
    return Artifact(linked.mod, _describe(built.program, spec, threads), built)


@dataclass(frozen=True)
class CrossBuilt:
    """A network compiled for another machine: it can be saved, and run there."""

    meta: Mapping[str, Any]
    built: Built

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one self-contained shared object for `hago.load` there. Raises BuildError without a linker."""
        self.built.export(Path(path), self.meta)


def cross_build(
    lowered: LoweredGraph,
    spec: HardwareSpec,
    *,
    threads: int = 1,
    cache: KernelCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CrossBuilt:
    """Like `build`, for another machine (or as for one); ``threads`` are those of that machine."""
    built = _built(lowered, spec, threads, cache, progress)
    return CrossBuilt(_describe(built.program, spec, threads), built)


def _built(
    lowered: LoweredGraph,
    spec: HardwareSpec,
    threads: int,
    cache: KernelCache | None,
    progress: Callable[[int, int], None] | None,
) -> Built:
    """The program with all of its kernels compiled, for whichever machine."""
    started = time.perf_counter()
    cache = cache if cache is not None else KernelCache()
    isa, target = isa_of(spec), Target(dict(spec.target))
    program = emit(lowered, isa, threads, spec)
    modules = compile_missing(program, isa, target, threads, cache, progress)
    return Built(program, modules, target, isa, cache, threads, time.perf_counter() - started)


def _describe(program: Program, spec: HardwareSpec, threads: int) -> dict[str, Any]:
    """What the artifact says of itself: as JSON in the saved file."""

    def infos(names: tuple[str, ...]) -> list[dict[str, Any]]:
        types = ((name, program.declared[name]) for name in names)
        return [{"name": name, "dtype": t.dtype, "shape": list(t.shape)} for name, t in types]

    arrays = {id(i): i for step in program.steps for i in step.inputs if isinstance(i, np.ndarray)}
    return {
        "format": FORMAT,
        "inputs": infos(program.inputs),
        "outputs": infos(program.outputs),
        "threads": threads,
        "hw": spec.name,
        "cpu_features": list(getattr(spec, "cpu_features", ())),
        "size_bytes": sum(array.nbytes for array in arrays.values()),
    }


def isa_of(spec: HardwareSpec) -> Isa:
    """The instruction set that the kernels of this spec are written for. Raises BuildError."""
    name = spec.kernels
    if name is None or name not in ISAS:
        raise BuildError(
            f"there are no kernels for this hardware yet (have: {', '.join(ISAS)})",
            where=f"hardware {spec.name!r}",
            hint="`hago hw list` shows for which hardware code can be made",
        )
    return ISAS[name]


@dataclass(frozen=True)
class Refusal:
    """A node that cannot be compiled, the layer that it belongs to, and why."""

    node: str
    layer: str | None
    error: HagoError


def refusals(lowered: LoweredGraph, spec: HardwareSpec) -> list[Refusal]:
    """What `build` would refuse, found as it finds it, without compiling anything; nothing where it succeeds."""
    found: list[Refusal] = []
    emit(lowered, isa_of(spec), 1, spec, found)
    return found


def emit(
    lowered: LoweredGraph, isa: Isa, threads: int, spec: HardwareSpec, refused: list[Refusal] | None = None
) -> Program:
    """Turns every node into kernel calls.

    Raises the error of the first node that has none, or, where a list is given, puts all such nodes into it.
    """
    lowered = fuse_elementwise(lowered)
    meant = {name: TensorType(t.dtype, tuple(t.shape)) for name, t in lowered.types.items()}
    types = {name: stored(tensor) for name, tensor in meant.items()}
    constants = {name: stored_array(array) for name, array in lowered.constants.items()}
    steps: list[Step] = []
    target_key = json.dumps(dict(spec.target), sort_keys=True)
    for node in lowered.nodes:
        if node.is_onnx(*_ALIASES):
            steps.append(Step(node.outputs[:1], node.inputs[:1]))
            continue
        try:
            calls = _emit_node(node, isa, meant, lowered.constants)
        except HagoError as error:
            if refused is None:
                raise
            refused.append(Refusal(node.name, node.layer, error))
            continue
        for call in calls:
            types.update({k: stored(t) for k, t in call.temporaries.items()})
            inputs = tuple(constants.get(i, i) if isinstance(i, str) else stored_array(i) for i in call.inputs)
            key = _key(call, inputs, types, f"{isa!r} {target_key} {threads}")
            steps.append(Step(call.outputs, inputs, key, call))
    declared = {name: meant[name] for name in (*lowered.inputs, *lowered.outputs)}
    return Program(tuple(steps), lowered.inputs, lowered.outputs, types, constants, declared)


def _key(call: KernelCall, inputs: Sequence[str | np.ndarray], types: Mapping[str, TensorType], where: str) -> str:
    """What the code depends on: template, parameters, instruction set, target, and the types it is called with."""
    template = f"{call.template.__module__}.{call.template.__qualname__}"
    kinds = [
        (types[i].dtype, types[i].shape) if isinstance(i, str) else (i.dtype.str, i.shape)
        for i in (*inputs, *call.outputs)
    ]
    return hash_bytes(template, repr(call.params), repr(kinds), where)[:32]


def _emit_node(
    node: Node, isa: Isa, types: Mapping[str, TensorType], constants: Mapping[str, np.ndarray]
) -> list[KernelCall]:
    view = NodeView(
        node.name, node.op, node.domain, node.inputs, node.outputs, node.attrs, types, constants, node.layer
    )
    emitter = EMITTERS.get((node.domain, node.op), emit_fallback)
    try:
        return list(emitter(view, isa))
    except HagoError:
        raise
    except Exception as error:
        raise BuildError(
            f"no kernel could be made: {type(error).__name__}: {error}",
            where=f"node {node.name!r} ({node.op})",
        ) from error


def compile_missing(
    program: Program,
    isa: Isa,
    target: Target,
    threads: int,
    cache: KernelCache,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Key -> loaded module, for all kernels of the program; those missing are compiled side by side.

    Of kernels for another machine only the objects are kept, and None stands in place of the module.
    """
    foreign = is_foreign(triple_of(target))
    calls = {step.key: step.call for step in program.steps if step.key is not None and step.call is not None}
    found = {key: None if foreign else cache.get(key) for key in calls}
    missing = [key for key, module in found.items() if (cache.object_file(key) if foreign else module) is None]
    if not missing:
        return found

    def compiled(key: str) -> Any:
        return _compiled(key, calls[key], isa, target, threads, cache)

    with ThreadPoolExecutor(min(len(missing), default_threads())) as pool:
        try:
            for done, (key, module) in enumerate(zip(missing, pool.map(compiled, missing), strict=True)):
                found[key] = module
                if progress is not None:
                    progress(done + 1, len(missing))
        except BaseException:  # one failed, or Ctrl-C: what was not begun need not be
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _compiled(key: str, call: KernelCall, isa: Isa, target: Target, threads: int, cache: KernelCache) -> Any:
    """The kernel's module, compiled and kept."""
    try:
        function = call.template(call.params, isa, threads)
        compiled = compile_template(function, symbol(key), target, general=call.template is fallback)
    except HagoError:
        raise
    except Exception as error:
        raise BuildError(f"kernel {call.family} does not compile: {error}", where=f"layer {call.layer!r}") from error
    about = {"family": call.family, "params": repr(call.params), "isa": isa.name, "threads": threads}
    if is_foreign(triple_of(target)):
        cache.put_object(key, compiled.mod, about)
        return None
    return cache.put(key, compiled.mod, about)
