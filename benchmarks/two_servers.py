"""A search on two RPC servers of this machine, one of which is killed in the middle: nothing may be lost.

    python benchmarks/two_servers.py

The servers are TVM's own, as they run on a board. Needs nothing but the repository.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import REPOSITORY, markdown, provenance, write_table

import hago
from hago.bench.server import kill, rpc_server
from hago.record import Record
from hago.record_file import read_records
from hago.spec import resolve_hw

EXAMPLE = REPOSITORY / "examples" / "digits"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--kill-after", type=int, default=6, metavar="N", help="trials (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/two_servers.md"))
    options = parser.parse_args()
    samples = np.load(EXAMPLE / "samples.npz")
    with tempfile.TemporaryDirectory() as place, rpc_server() as (one, first), rpc_server() as (_, second):
        hw, file = resolve_hw("auto").name, Path(place) / "devices.yaml"
        addresses = {"one": first, "two": second}
        lines = [f"  {name}: {{spec: {hw}, rpc: '{host}:{port}'}}" for name, (host, port) in addresses.items()]
        file.write_text("devices:\n" + "\n".join(lines) + "\n")
        result = hago.tune(
            EXAMPLE / "model.onnx",
            data=(samples["x"], samples["y"]),
            devices="one+two",
            devices_file=file,
            trials=options.trials,
            patience=None,
            out=Path(place) / "out",
            progress=Killer(options.kill_after, one),
        )
        records = read_records(Path(place) / "out" / "records.jsonl")
    trials = [record for record in records if record.id >= 0 and record.part == "search"]
    write_table(options.out, text(trials, result, options), [record.to_dict() for record in trials])
    print(options.out.read_text())


class Killer:
    """A progress display that kills a server after so many trials."""

    def __init__(self, after: int, process: subprocess.Popen[bytes]) -> None:
        self._after, self._process = after, process

    def start(self, status: Any) -> None: ...
    def update(self, status: Any) -> None: ...
    def finish(self, status: Any) -> None: ...

    def trial(self, status: Any) -> None:
        if status.trial == self._after:
            kill(self._process)


def text(trials: list[Record], result: hago.Result, options: Any) -> str:
    ok = sum(record.state == "ok" for record in trials)
    rows = [
        [str(r.id + 1), r.state, r.device or "", f"{r.latency_ratio:.3f}" if r.latency_ratio else "-", r.trouble or ""]
        for r in trials
    ]
    head = f"""# A search on two servers, one killed

The example in `examples/digits`, tuned on two RPC servers at once (`--device one+two`). Server *one* was killed, with
SIGKILL, after trial {options.kill_after}: it cannot be reached from then on. {ok} of {options.trials} trials were
measured; why the search ended: {result.search.stopped}. Answer: {result.summary()}

"""
    return (
        head
        + markdown(["trial", "state", "device", "to float32", "what went wrong before"], rows)
        + "\n"
        + provenance(1)
        + "\n"
    )


if __name__ == "__main__":
    main()
