"""Damaged files of every kind that Hago reads, a thousand of each: does each get one clear error?

    python benchmarks/damaged_files.py

Every file is read by Hago's own reader in a process of its own, with a limit on memory and on time, so that a crash
is counted like all else. "read" is damage that does no harm, or that the kind is made to live with (a kernel that is
compiled again, a torn last record); anything but that or a HagoError is a fault of Hago's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import optuna
from common import markdown, provenance, write_table
from damage import KINDS, damaged

from hago.errors import HagoError

READ, REFUSED, TRACEBACK, HANG, CRASH = "read", "one clear error", "traceback", "hang", "crash"
FAULTS = (TRACEBACK, HANG, CRASH)
_LIMIT_S, _START_S = 60, 300
_MEMORY_BYTES = 12 << 30


Task = tuple[str, int]  # kind of file, seed


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged file."""

    kind: str
    seed: int
    damage: str
    outcome: str
    text: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--count", type=int, default=1000, metavar="N", help="files of each kind (default: %(default)s)")
    add("--only", nargs="*", default=list(KINDS), metavar="KIND", help="these kinds alone")
    add("--first", type=int, default=0, metavar="SEED", help="the first seed (default: %(default)s)")
    add("--workers", type=int, default=2, metavar="N", help="processes (default: %(default)s)")
    add("--out", type=Path, default=Path("reports/damaged_files.md"), help="default: %(default)s")
    options = parser.parse_args()
    tasks = [(kind, options.first + index) for index in range(options.count) for kind in options.only]
    shares = [tasks[start :: options.workers] for start in range(options.workers)]
    with ThreadPoolExecutor(options.workers) as pool:
        found = sorted((o for part in pool.map(_outcomes, shares) for o in part), key=lambda o: (o.kind, o.seed))
    bad = [outcome for outcome in found if outcome.outcome in FAULTS]
    for outcome in bad:
        print(f"\n{outcome.kind}, seed {outcome.seed}, {outcome.damage}: {outcome.outcome}\n{outcome.text}")
    write_table(options.out, text(found), [asdict(outcome) for outcome in bad])
    print(options.out.read_text())
    sys.exit(1 if bad else 0)


def _outcomes(tasks: list[Task]) -> list[Outcome]:
    """What becomes of these files; a process that dies or hangs is replaced."""
    context = multiprocessing.get_context("spawn")
    found: list[Outcome] = []
    while len(found) < len(tasks):
        here, there = context.Pipe()
        worker = context.Process(target=_serve, args=(there, tasks[len(found) :]), daemon=True)
        worker.start()
        there.close()
        limit_s = _START_S  # importing Hago takes a while on a busy machine
        while len(found) < len(tasks):
            kind, seed = tasks[len(found)]
            if not here.poll(limit_s):
                found.append(Outcome(kind, seed, "", HANG, f"no answer within {limit_s} s"))
                break
            try:
                found.append(here.recv())
            except EOFError:
                worker.join()
                code = worker.exitcode or 0
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                found.append(Outcome(kind, seed, "", CRASH, name))
                break
            limit_s = _LIMIT_S
        worker.kill()
        worker.join()
    return found


def _serve(there: Connection, tasks: list[Task]) -> None:
    """Makes and reads the files, and tells of each; runs in a process of its own."""
    warnings.simplefilter("ignore")
    optuna.logging.disable_default_handler()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    place = Path(tempfile.mkdtemp(prefix="hago-damage-"))
    try:
        for kind, seed in tasks:
            there.send(outcome(kind, seed, place / str(seed)))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def outcome(kind: str, seed: int, folder: Path) -> Outcome:
    """Makes one damaged file in the folder and reads it."""
    folder.mkdir(parents=True)
    path, how = damaged(kind, seed, folder)
    try:
        KINDS[kind].read(path)
        return Outcome(kind, seed, how, READ, "")
    except HagoError as error:
        return Outcome(kind, seed, how, REFUSED, str(error))
    except BaseException:
        return Outcome(kind, seed, how, TRACEBACK, "".join(traceback.format_exc()[-3000:]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def text(found: list[Outcome]) -> str:
    """The table, as Markdown."""
    names = (REFUSED, READ, TRACEBACK, HANG, CRASH)
    rows = []
    for kind in dict.fromkeys(outcome.kind for outcome in found):
        counts = Counter(outcome.outcome for outcome in found if outcome.kind == kind)
        rows.append([kind, str(sum(counts.values())), *(str(counts[name]) for name in names)])
    bad = sum(outcome.outcome in FAULTS for outcome in found)
    return (
        "# Damaged files\n\nFiles of every kind that Hago reads, damaged at random: cut short, bits flipped, bytes "
        "overwritten, put in or taken out, another kind's content, another encoding, nested without end, numbers that "
        "no field can hold, keys said twice, values of another type, fields left out. Each is read by Hago's own "
        'reader. "read": the damage does no harm, or the reader is made to live with it (a kernel is compiled again, '
        "half a last record is left out).\n\n"
        f"{len(found):,} files, {bad} faults.\n\n"
        + markdown(["file", "damaged", *names], rows)
        + f"\n{provenance(1)}\n"
    )


if __name__ == "__main__":
    main()
