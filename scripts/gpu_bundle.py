"""Packs compiled networks with all that runs them into one folder, for a machine with an NVIDIA GPU and no network.

    python scripts/gpu_bundle.py OUT --models ../shared/models     # for an H100 or H200
    python scripts/gpu_bundle.py OUT --hw nvidia-t4 --only cifar10_resnet8
    python scripts/gpu_bundle.py --try                             # without a GPU, see below
    python scripts/gpu_bundle.py --table OUT/results/gpu.json > reports/gpu.md
    python scripts/gpu_bundle.py --import-times OUT/results/gpu.json

There, `python3 OUT/run.py` needs Python 3.12 with numpy, and the driver; it writes OUT/results/gpu.json within eight
minutes, which --table shows for all models and `hago report --gpu` for one. Networks that have no kernels yet are left
out and named. Weights of large float models are rounded to five bits, and samples to eight or sixteen, so that the
folder stays small; the outputs to expect are those of what travels.

--try packs the example and runs all stages on the emulated block of the tests. With a folder, it runs the bundle there
up to the driver, whose place a library takes that does nothing: what needs a GPU fails, and nothing else may.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from packing import runtime, tuning  # noqa: E402
from packing.graph import describe  # noqa: E402
from packing.models import PRECISIONS, Forms, Source, real_models  # noqa: E402
from packing.networks import Packer, Refused  # noqa: E402

from hago.compiler.cache import KernelCache  # noqa: E402
from hago.model import load_model  # noqa: E402
from hago.report.gpu_results import read_gpu_results  # noqa: E402
from hago.report.gpu_tables import PUBLISHED, exactness_table, kernels_table, times_table  # noqa: E402
from hago.spec import HardwareSpec, load_spec  # noqa: E402

FORMAT = 1
BATCHES = (1, 8, 64)
TUNED = 300  # kernels
_LIMIT = 60_000_000  # bytes
_WINDOW = 128 << 20  # bytes in which constants that several networks share are found again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("out", type=Path, nargs="?", help="folder to make (with --try: a bundle)")
    add("--hw", default="nvidia-h100", help="what to compile for (default: %(default)s)")
    add("--models", type=Path, default=ROOT.parent / "shared" / "models", help="default: ../shared/models")
    add("--only", nargs="*", default=(), metavar="NAME", help="these models alone")
    add("--batches", type=int, nargs="*", default=list(BATCHES))
    add("--precisions", nargs="*", choices=PRECISIONS, default=list(PRECISIONS))
    add("--cache", type=Path, help="kernel cache (default: the user's)")
    add("--tune", type=int, default=TUNED, metavar="N", help="tiles to try there, in all (default: %(default)s)")
    add("--try", dest="trial", action="store_true", help="run without a GPU")
    add("--table", type=Path, metavar="GPU.json", help="print these results as Markdown")
    add("--import-times", type=Path, metavar="GPU.json", help="keep times of kernels, measured elsewhere, in the cache")
    options = parser.parse_args()
    cache = KernelCache(options.cache)
    if options.import_times is not None:
        print(f"{tuning.import_times(options.import_times, cache)} times of kernels are in {cache.folder}")
    elif options.table is not None:
        print(table(options.table))
    elif options.trial:
        from packing import trial

        sys.exit(trial.run(options.out))
    elif options.out is None:
        parser.error("name a folder to make")
    else:
        sources = list(real_models(options.models, options.only))
        make_bundle(
            options.out, sources, load_spec(options.hw), options.batches, options.precisions, cache, options.tune
        )


def make_bundle(
    out: Path,
    sources: Sequence[Source],
    spec: HardwareSpec,
    batches: Sequence[int],
    precisions: Sequence[str],
    cache: KernelCache,
    tuned: int = TUNED,
    for_emulation: bool = False,
) -> dict[str, Any]:
    """Fills the folder ``out``; returns its manifest. Exits where it exists, or becomes too large.

    At most ``tuned`` kernels compete for the shapes of the networks. ``for_emulation`` packs the lowered graphs, which
    packing/emulated.py runs, and no runtime.
    """
    if out.exists():
        sys.exit(f"{out} exists already")
    shutil.copytree(HERE / "gpu_bundle", out, ignore=shutil.ignore_patterns("__pycache__"))
    archives = out / "archives"
    archives.mkdir()
    work = out / "work"
    work.mkdir()
    if not for_emulation:
        runtime.copy_runtime(work / "site")
        archive(archives / "site.tar.xz", work, ["site"])
    manifest: dict[str, Any] = {
        "hago_gpu_bundle": FORMAT,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "hw": spec.name,
        "arch": str(spec.target.get("arch", "")),
        "models": {},
        "networks": [],
        "not_built": [],
    }
    for source in sources:
        packer = Packer(Forms(source, spec), work, cache, for_emulation)
        _pack_model(packer, manifest, batches, precisions)
        archive(archives / f"{source.name}.tar.xz", work, ordered(work, source.name))
    manifest["tune"] = tuning.pack(sources, spec, batches, precisions, cache, work, tuned, for_emulation)
    if manifest["tune"] and not for_emulation:
        archive(archives / "tune.tar.xz", work, sorted(path.name for path in work.glob("tune.*")))
    shutil.rmtree(work)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    counts = f"{len(manifest['networks'])} networks, {len(manifest['not_built'])} without kernels"
    print(f"{out}: {size / 1e6:.1f} MB, {counts}")
    if size > _LIMIT:
        sys.exit(f"the bundle must have at most {_LIMIT / 1e6:.0f} MB: name fewer models (--only) or batches")
    return manifest


def _pack_model(packer: Packer, manifest: dict[str, Any], batches: Sequence[int], precisions: Sequence[str]) -> None:
    source, model = packer.forms.source, load_model(packer.forms.source.path)
    np.savez(packer.folder / f"{source.name}.samples.npz", **source.stored)  # type: ignore[arg-type]
    (packer.folder / f"{source.name}.graph.json").write_text(json.dumps(describe(model)))
    samples = len(next(iter(source.inputs.values())))
    about = {"hash": model.hash, "inputs": list(source.inputs), "samples": samples, "macs": model.macs}
    manifest["models"][source.name] = about
    for precision in precisions:
        for batch in batches:
            made = packer.network(precision, batch)
            if isinstance(made, Refused):
                manifest["not_built"].append(vars(made))
                print(f"{source.name} {precision} b{batch}: {made.reason}", flush=True)
            else:
                manifest["networks"].append(made)
                print(f"{made['name']}: {len(made['kernels'])} kernels", flush=True)


def ordered(folder: Path, model: str) -> list[str]:
    """The files of a model, those with the same weights next to each other."""
    return sorted(path.name for path in folder.glob(f"{model}.*"))


def archive(path: Path, folder: Path, names: Sequence[str]) -> None:
    """A compressed archive of files of ``folder``. Constants that several of them have are stored once."""
    # Weights lie on multiples of four bytes: their bytes are told apart by their place.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": _WINDOW, "lc": 0, "lp": 2, "pb": 2}]
    with lzma.open(path, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name in names:
            tar.add(folder / name, arcname=name, filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def table(path: Path) -> str:
    """Results of a GPU as Markdown: all models. Raises DataError for another file."""
    results = read_gpu_results(path)
    models = list(results.models)
    stages = ", ".join(f"{stage} {end}" for stage, end in results.ends.items())
    parts = [
        f"# Measured on {results.gpu}",
        f"{results.about}. Bundle of {results.made}, commit {results.commit}. Stages: {stages}.",
        "Milliseconds of one call: the median of rounds in turns, replayed as a CUDA graph or, for eager engines, many "
        "calls in a row.",
        times_table(results, models).markdown(),
        exactness_table(results, models).markdown(),
        "The kernels furthest from the least time for their bytes and operations:",
        kernels_table(results, models).markdown(),
        PUBLISHED,
    ]
    return "\n\n".join(parts)


def commit() -> str:
    """The commit of this repository, with a plus sign if files differ from it; "unknown" without git."""
    try:
        run = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
