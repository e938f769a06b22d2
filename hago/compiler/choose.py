"""Which of several kernels a call takes: the fastest, as measured on a device.

A template may have several tiles for one shape, and an estimate says which to try first. Where the device is at hand,
all are timed, once; the kernel cache keeps the times, also those that another machine has measured.
"""

from __future__ import annotations

from dataclasses import replace

from .built import Built
from .cache import KernelCache
from .compile import Progress, compile_missing
from .program import Program, ProgramStep, kernel_step
from .toolchain import Toolchain


def chosen(program: Program, toolchain: Toolchain, cache: KernelCache, progress: Progress | None = None) -> Program:
    """The program with the fastest kernels that are known, after timing those that this machine's device can time.

    A program whose calls have no alternatives is returned as it is. Raises as `time_alternatives` does.
    """
    if not any(map(has_choice, program.steps)):
        return program
    place = toolchain.backend.executor.place()
    if not toolchain.is_foreign:
        time_alternatives(program, toolchain, cache, place, progress)
    return with_fastest(program, toolchain, cache, place)


def time_alternatives(
    program: Program, toolchain: Toolchain, cache: KernelCache, place: str, progress: Progress | None = None
) -> None:
    """Times every kernel that a call of the program could take on this machine's device, unless the cache has it.

    ``place`` names the device. Raises what compiling and running kernels raise.
    """
    found = {step.key: step for old in program.steps if has_choice(old) for step in variants(old, program, toolchain)}
    wanted = [step for key, step in found.items() if key is not None and cache.wants_time(key, place)]
    if not wanted:
        return
    trial = replace(program, steps=tuple(wanted))
    built = Built(trial, compile_missing(trial, toolchain, cache, progress), toolchain, cache, 0.0)
    built.kernel_times(10)


def with_fastest(program: Program, toolchain: Toolchain, cache: KernelCache, place: str = "") -> Program:
    """The program with the fastest kernel for each call, by the times at ``place`` or else by those of other places.

    Calls for which not all times of one place are known keep the kernel that the estimate chose.
    """
    steps = (_fastest(step, program, toolchain, cache, place) if has_choice(step) else step for step in program.steps)
    return replace(program, steps=tuple(steps))


def has_choice(step: ProgramStep) -> bool:
    """Whether the step could take other kernels."""
    return step.call is not None and bool(step.call.alternatives)


def variants(step: ProgramStep, program: Program, toolchain: Toolchain) -> list[ProgramStep]:
    """The step with each of the kernels that it could take; the estimate's first."""
    call = step.call
    assert call is not None
    params = dict.fromkeys((call.params, *call.alternatives))
    return [kernel_step(replace(call, params=p), step.inputs, program.types, toolchain) for p in params]


def _fastest(step: ProgramStep, program: Program, toolchain: Toolchain, cache: KernelCache, place: str) -> ProgramStep:
    found = variants(step, program, toolchain)
    times = [cache.times_of(variant.key or "") for variant in found]
    common = set(times[0]).intersection(*times[1:])
    if not common:
        return step
    where = place if place in common else min(common)
    best = min(range(len(found)), key=lambda i: times[i][where].seconds)
    return found[best]
