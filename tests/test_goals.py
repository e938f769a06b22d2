"""What can be asked of an answer, as docs/usage.md shows it: every example is run; the report says what was asked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import working_in

from hago.cli import main
from hago.spec import resolve_hw

ROOT = Path(__file__).resolve().parent.parent
if not resolve_hw("auto").kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)


def examples() -> dict[str, list[str]]:
    """The commands of the section on goals, by the folder that they fill, in order."""
    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    section = text.split("## Other goals\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("hago ")]
    return {command[command.index("--out") + 1]: command for command in commands}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kernels_folder: Path) -> Path:
    """The examples' folders, all commands run with fewer samples and trials than they would take."""
    folder = tmp_path_factory.mktemp("goals")
    digits = folder / "examples" / "digits"
    digits.mkdir(parents=True)
    (digits / "model.onnx").symlink_to(ROOT / "examples" / "digits" / "model.onnx")
    with np.load(ROOT / "examples" / "digits" / "samples.npz") as file:
        np.savez(digits / "samples.npz", x=file["x"][:200], y=file["y"][:200])
    quick = ["--trials", "2", "--threads", "1", "--progress", "silent", "--cache", str(kernels_folder)]
    with working_in(folder):
        for command in examples().values():
            assert main([*command, *quick]) in (0, 1), command
    return folder


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        ("quick", "0.2 ms"),
        ("fits", "200 kB"),
        ("small", "The smallest within"),
        ("kept", "node_linear"),
        ("again", "small/strategy.yaml"),
        ("theirs", "small/model.qdq.onnx"),
        ("ranges", "calibrator mse or entropy"),
        ("corrected", "correction none or bias"),
    ],
)
def test_the_report_says_what_was_asked_for(place: Path, name: str, goal: str) -> None:
    (row,) = re.findall(r"^\W*Goal\W.*$", (place / name / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert goal in row.replace("\\", "")  # Markdown escapes underscores


def test_every_example_is_looked_at() -> None:
    assert list(examples()) == ["quick", "fits", "small", "kept", "again", "theirs", "ranges", "corrected"]
