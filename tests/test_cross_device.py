"""One model on several devices: the searches, the matrix, and the pages that tell them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import tiny

from hago.cli import main
from hago.compiler.cache import KernelCache
from hago.device import device_pool as pool_module
from hago.errors import DataError, DeviceError
from hago.model import load_model
from hago.report.device_comparison import ABSENT, gpu_cells
from hago.report.devices_page import make_page, write_devices
from hago.report.gpu_results import read_gpu_results, strategy_hash
from hago.spec import load_spec, resolve_hw
from hago.strategy import Choice, Strategy, uniform
from hago.tuning.cross_device import CANNOT, MEASURED, DeviceComparison, _why_not, compare_devices, differences

HOST = resolve_hw("auto")
if not HOST.kernels_available or HOST.family != "x86":
    pytest.skip("two specs that this machine runs are needed", allow_module_level=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with devices.yaml: this machine under two names, and a device that is not there."""
    folder = tmp_path_factory.mktemp("devices")
    devices = {
        "new": {"spec": "x86-avx2", "local": True},
        "old": {"spec": "x86-avx2", "local": True},
        "gone": {"spec": "x86-avx2", "rpc": "127.0.0.1:9", "timeout_s": 5},
    }
    (folder / "devices.yaml").write_text(json.dumps({"devices": devices}))
    return folder


@pytest.fixture(scope="module")
def comparison(place: Path, cache: KernelCache) -> DeviceComparison:
    patience, pool_module._PATIENCE_S = pool_module._PATIENCE_S, 0.0
    try:
        return compare(place, cache, ["new", "old", "gone"])
    finally:
        pool_module._PATIENCE_S = patience


def compare(place: Path, cache: KernelCache, devices: list[str], **more: Any) -> DeviceComparison:
    options: dict[str, Any] = {"trials": 2, "patience": None, "max_drop": 0.2, "cache": cache, **more}
    return compare_devices(
        tiny.network(),
        devices=devices,
        data=tiny.samples(),
        out=place / "out",
        devices_file=place / "devices.yaml",
        **options,
    )


def test_every_answer_runs_on_every_device(comparison: DeviceComparison) -> None:
    assert [device.name for device in comparison.devices] == ["new", "old"]
    assert [(cell.tuned_for, cell.run_on) for cell in comparison.cells] == [
        (tuned, ran) for ran in ("new", "old") for tuned in ("new", "old")
    ]
    for cell in comparison.cells:
        assert cell.how == MEASURED and cell.accuracy is not None and cell.ratio and cell.ratio > 0
    # Integers are the same on both: one network has one accuracy.
    for name in ("new", "old"):
        assert comparison.cell(name, "new").accuracy == comparison.cell(name, "old").accuracy


def test_a_device_that_is_not_there_is_reported(comparison: DeviceComparison, place: Path) -> None:
    assert set(comparison.gone) == {"gone"} and "no device answers" in comparison.gone["gone"]
    assert "gone could not be measured" in (place / "out" / "devices.html").read_text()


class _Tags(HTMLParser):
    """Opens and closes in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "br", "line", "path", "rect", "circle", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("line", "path", "rect", "circle"):
            return
        assert self.open.pop() == tag


def test_the_files_hold_the_numbers(comparison: DeviceComparison, place: Path) -> None:
    out = place / "out"
    page = (out / "devices.html").read_text()
    tags = _Tags()
    tags.feed(page)
    assert not tags.open
    text = (out / "devices.md").read_text()
    for cell in comparison.cells:
        assert f"{cell.ratio:.3f}" in page and f"{cell.ratio:.3f}" in text
    with open(out / "devices.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["tuned_for"], row["run_on"]) for row in rows] == [(c.tuned_for, c.run_on) for c in comparison.cells]
    assert [float(row["ratio"]) for row in rows] == [cell.ratio for cell in comparison.cells]
    data = json.loads((out / "devices.json").read_text())
    assert [device["name"] for device in data["devices"]] == ["new", "old"] and not data["devices"][0]["estimated"]
    with open(out / "fronts.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == sum(len(device.result.front) for device in comparison.devices)
    for name in ("new", "old"):
        assert f'href="{name}/report.html"' in page and (out / name / "report.html").is_file()


def test_searches_that_are_there_go_on(comparison: DeviceComparison, place: Path, cache: KernelCache) -> None:
    again = compare(place, cache, ["old"], trials=3)
    old = next(device for device in comparison.devices if device.name == "old")
    assert again.devices[0].result.trials == 3
    assert [r.id for r in again.devices[0].result.records[:2]] == [r.id for r in old.result.records]


def test_differences_come_with_the_rules_of_the_specs(comparison: DeviceComparison) -> None:
    model, first = comparison.model, comparison.devices[0]
    neon, dot = load_spec("arm-cortex-a72"), load_spec("arm-cortex-a76")

    def device(name: str, spec: Any, precision: str) -> Any:
        choices = {"conv1": Choice(precision), "conv2": Choice("int8")}
        return type(first)(name, spec, "", True, Strategy(model.hash, spec.name, choices), first.result, first.report)

    (found,) = differences(model, [device("a", neon, "int7"), device("b", dot, "int8")])
    assert found.layer == "conv1" and found.precisions == {"a": "int7", "b": "int8"}
    assert any("arm-cortex-a76 offers no int7" in line for line in found.why)
    assert any("smull" in line and "int7" in line for line in found.why)


def test_what_a_device_cannot_run() -> None:
    model = load_model(tiny.network())
    short = Strategy(model.hash, "arm-neoverse-v1", {"conv1": Choice("bfloat16")})
    assert "bfloat16" in (_why_not(short, model, load_spec("arm-cortex-a72")) or "")
    seven = uniform(model, load_spec("arm-cortex-a72"), "int7")
    assert _why_not(seven, model, load_spec("arm-cortex-a76")) is None  # seven bits lie in eight
    assert CANNOT == "cannot run"


def test_the_command(place: Path, cache: KernelCache, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, samples = tiny.write(tmp_path)
    arguments = ["report", str(model), "--data", str(samples), "--devices", "new,old", "--trials", "1"]
    arguments += ["--out", str(tmp_path / "out"), "--devices-file", str(place / "devices.yaml"), "--progress", "silent"]
    assert main([*arguments, "--cache", str(cache.folder)]) == 0
    said = capsys.readouterr()
    assert "devices.html" in said.out and "old: every answer" in said.err
    assert main([*arguments[:4], "--devices", "nobody", "--devices-file", str(place / "devices.yaml")]) == 2
    assert "there is no device 'nobody'" in capsys.readouterr().err


def test_no_device_at_all(place: Path, cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_PATIENCE_S", 0.0)
    with pytest.raises(DeviceError, match="no device could be measured"):
        compare(place, cache, ["gone"])


def gpu_file(path: Path, model_hash: str, strategy: str, **changes: Any) -> Path:
    """Results of a bundle: int8 (``strategy``) takes a quarter of float32 at batch 1."""

    def time(seconds: float) -> dict[str, float]:
        return {"median_s": seconds, "low_s": 0.9 * seconds, "high_s": 1.1 * seconds}

    times = {"hago float32": time(4e-4), "hago int8": time(1e-4), "torch float16 graph": time(3.21e-4)}
    network = {"name": "net.int8.b1", "model": "net", "precision": "int8", "batch": 1, "strategy": strategy}
    kernel = {"layer": "conv1", "family": "conv", "seconds": 6e-6, "floor_s": 2e-6, "bound": "bytes"}
    data = {
        "hago_gpu_results": 1,
        "bundle": {"made": "today", "commit": "c", "models": {"net": {"hash": model_hash}}, "networks": [network]},
        "environment": {"device": {"name": "NVIDIA T4"}, "smi": {"driver_version": "580.1"}},
        "exactness": {"networks": {"net.int8.b1": {"right": True}}},
        "times": {"networks": {"net": {"1": times, "64": {"hago int8": time(2e-3)}}}},
        "kernels": {"networks": {"net.int8.b1": [kernel]}},
        "ends": {"times": "done"},
        **changes,
    }
    path.write_text(json.dumps(data))
    return path


def test_a_gpu_has_a_column_where_it_was_measured(
    comparison: DeviceComparison, place: Path, cache: KernelCache
) -> None:
    old = comparison.devices[1]
    known = strategy_hash(old.strategy)
    assert known
    file = gpu_file(place / "gpu.json", comparison.model.hash, known)
    assert compare(place, cache, ["old"], trials=2, gpu=[file]).cell("old", "NVIDIA T4")
    results = read_gpu_results(file)
    cells = (*comparison.cells, *gpu_cells(results, comparison.model, comparison.devices))
    found = replace(comparison, cells=cells, gpus=(results,))  # another search may have another answer
    cell = found.cell("old", "NVIDIA T4")
    assert (cell.how, cell.ratio) == (MEASURED, 0.25)
    write_devices(found, place / "out")
    other = gpu_file(place / "gpu.json", comparison.model.hash, "another strategy")
    (cell,) = gpu_cells(read_gpu_results(other), comparison.model, [old])
    assert (cell.how, cell.ratio) == (ABSENT, None)
    for name in ("devices.html", "devices.md"):
        text = (place / "out" / name).read_text()
        assert "run on NVIDIA T4" in text and "driver 580.1" in text and "published" in text.lower()
        for number in ("0.250", "0.321", "0.400", "2.00", "6.00", "3.00"):
            assert number in text, (name, number)
    data = json.loads((place / "out" / "devices.json").read_text())
    assert {(t["batch"], t["engine"]) for t in data["gpus"][0]["times"]} >= {(1, "hago int8"), (64, "hago int8")}


def test_a_gpu_that_did_not_have_the_model_says_so(
    comparison: DeviceComparison, place: Path, cache: KernelCache
) -> None:
    file = gpu_file(place / "gpu.json", "another model", "")
    found = replace(comparison, gpus=(read_gpu_results(file),))
    found = replace(found, cells=(*found.cells, *gpu_cells(found.gpus[0], found.model, found.devices)))
    page = make_page(found)
    assert any("Nothing was measured of this model on NVIDIA T4" in note for note in page.notes)
    assert all(cells[-1].main == "absent" for _, cells in page.matrix)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "must be results of a GPU, format 1"),
        ('{"hago_gpu_results": 1}', "results of a GPU are damaged: KeyError"),
        ('{"hago_gpu_results": 1, "bundle": []}', "results of a GPU are damaged"),
        ("[", "gpu.json"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "gpu.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_gpu_results(tmp_path / "gpu.json")


def test_names_must_differ(place: Path, cache: KernelCache) -> None:
    file = gpu_file(place / "gpu.json", "m", "")
    with pytest.raises(DeviceError, match="different names"):
        compare(place, cache, ["old"], gpu=[file, file])
