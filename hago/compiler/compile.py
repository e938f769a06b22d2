"""Program -> compiled kernels: compiles, in parallel, those that the cache does not have yet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import BuildError, HagoError
from ..kernels.common.calls import KernelCall
from ..runtime.threads import default_threads
from .cache import KernelCache
from .program import Program
from .toolchain import Toolchain

Progress = Callable[[int, int], None]


def symbol(key: str) -> str:
    """The name of a kernel in its module."""
    return f"hago_{key}"


def compile_missing(
    program: Program, toolchain: Toolchain, cache: KernelCache, progress: Progress | None = None
) -> dict[str, Any]:
    """Key -> loaded module, for all kernels of the program.

    For another machine only objects are stored, and the modules are None. Raises BuildError if a kernel does not
    compile, StorageError if the cache cannot be written to.
    """
    foreign = toolchain.is_foreign
    calls = {step.key: step.call for step in program.steps if step.key is not None and step.call is not None}
    executor, apart = toolchain.backend.executor, toolchain.backend.has_device_code
    found = {key: None if foreign else cache.get(key, executor, apart) for key in calls}
    missing = [key for key, module in found.items() if (cache.object_file(key, apart) if foreign else module) is None]
    if not missing:
        return found

    def compiled(key: str) -> Any:
        return _compiled(key, calls[key], toolchain, cache)

    with ThreadPoolExecutor(min(len(missing), default_threads())) as pool:
        try:
            for done, (key, module) in enumerate(zip(missing, pool.map(compiled, missing), strict=True)):
                found[key] = module
                if progress is not None:
                    progress(done + 1, len(missing))
        except BaseException:  # one failed, or Ctrl-C: the rest is not needed
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _compiled(key: str, call: KernelCall, toolchain: Toolchain, cache: KernelCache) -> Any:
    """The kernel's module, compiled and stored."""
    backend, family, threads = toolchain.backend, toolchain.family, toolchain.threads
    try:
        compiled = backend.compile(call, family, threads, symbol(key), toolchain.target)
    except HagoError:
        raise
    except Exception as error:
        raise BuildError(f"kernel {call.family} does not compile: {error}", where=f"layer {call.layer!r}") from error
    about = {"family": call.family, "params": repr(call.params), "isa": family.name, "threads": threads}
    if toolchain.is_foreign:
        cache.put_object(key, compiled, about)
        return None
    return cache.put(key, compiled, about, backend.executor)
