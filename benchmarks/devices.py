"""One model on several devices: this machine measured, Arm processors estimated. Writes `hago report`'s files.

    python scripts/aarch64_sysroot.py --install     # once; and apt install qemu-user gcc
    python benchmarks/devices.py

The folder of the report gets the pages and the numbers; the searches themselves stay in a temporary folder.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from common import ARM_SPECS, arguments, load_bundle, provenance

from hago.files import make_folder, write_atomic
from hago.model import load_model
from hago.tuning.cross_device import compare_devices

NAMES = {"arm-cortex-a72": "a72", "arm-cortex-a76": "a76", "arm-neoverse-v1": "v1"}
FILES = ("devices.html", "devices.md", "devices.csv", "devices.json", "fronts.csv")


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/devices"))
    parser.set_defaults(only=["kws_dscnn"])
    parser.add_argument("--specs", nargs="*", default=list(ARM_SPECS))
    parser.add_argument("--trials", type=int, default=40)
    options = parser.parse_args()
    for name in options.only:
        compare_one(name, options.out if len(options.only) == 1 else options.out / name, options)


def compare_one(name: str, out: Path, options: Any) -> None:
    """The report of one model, into ``out``."""
    specs, bundle = options.specs, load_bundle(options.models, name)
    with tempfile.TemporaryDirectory() as place:
        lines = ["devices:", "  x86: {spec: auto, local: true}"]
        lines += [f"  {NAMES[spec]}: {{spec: {spec}, emulated: true}}" for spec in specs]
        (Path(place) / "devices.yaml").write_text("\n".join(lines) + "\n")
        folder = Path(place) / name
        comparison = compare_devices(
            load_model(bundle["model"]),
            devices=["x86", *(NAMES[spec] for spec in specs)],
            data=(bundle["x"][:], bundle["y"][:]),
            calibration=bundle["calib"][:],
            out=folder,
            devices_file=Path(place) / "devices.yaml",
            trials=options.trials,
            threads=1,
            say=lambda text: print(f"{name}: {text}", flush=True),
        )
        make_folder(out)
        for file in FILES:
            shutil.copy(folder / file, out / file)
        for device in comparison.devices:
            make_folder(out / device.name)
            shutil.copy(folder / device.name / "report.html", out / device.name / "report.html")
    text = (out / "devices.md").read_text(encoding="utf-8")
    write_atomic(out / "devices.md", f"{text}\n{provenance(1)}\n")
    for cell in comparison.cells:
        print(cell.tuned_for, cell.run_on, cell.how, cell.ratio, cell.accuracy, cell.reason or "")


if __name__ == "__main__":
    main()
