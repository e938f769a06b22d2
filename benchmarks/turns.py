"""Which statistic of a turn's calls tells how long a call takes, on a quiet machine and beside other work.

    python benchmarks/turns.py

Collects turns of float32 and int8 on one thread, call by call, and asks each statistic for the ratio of the two in
windows of 25 rounds. The truth is the median of what the statistic in use says of whole sessions on the quiet machine.
Run it on a machine that does nothing else: it makes the other work itself, and ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from busy import MODELS, Network, busy_processes
from common import arguments, markdown, provenance, write_table

from hago.compiler.cache import KernelCache
from hago.measure.clocks import SYSTEM_CLOCKS
from hago.measure.latency import latency_of
from hago.measure.turns import Series, Turn, take_turn
from hago.runners import TvmRunner

WINDOW, ROUND_S = 25, 0.004  # as measure_latency has them
Turns = Sequence[Turn]


def in_use(floats: Turns, ints: Turns) -> float:
    """The least of each turn, median of the quieter half of the rounds."""
    return interval(floats, ints)[0]


def interval(floats: Turns, ints: Turns) -> tuple[float, float, float]:
    base, series = (Series.of_turns(turns, True, SYSTEM_CLOCKS.shared) for turns in (floats, ints))
    found = latency_of("int8", 1, series, base, 1)
    return found.ratio, found.ratio_low, found.ratio_high


def of_calls(
    statistic: Callable[[np.ndarray], float], of_rounds: Callable[[np.ndarray], float]
) -> Callable[..., float]:
    """A ratio of the two runners' ``of_rounds(statistic(a turn's calls))``."""

    def one(turns: Turns) -> float:
        return of_rounds(np.array([statistic(np.array([sample.cpu_s for sample in turn.samples])) for turn in turns]))

    return lambda floats, ints: one(ints) / one(floats)


STATISTICS: dict[str, Callable[[Turns, Turns], float]] = {
    "mean of turns, median": of_calls(np.mean, np.median),
    "least of turns, median": of_calls(np.min, np.median),
    "least of turns, lowest tenth": of_calls(np.min, lambda least: float(np.quantile(least, 0.1))),
    "least of all": of_calls(np.min, np.min),
    "least of turns, quieter half": in_use,
}


INTRODUCTION = """
Ratio of int8 to float32 on one thread, told by a number of statistics of the same turns, call by call, in windows of 25
rounds. Logarithm of what is told over the truth, mean ± standard deviation, in percent; the truth is the median of what
the last statistic, the one in use, says of whole sessions on the quiet machine. *excluded* counts the intervals of that
statistic that do not hold the truth.

"""


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/turns.md"))
    parser.set_defaults(only=list(MODELS))
    parser.add_argument(
        "--loads", type=int, nargs="*", default=[0, 2, 6, 12], help="busy processes (default: 0 2 6 12)"
    )
    parser.add_argument("--sessions", type=int, default=8, help="of each kind, each of two windows (default: 8)")
    parser.add_argument("--cache", type=Path, help="kernel cache (default: the user's)")
    options = parser.parse_args()
    cache = KernelCache(options.cache)
    networks = [Network.load(name, options.models, cache) for name in options.only]
    rows, truths = [], {}
    for load in options.loads:
        found: dict[str, list[tuple[Turns, Turns]]] = {network.name: [] for network in networks}
        with busy_processes(load):
            for seed in range(options.sessions):  # of all by turns: what lasts for seconds is in some sessions of each
                for network in networks:
                    found[network.name].append(collect(network, 2 * WINDOW, seed))
        for name, sessions in found.items():
            if load == options.loads[0]:
                truths[name] = float(np.median([in_use(*session) for session in sessions]))
            rows.append(row(name, load, windows(sessions), truths[name]))
            print(*rows[-1], flush=True)
    rows.sort(key=lambda cells: options.only.index(cells[0]))
    head = ["model", "busy", *STATISTICS, "excluded"]
    text = "# Statistics of turns\n\n" + INTRODUCTION.lstrip() + markdown(head, rows) + "\n"
    write_table(options.out, text + provenance(1) + "\n", {"truths": truths, "rows": rows})


def collect(network: Network, rounds: int, seed: int) -> tuple[list[Turn], list[Turn]]:
    """Turns of float32 and int8, of new networks, in a random order round by round."""
    runners = [TvmRunner(network.candidate(label, 1).artifact, name=label) for label in ("float32", "int8")]
    works = [lambda runner=runner: runner.run(network.feeds) for runner in runners]
    counts = []
    for work in works:
        begin = time.thread_time()
        for _ in range(20):
            work()
        counts.append(max(2, round(ROUND_S / ((time.thread_time() - begin) / 20))))
    turns: tuple[list[Turn], list[Turn]] = ([], [])
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        for i in rng.permutation(2):
            turns[i].append(take_turn(works[i], 1, counts[i], SYSTEM_CLOCKS))
    return turns


def windows(sessions: Sequence[tuple[Turns, Turns]]) -> list[tuple[Turns, Turns]]:
    return [(f[a : a + WINDOW], i[a : a + WINDOW]) for f, i in sessions for a in range(0, len(f), WINDOW)]


def row(name: str, load: int, found: Sequence[tuple[Turns, Turns]], truth: float) -> list[str]:
    cells = []
    for statistic in STATISTICS.values():
        errors = 100 * np.log([statistic(*window) / truth for window in found])
        cells.append(f"{errors.mean():+.0f} ± {errors.std():.0f}")
    outside = sum(not low <= truth <= high for _, low, high in (interval(*window) for window in found))
    return [name, str(load), *cells, f"{outside} of {len(found)}"]


if __name__ == "__main__":
    main()
