"""What the documents show works: commands parse, examples run, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import working_in

from hago.cli import parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def _commands() -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        for block in blocks(path, "sh"):
            for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
                words = line.strip().removeprefix(".venv/bin/")
                if words.startswith("hago "):
                    yield path.name, words


@pytest.mark.parametrize(("document", "command"), list(_commands()))
def test_every_command_that_is_shown_parses(document: str, command: str) -> None:
    arguments = parser().parse_args(shlex.split(command, comments=True)[1:])
    assert hasattr(arguments, "run") or arguments.version


@pytest.mark.parametrize("document", ["README.md", "docs/api.md", "docs/kernels.md"])
def test_the_python_examples_run(
    document: str, tmp_path: Path, kernels_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word, but with fewer samples and trials: what they show is how to call, not what is found."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(kernels_folder.parent))
    digits = tmp_path / "examples" / "digits"
    digits.mkdir(parents=True)
    (digits / "model.onnx").symlink_to(ROOT / "examples" / "digits" / "model.onnx")
    with np.load(ROOT / "examples" / "digits" / "samples.npz") as file:
        np.savez(digits / "samples.npz", x=file["x"][:200], y=file["y"][:200])
    source = re.sub(r"\btrials=\d+", "trials=1", "\n".join(blocks(ROOT / document, "python")))
    assert "import" in source
    with working_in(tmp_path):
        exec(compile(source, document, "exec"), {})


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading_in_it(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8"))
    local = [(path.parent / file if file else path, anchor) for file, anchor in links if "://" not in file]
    assert [str(file) for file, _ in local if not file.exists()] == []
    assert [f"{file}#{anchor}" for file, anchor in local if anchor and anchor not in anchors(file)] == []


@pytest.mark.parametrize("name", ["design.md", "decisions.md", "kernels.md"])
def test_every_module_that_is_named_exists(name: str) -> None:
    folders = ("hago", "search", "tests", "scripts", "benchmarks")
    modules = [f"/{path.relative_to(ROOT)}" for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = re.findall(r"(?<![\w/])[\w/]+\.py\b", (ROOT / "docs" / name).read_text(encoding="utf-8"))
    foreign = {"codegen/opt/__init__.py", "granularity.py", "run.py"}  # of other projects; written for boards
    assert named
    assert [file for file in named if file not in foreign and not any(m.endswith(f"/{file}") for m in modules)] == []


def test_the_map_shows_every_package() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    packages = [path.parent.name for path in (ROOT / "hago").glob("*/__init__.py") if not path.parent.is_symlink()]
    assert packages
    assert [name for name in packages if f"`{name}/" not in text and f"`hago/{name}/" not in text] == []


def test_no_command_opens_a_board_to_every_network() -> None:
    """TVM's RPC server runs whatever it is sent: what is to be typed binds it to one address."""
    commands = [line for line in (ROOT / "docs" / "devices.md").read_text().splitlines() if line.startswith("    ")]
    servers = [line for line in commands if "tvm.exec.rpc" in line]
    assert servers and all(" --host " in line and "0.0.0.0" not in line for line in servers)
    assert servers[0].split("--host ")[1].startswith("127.0.0.1")
