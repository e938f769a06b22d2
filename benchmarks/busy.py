"""What a search tells of latency beside other work, against the same on a quiet machine.

    python benchmarks/busy.py

Run it on a machine that does nothing else: it makes the other work itself, and ends it. A repetition is a session of
its own: new networks, the A/A test, one candidate (int8 everywhere) timed beside float32 as a trial of a search is.
`--resume` goes on with what an interrupted run has measured. Some of it: `--only digits --counts 1 --loads 0 6
--repetitions 5`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import REPOSITORY, arguments, load_bundle, markdown, provenance, write_table

import hago
from hago.bench import Candidate, MeasurementBudget
from hago.bench.local import LocalBench
from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.data import make_samples
from hago.lower import lower
from hago.measure.clocks import BUSY_SHARE, SystemClocks
from hago.measure.latency import Latency, measure_latency
from hago.model import Model, load_model
from hago.runners import TvmRunner
from hago.spec import HardwareSpec, resolve_hw
from hago.strategy import uniform

DIGITS = REPOSITORY / "examples" / "digits"
MODELS = ("digits", "cifar10_resnet8", "kws_kwt1")
CALIBRATION, TRUTHS = 128, 15
AA_ROUNDS, AA_TEST_S = 2, 2.0  # as evaluator.py has them
BUSY = """
import os, sys, time
parent, until = int(sys.argv[1]), time.time() + float(sys.argv[2])
while os.getppid() == parent and time.time() < until:
    for _ in range(100_000):
        pass
"""


class WallClocks(SystemClocks):
    """Wall time alone: what latencies are on a quiet machine, and what they were taken for before."""

    def cpu_ns(self) -> int:
        return self.wall_ns()


@dataclass(frozen=True)
class Told:
    """What one session told; ``ratio`` is None where it told nothing."""

    model: str
    threads: int
    load: int
    ratio: float | None
    low: float | None
    high: float | None
    disturbed: float | None
    aa: float | None
    aa_holds: bool
    seconds: float


@dataclass(frozen=True)
class Network:
    """A model, its int8 form, and inputs for one call."""

    name: str
    model: Model
    qdq: Any
    feeds: dict[str, np.ndarray]
    spec: HardwareSpec
    cache: KernelCache

    @classmethod
    def load(cls, name: str, models: Path, cache: KernelCache) -> Network:
        if name == "digits":
            source, x = DIGITS / "model.onnx", np.load(DIGITS / "samples.npz")["x"]
        else:
            bundle = load_bundle(models, name)
            source, x = Path(bundle["model"]), bundle["calib"][0:CALIBRATION]
        spec, model = resolve_hw("auto"), load_model(source)
        samples = make_samples(np.asarray(x[:CALIBRATION], np.float32), model.inputs)
        qdq = hago.quantize(source, uniform(model, spec), calibration=samples, hw=spec)
        return cls(name, model, load_model(qdq).proto, samples.batch(0, model.batch), spec, cache)

    def candidate(self, label: str, threads: int) -> Candidate:
        """A network of its own: new buffers, the kernels of the cache."""
        proto = self.qdq if label == "int8" else self.model.proto
        artifact = build(lower(proto, self.spec), self.spec, threads=threads, cache=self.cache)
        return Candidate(label, proto, artifact, quantized=label == "int8")


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/busy.md"))
    parser.set_defaults(only=list(MODELS))
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 2], help="numbers of threads (default: 1 2)")
    parser.add_argument(
        "--loads", type=int, nargs="*", default=[0, 2, 6, 12], help="busy processes (default: 0 2 6 12)"
    )
    parser.add_argument("--repetitions", type=int, default=20, help="sessions of each kind (default: %(default)s)")
    parser.add_argument("--noisy", action="store_true", help="go on where the machine is not quiet: a try, no result")
    parser.add_argument("--resume", action="store_true", help="go on with what an interrupted run has measured")
    parser.add_argument("--cache", type=Path, help="kernel cache (default: the user's)")
    options = parser.parse_args()
    kept = options.out.with_suffix(".partial.jsonl")
    if not options.resume:
        kept.unlink(missing_ok=True)
    cache = KernelCache(options.cache)
    networks = {name: Network.load(name, options.models, cache) for name in options.only}
    truths = _truths(networks, options, kept)
    told = _sessions(networks, options, kept)
    rows = [summary(group, truths) for group in groups(told)]
    text = "# Latency beside other work\n\n" + INTRODUCTION.format(
        repetitions=options.repetitions, truths=TRUTHS, cpus=os.cpu_count()
    )
    text += markdown(HEAD, [cells(row) for row in rows]) + "\n" + verdict(rows) + "\n"
    data = {
        "truth": {f"{n}, {t}": v for (n, t), v in truths.items()},
        "rows": rows,
        "sessions": list(map(asdict, told)),
    }
    write_table(options.out, text + provenance(max(options.counts)) + "\n", data)
    kept.unlink(missing_ok=True)


INTRODUCTION = """
int8 everywhere against float32, one call of batch 1, told by {repetitions} sessions of each kind beside a number of
busy processes on {cpus} CPUs; each session is one of its own: new networks, the A/A test, then the candidate timed as a
trial of a search is. *truth* is the ratio by wall time on the quiet machine (median of {truths} sessions), *told* the
median of the ratios told and, in brackets, the least and the largest, *95 %* the median interval. *excluded* counts the
intervals that do not hold the truth, *wrong* the verdicts (faster, slower) that are not true, *not told* the sessions
that say that this machine cannot tell now (the interval holds 1, or no round was undisturbed). *disturbed* is the
median share of calls that other work interrupted, *A/A* counts the sessions in which float32 was not as fast as itself.

"""

HEAD = [
    "model", "threads", "busy", "truth", "told", "95 %", "excluded", "wrong", "not told", "disturbed", "A/A", "seconds",
]  # fmt: skip


def _truths(networks: dict[str, Network], options: Any, kept: Path) -> dict[tuple[str, int], float]:
    """Ratios by wall time with nothing beside it."""
    known = {(row["model"], row["threads"]): row["truth"] for row in _read(kept) if "truth" in row}
    unknown = [(name, threads) for threads in options.counts for name in networks if (name, threads) not in known]
    found: dict[tuple[str, int], list[float]] = {key: [] for key in unknown}
    for seed in range(TRUTHS):  # of all by turns: what lasts for seconds is in some sessions of each
        for name, threads in unknown:
            ratio = _true_ratio(networks[name], threads, seed, options.noisy)
            if ratio is not None:
                found[name, threads].append(ratio)
            elif not options.noisy:
                sys.exit("this machine is not quiet: there is nothing to hold against what is told beside other work")
    for (name, threads), ratios in found.items():
        known[name, threads] = median(ratios or [1.0])
        _keep(kept, {"model": name, "threads": threads, "truth": known[name, threads]})
        print(
            f"{name}, {threads} thread(s): truth {known[name, threads]:.3f}, {np.round(sorted(ratios), 2)}", flush=True
        )
    return {key: value for key, value in known.items() if key[0] in networks}


def _true_ratio(network: Network, threads: int, seed: int, noisy: bool) -> float | None:
    """By wall time, of networks of their own; None where other work interrupted too much for it."""
    runners = [TvmRunner(network.candidate(label, threads).artifact, name=label) for label in ("float32", "int8")]
    times = measure_latency(runners, network.feeds, rounds=60, budget_s=3.0, seed=seed, clocks=WallClocks())
    quiet = (times["int8"].disturbed or 0.0) < BUSY_SHARE
    return times["int8"].ratio if times["int8"].reliable and (quiet or noisy) else None


def _sessions(networks: dict[str, Network], options: Any, kept: Path) -> list[Told]:
    """All sessions; those of earlier runs are read."""
    told = [Told(**row) for row in _read(kept) if "truth" not in row]
    for load in options.loads:
        for threads in options.counts:
            for name, network in networks.items():
                done = sum((t.model, t.threads, t.load) == (name, threads, load) for t in told)
                with busy_processes(load if done < options.repetitions else 0):
                    for seed in range(done, options.repetitions):
                        told.append(session(network, threads, load, seed))
                        _keep(kept, asdict(told[-1]))
                        print(_line(told[-1]), flush=True)
    return told


def session(network: Network, threads: int, load: int, seed: int) -> Told:
    """The A/A test and one trial, as the evaluator of a search has them."""
    begin = time.perf_counter()
    bench = LocalBench(network.spec, seed)
    floats, twin, int8 = (network.candidate(label, threads) for label in ("float32", "float32 again", "int8"))
    budget = MeasurementBudget(rounds=AA_ROUNDS, time=AA_ROUNDS, limit_s=AA_TEST_S, settled=False)
    aa = _latency(bench, [floats, twin], network, budget)
    spread = abs(math.log(aa.ratio)) if aa.reliable else 0.0
    found = _latency(bench, [floats, int8], network, MeasurementBudget(spread=spread))
    numbers = (found.ratio, found.ratio_low, found.ratio_high) if found.reliable else (None, None, None)
    holds = aa.ratio_low <= 1 <= aa.ratio_high
    spent = time.perf_counter() - begin
    about = (found.disturbed, aa.ratio if aa.reliable else None, holds, spent)
    return Told(network.name, threads, load, *numbers, *about)


def _latency(
    bench: LocalBench, candidates: Sequence[Candidate], network: Network, budget: MeasurementBudget
) -> Latency:
    found = bench.measure(candidates, [network.feeds], budget).latency[candidates[-1].name]
    assert isinstance(found, Latency)
    return found


@contextmanager
def busy_processes(count: int, limit_s: float = 3600.0) -> Iterator[None]:
    """So many processes that take a CPU each; they end with the block, with this process, and after ``limit_s``."""
    command = [sys.executable, "-c", BUSY, str(os.getpid()), str(limit_s)]
    running: list[subprocess.Popen[bytes]] = []
    try:
        running += [subprocess.Popen(command) for _ in range(count)]
        time.sleep(1.0 if count else 0.0)
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def groups(told: Sequence[Told]) -> list[list[Told]]:
    """Sessions of one model, number of threads and load."""
    found: dict[tuple[int, str, int], list[Told]] = {}
    for one in told:
        found.setdefault((one.threads, one.model, one.load), []).append(one)
    return [found[key] for key in sorted(found, key=lambda key: (key[0], MODELS.index(key[1]), key[2]))]


def summary(group: Sequence[Told], truths: dict[tuple[str, int], float]) -> dict[str, Any]:
    """One row of the table."""
    first = group[0]
    truth = truths[first.model, first.threads]
    with_numbers = [(t.ratio, t.low, t.high) for t in group if t.ratio is not None]
    numbers = np.array(with_numbers, float).reshape(-1, 3)
    ratios, low, high = numbers.T
    return {
        "model": first.model,
        "threads": first.threads,
        "load": first.load,
        "truth": truth,
        "sessions": len(group),
        "told": [float(f(ratios)) for f in (np.median, np.min, np.max)] if len(ratios) else None,
        "interval": [float(np.median(low)), float(np.median(high))] if len(ratios) else None,
        "excluded": int(((low > truth) | (high < truth)).sum()),
        "wrong": int(((high < 1) & (truth >= 1)).sum() + ((low > 1) & (truth <= 1)).sum()),
        "not_told": len(group) - len(ratios) + int(((low <= 1) & (high >= 1)).sum()),
        "disturbed": median(t.disturbed or 0.0 for t in group),
        "aa_failed": sum(not t.aa_holds for t in group),
        "seconds": median(t.seconds for t in group),
    }


def cells(row: dict[str, Any]) -> list[str]:
    told, interval, n = row["told"], row["interval"], row["sessions"]
    return [
        row["model"],
        str(row["threads"]),
        str(row["load"]),
        f"{row['truth']:.3f}",
        "-" if told is None else "{:.3f} [{:.2f}, {:.2f}]".format(*told),
        "-" if interval is None else "{:.2f} to {:.2f}".format(*interval),
        f"{row['excluded']} of {n}",
        str(row["wrong"]),
        f"{row['not_told']} of {n}",
        f"{100 * row['disturbed']:.0f} %",
        str(row["aa_failed"]),
        f"{row['seconds']:.1f}",
    ]


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """The criteria and whether they hold."""
    sessions, excluded, wrong, untold = (
        sum(row[k] for row in rows) for k in ("sessions", "excluded", "wrong", "not_told")
    )
    share = excluded / max(sessions, 1)
    return (
        f"- Intervals that exclude the truth: {excluded} of {sessions} ({share:.1%}; at most 5 % allowed): "
        f"{'kept' if share <= 0.05 else 'MISSED'}.\n"
        f"- Wrong verdicts: {wrong} (none allowed): {'kept' if not wrong else 'MISSED'}.\n"
        f"- Sessions that say that this machine cannot tell now: {untold} ({untold / max(sessions, 1):.1%}).\n"
    )


def _line(told: Told) -> str:
    ratio = "not told" if told.ratio is None else f"{told.ratio:.3f} [{told.low:.3f}, {told.high:.3f}]"
    return f"{told.model}, {told.threads} thread(s), {told.load} busy: {ratio} ({told.seconds:.1f} s)"


def _keep(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


if __name__ == "__main__":
    main()
