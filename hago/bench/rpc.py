"""Benches on other machines: boards that time candidates over RPC, and the emulator that counts instructions.

If the network has one right answer, bit for bit (it is all integers), accuracy is measured on this machine, and a few
samples run on the device must give the same outputs. Otherwise accuracy is measured on the board.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..compiler.build import CrossBuilt, cross_build
from ..compiler.built import KernelUse
from ..compiler.cache import KernelCache
from ..compiler.conformance import is_exact
from ..device.config import Device
from ..device.counting import Counter
from ..device.device_pool import Pool, PoolMember
from ..device.package import write_runner
from ..device.remote import RemoteNet
from ..errors import MeasureError
from ..files import TemporaryFolder, hash_bytes
from ..lower import lower
from ..measure.clocks import REMOTE
from ..measure.instructions import INSTRUCTION_S, InstructionEstimate
from ..measure.kernels import KernelTime
from ..measure.latency import Latency, latency_of
from ..measure.turns import Series
from ..result_files import LIBRARY_FILE, SCRIPT_FILE
from ..runtime.artifact import by_layer
from ..spec import HardwareSpec, resolve_hw
from ..tensor import TensorInfo
from . import Candidate, Feeds, MeasurementBudget, Timing
from .local import quietest

if TYPE_CHECKING:
    from ..measure.runner import Runner

_ROUNDS, _ROUND_S = 20, 0.01
_FORMS_KEPT = 4
_CLOSE = 1e-3  # float32 on two machines: largest difference relative to the largest output


@dataclass(frozen=True)
class _Form:
    """A candidate compiled for the device, saved; ``exact``: there is one right answer."""

    key: str
    network: CrossBuilt
    path: Path
    exact: bool

    def layer_costs(
        self, place: str, measure: Callable[[Sequence[KernelUse]], Sequence[KernelTime]]
    ) -> Mapping[str, float]:
        """Costs of its kernels, summed by layer."""
        return by_layer(self.network.built.kernel_costs(place, measure))


class _Remote:
    """What both benches share: candidates compiled for the device, and the comparison of outputs with this machine."""

    estimated = False
    files = (SCRIPT_FILE,)

    def __init__(self, devices: Sequence[Device], *, threads: int, cache: KernelCache, seed: int = 0) -> None:
        self.spec: HardwareSpec = resolve_hw(devices[0].spec)
        self.host: HardwareSpec = resolve_hw("auto")
        self.pool = Pool(devices)
        self.threads, self.cache, self.seed = threads, cache, seed
        self._place = TemporaryFolder()
        self._forms: dict[str, _Form] = {}

    @property
    def where(self) -> str:
        device = self.pool.devices[0]
        return f"{self.pool.name} ({device.spec}, {', '.join(d.address for d in self.pool.devices)})"

    def identity(self) -> Mapping[str, str]:
        return {"measured on": "instructions" if self.estimated else f"devices of {self.spec.name}"}

    @contextmanager
    def runner(self, candidate: Candidate) -> Iterator[Runner]:
        from ..runners import TvmRunner

        form = self._form(candidate)
        if form.exact or self.estimated:  # an emulated machine would take minutes: see docs/devices.md
            yield TvmRunner(candidate.artifact, name=candidate.name)
        else:
            yield _DeviceRunner(candidate, lambda feeds: self._run(form, feeds))

    def save(self, candidate: Candidate, folder: Path) -> None:
        network = self._form(candidate).network
        network.save(folder / LIBRARY_FILE)
        write_runner(candidate.artifact.input_info[0], folder, network.built.executor.kind)

    def close(self) -> None:
        self.pool.close()
        self._place.cleanup()

    def _form(self, candidate: Candidate) -> _Form:
        """The candidate for the device."""
        key = hash_bytes(candidate.proto.SerializeToString(deterministic=True))[:24]
        if key not in self._forms:
            lowered = lower(candidate.proto, self.spec)
            network = cross_build(lowered, self.spec, threads=self.threads, cache=self.cache)
            path = Path(self._place.name) / f"{key}.so"
            network.save(path)
            self._forms[key] = _Form(key, network, path, is_exact(lowered, self.spec))
        return self._forms[key]

    def _forms_of(self, candidates: Sequence[Candidate]) -> list[_Form]:
        """The candidates for the device. Of earlier ones, float32's (the first) and the last few are kept."""
        forms = [self._form(candidate) for candidate in candidates]
        wanted = {form.key for form in forms}
        for key in [key for key in list(self._forms)[1:] if key not in wanted][:-_FORMS_KEPT]:
            self._forms.pop(key).path.unlink(missing_ok=True)
        return forms

    def _net(self, member: PoolMember, form: _Form) -> RemoteNet:
        return member.net(form.key, form.path, dict(form.network.meta))

    def _run(self, form: _Form, feeds: Feeds) -> list[NDArray[Any]]:
        return self.pool.do(lambda member: self._net(member, form).run(feeds)).result

    def _check(self, member: PoolMember, candidate: Candidate, form: _Form, samples: Sequence[Feeds]) -> int:
        """Compares the device's outputs with this machine's; returns the number of samples compared."""
        if not form.exact and candidate.quantized:  # an integer may flip if floats round differently
            return 0
        if form.key in member.checked:
            return len(samples)
        net = self._net(member, form)
        for index, feeds in enumerate(samples):
            for there, here in zip(net.run(feeds), candidate.artifact.run(feeds), strict=True):
                _hold(there, here, form.exact, f"sample {index} of {candidate.name} on {member.device.name}")
        member.checked.add(form.key)
        return len(samples)


class RpcBench(_Remote):
    """Boards of one kind; a candidate and float32 are timed in turns on one board, by its own clock."""

    def measure(self, candidates: Sequence[Candidate], samples: Sequence[Feeds], budget: MeasurementBudget) -> Timing:
        forms = self._forms_of(candidates)

        def work(member: PoolMember) -> tuple[dict[str, Latency], int]:
            checked = [self._check(member, c, f, samples) for c, f in zip(candidates, forms, strict=True)]
            member.keep({form.key for form in forms})
            nets = {c.name: self._net(member, f) for c, f in zip(candidates, forms, strict=True)}
            rounds = round(_ROUNDS * budget.rounds)
            if budget.limit_s is not None:
                rounds = max(3, min(rounds, int(budget.limit_s / (len(nets) * _ROUND_S))))
            measure = partial(self._in_turns, nets, samples[0], rounds, budget.spread)
            return (quietest(measure) if budget.settled else measure(0)), checked[-1]

        done = self.pool.do(work)
        latency, checked = done.result
        return Timing(latency, done.device, self.pool.new_trouble(), checked)

    def kernel_costs(self, candidate: Candidate) -> Mapping[str, float]:
        form = self._form(candidate)

        def work(member: PoolMember) -> Mapping[str, float]:
            def times(uses: Sequence[KernelUse]) -> list[KernelTime]:
                library = form.path.with_suffix(".kernels.so")
                form.network.built.export_kernels(library)
                try:
                    kernels = [(use.symbol, use.tensors) for use in uses]
                    built = form.network.built
                    return member.session.kernel_times_s(library, kernels, built.executor, built.device_codes())
                finally:
                    library.unlink()

            return form.layer_costs(f"device {self.pool.name}", times)

        return self.pool.do(work).result

    def _in_turns(
        self, nets: Mapping[str, RemoteNet], feeds: Feeds, rounds: int, spread: float, more: int
    ) -> dict[str, Latency]:
        """Times the networks round by round, in a random order; ratios are to the first."""
        calls = {}
        for name, net in nets.items():
            net.give(feeds)
            net.timed(1)  # lays out memory
            calls[name] = max(1, math.ceil(_ROUND_S / max(net.timed(1)[0], 1e-7)))
        rng, names = np.random.default_rng(self.seed + more), list(nets)
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for i in rng.permutation(len(names)):
                times[names[i]] += nets[names[i]].timed(calls[names[i]])
        series = {name: Series.of_times(times[name], REMOTE) for name in names}
        floats = series[names[0]]
        return {
            name: latency_of(name, self.threads, series[name], floats, calls[name], spread=spread, seed=self.seed)
            for name in names
        }


class CountingBench(_Remote):
    """No board: the emulator counts instructions, and also runs the samples that are checked."""

    estimated = True

    def __init__(self, devices: Sequence[Device], *, threads: int, cache: KernelCache, seed: int = 0) -> None:
        super().__init__(devices, threads=threads, cache=cache, seed=seed)
        self._counter = Counter(self.spec.name)
        self._counts: dict[str, int] = {}

    def measure(self, candidates: Sequence[Candidate], samples: Sequence[Feeds], budget: MeasurementBudget) -> Timing:
        forms = self._forms_of(candidates)
        new = [(c, f) for c, f in zip(candidates, forms, strict=True) if f.key not in self._counts]
        if new:
            self.pool.do(lambda member: [self._check(member, c, f, samples) for c, f in new])
            self._counts.update({form.key: self._counter.count(form.path).total for _, form in new})
        counts = [self._counts[form.key] for form in forms]
        estimates = {
            candidate.name: InstructionEstimate(candidate.name, self.threads, count, count / counts[0])
            for candidate, count in zip(candidates, counts, strict=True)
        }
        checked = len(samples) if forms[-1].exact else 0
        return Timing(estimates, self.pool.name, self.pool.new_trouble(), checked)

    def kernel_costs(self, candidate: Candidate) -> Mapping[str, float]:
        form = self._form(candidate)

        def count(uses: Sequence[KernelUse]) -> list[KernelTime]:
            found = self._counter.count_kernels(form.path, [(use.symbol, use.tensors) for use in uses])
            return [KernelTime(kernel.total * INSTRUCTION_S, disturbed=0.0) for kernel in found]

        return form.layer_costs(f"instructions of {self.spec.name}", count)

    def close(self) -> None:
        self._counter.close()
        super().close()


class _DeviceRunner:
    """A network on a device as a runner: if the device fails, another one continues with the next sample."""

    def __init__(self, candidate: Candidate, run: Callable[[Feeds], list[NDArray[Any]]]) -> None:
        self.name, self.threads = candidate.name, int(candidate.artifact.threads)
        self.inputs: tuple[TensorInfo, ...] = tuple(candidate.artifact.input_info)
        self._run = run

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        return self._run(feeds)

    def close(self) -> None:
        pass


def _hold(there: NDArray[Any], here: NDArray[Any], exact: bool, where: str) -> None:
    """Raises MeasureError if a device's output differs from this machine's: in any bit, or for floats clearly."""
    if exact and not np.array_equal(there, here):
        raise MeasureError(
            f"{int((there != here).sum())} of {here.size} outputs differ from this machine's, though only one answer "
            "is right",
            where=where,
            hint="please report this with the strategy; `hago device check` describes the device",
        )
    largest = float(np.abs(here).max(initial=0.0))
    if not exact and not np.allclose(there, here, rtol=0, atol=_CLOSE * max(largest, 1e-6)):
        off = float(np.abs(there.astype(np.float64) - here).max() / max(largest, 1e-30))
        raise MeasureError(
            f"float32's outputs differ from this machine's by {100 * off:.2g} % of the largest", where=where
        )
