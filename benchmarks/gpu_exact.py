"""Every real model on the emulated block of a GPU: each kernel against the reference, in several orders of threads.

    python benchmarks/gpu_exact.py

The source that goes to NVRTC is compiled by g++ (tests/emulated_block.h). Whole networks are run at batch 1, at their
full size, each time in another random order and on another sample; then barriers are deleted from the kernels, and
other faults put into them, all of which must show. What is done is kept in build/gpu.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import asdict
from hashlib import sha256
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import EVERY_MODEL, REPOSITORY, arguments, markdown, provenance, write_table
from gpu_checks import Checked, Family, check
from gpu_faults import FaultCheck, check_faults
from gpu_networks import PLACE

from hago.compiler.cache import template_version
from hago.files import write_atomic
from hago.spec import load_spec

sys.path.insert(0, str(REPOSITORY / "tests"))
from emulated_block import SOURCES, can_emulate

_MODELS = ("digits", *EVERY_MODEL)


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/gpu_exact.md"))
    parser.set_defaults(only=list(_MODELS))
    parser.add_argument("--specs", nargs="*", default=["nvidia-a100", "nvidia-t4", "nvidia-h100"])
    parser.add_argument("--precisions", nargs="*", default=["int8"], help="(default: int8)")
    parser.add_argument("--tiles", type=int, default=1, help="the best so many of every product (default: 1)")
    parser.add_argument("--seeds", type=int, default=3, help="orders of threads, and samples (default: 3)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="write the tables with what is done until then")
    options = parser.parse_args()
    if not can_emulate():
        raise SystemExit("g++ is not installed: no block can be emulated")
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    place = PLACE / "exact" / _version()
    place.mkdir(parents=True, exist_ok=True)
    tasks = [
        (*one, tile)
        for tile in range(options.tiles)
        for one in product(options.specs, options.precisions, options.only)
    ]
    checked: list[Checked] = []
    faults: list[FaultCheck] = []
    pool = ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"))
    try:
        begun = [pool.submit(_kept, place, options.models, *task, options.seeds) for task in tasks]
        for one in _done(begun, None if end is None else end - 18 * options.minutes):  # the rest is for faults
            checked.append(one)
            print(_line(one), flush=True)
        cases = [pool.submit(check_faults, path, options.seeds) for path in sorted(place.glob("case-*.pickle"))]
        for found in _done(cases, end):
            faults.extend(found)
    except KeyboardInterrupt:
        print("interrupted: the tables have what is done")
    pool.shutdown(wait=True, cancel_futures=True)
    order = {task: i for i, task in enumerate(tasks)}
    checked.sort(key=lambda one: order[one.spec, one.precision, one.model, one.tile])
    faults.sort(key=lambda one: (one.gpu, one.family, one.change))
    data = {"networks": [asdict(one) for one in checked], "faults": [asdict(one) for one in faults]}
    write_table(options.out, _text(checked, faults, options), data)


def _done(begun: list[Future[Any]], end: float | None) -> Iterator[Any]:
    """The results, as they come; those that are not there at ``end`` are given up."""
    try:
        for one in as_completed(begun, None if end is None else max(0.0, end - time.monotonic())):
            yield one.result()
    except OutOfTime:
        print(f"{sum(one.cancel() for one in begun)} of {len(begun)} are left out, for want of time", flush=True)


def _version() -> str:
    """Of the templates and of what emulates the block."""
    text = "".join((REPOSITORY / "tests" / name).read_text() for name in SOURCES)
    return template_version().rpartition("-")[2] + sha256(text.encode()).hexdigest()[:8]


def _kept(place: Path, models: Path, spec: str, precision: str, model: str, tile: int, seeds: int) -> Checked:
    """What was found, now or before."""
    path = place / f"{spec}-{precision}-{model}-{tile}-{seeds}.json"
    if path.is_file():
        data = json.loads(path.read_text())
        return Checked(**{**data, "families": {name: Family(**one) for name, one in data["families"].items()}})
    found = check(models, spec, precision, model, tile, seeds, place)
    if not found.error:
        write_atomic(path, json.dumps(asdict(found)))
    return found


def _line(one: Checked) -> str:
    wrong = sum(family.wrong for family in one.families.values())
    faults = sum(len(family.faults) for family in one.families.values())
    missing = sum(one.refused.values())
    words = f"{wrong} wrong, {faults} faults, {missing} nodes without a kernel, {one.seconds:.0f} s {one.error}"
    return f"{one.spec} {one.precision} {one.model} tile {one.tile + 1}: {words}"


def _text(checked: list[Checked], faults: list[FaultCheck], options: Any) -> str:
    parts = [_TITLE.format(seeds=options.seeds), _by_family(checked)]
    wrong = [f"- {one.spec}, {one.model}, {name}: {family.wrong} wrong; {'; '.join(sorted(set(family.faults)))}"
             for one in checked for name, family in one.families.items() if family.wrong or family.faults]  # fmt: skip
    parts += ["### Wrong\n\n" + "\n".join(wrong) + "\n"] if wrong else []
    parts.append("## Networks\n\n" + _by_network(checked))
    missing = Counter[str]()
    for one in checked:
        missing.update(one.refused)
        missing.update([f"{one.model}: {one.error}"] if one.error else [])
    lines = "\n".join(f"- {reason} ({many} times)" for reason, many in missing.most_common(40))
    parts += [f"## Not run\n\n{lines}\n"] if missing else []
    parts.append(_FAULTS.format(seeds=options.seeds) + _by_fault(faults))
    return "\n".join([*parts, provenance(1) + "\n"])


def _by_family(checked: list[Checked]) -> str:
    rows = []
    for spec, name in sorted({(one.spec, name) for one in checked for name in one.families}):
        own = [one.families[name] for one in checked if one.spec == spec and name in one.families]
        kernels = {key for one in own for key in one.kernels}
        faults = sum(len(one.faults) for one in own)
        floats = sum(one.floats for one in own)
        error = f"{max(one.float_error for one in own):.0e}" if floats else "-"
        counts = (len(kernels), sum(one.elements for one in own), sum(one.wrong for one in own), floats)
        rows.append([load_spec(spec).kernels or spec, name, *(f"{number:,}" for number in counts), error, str(faults)])
    return markdown(
        ["GPU", "family", "kernels", "exact elements", "wrong", "float elements", "their error", "faults"], rows
    )


def _by_network(checked: list[Checked]) -> str:
    rows = []
    for one in checked:
        kernels = len({key for family in one.families.values() for key in family.kernels})
        wrong = sum(family.wrong for family in one.families.values())
        missing = str(sum(one.refused.values()) or "-")
        gpu = load_spec(one.spec).kernels or one.spec
        cells = [str(kernels), str(wrong), missing, one.outputs or "-", one.as_processor or "-", f"{one.seconds:.0f}"]
        rows.append([gpu, one.model, one.precision, str(one.tile + 1), *cells])
    head = ["GPU", "model", "precision", "tile", "kernels", "wrong", "not run", "outputs", "as this machine's", "CPU s"]
    return markdown(head, rows)


def _by_fault(faults: list[FaultCheck]) -> str:
    """One row for each change of each family: how many kernels show it, and what one of them shows."""
    changes: dict[tuple[str, str, str], list[FaultCheck]] = {}
    for one in faults:
        changes.setdefault((one.gpu, one.family, one.change), []).append(one)
    rows = []
    for (gpu, family, change), found in changes.items():
        shown = [one for one in found if one.shows]
        best = max(shown or found, key=lambda one: one.most)
        alike = len(set(best.found)) == 1 and not best.found[0].isdigit()
        seen = best.found[0] if alike else f"{' '.join(best.found)} of {best.elements:,}"
        rows.append([gpu, family, change, str(len(found)), str(len(shown)), seen])
    return markdown(["GPU", "family", "change", "kernels", "that show it", "wrong, or fault, in one of them"], rows)


_TITLE = """# NVIDIA kernels on the emulated block

Every real model and the digits example at batch 1 and full size, run by the kernels that a GPU would run, with their
threads in random order, {seeds} times, each with another sample and another order. Every node gets the inputs that
the emulated network gave it. What computes in integers, converts or moves must equal the numpy reference bit for bit,
floats within 1e-5 of the largest value. *faults*: barriers that not all threads reach, memory outside of arrays, copies
that are never waited for, misaligned ones. *tile*: the place of the products' tiles among those that may be chosen by
measuring them. *CPU s*: without the time of g++.
"""

_FAULTS = """## Faults put into kernels

From two kernels of each family with barriers, network and GPU, each `__syncthreads()` is deleted in turn; other faults
are put in where the kernel has a place for them. Wrong elements in each of {seeds} orders of threads, or the fault.
A barrier that a kernel of few steps does not need shows in others of its family alone. *none*: the kernel as it is.

"""


if __name__ == "__main__":
    main()
