"""The report on the structure of the code: what it counts, on a toy package, and that Hago has no circle of imports."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import structure  # noqa: E402


def package(folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """A package ``toy`` of these files."""
    for name, text in {"__init__.py": "", **files}.items():
        path = folder / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"toy": folder / "toy"}


LAZY = "def f():\n    from .b import x\n"
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import X\n"
BY_PACKAGE = "from . import b\n"
BY_NAME = "import toy.b\n"


@pytest.mark.parametrize("first", ["from .b import x\n", LAZY, TYPES, BY_PACKAGE, BY_NAME])
def test_a_circle_of_any_kind_is_found(first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = package(tmp_path, {"a.py": first, "b.py": "from .a import y\n", "c.py": "from .a import z\n"})
    assert structure.main(toy) == 1
    assert "circles: 1\n  toy.a, toy.b\n" in capsys.readouterr().out


def test_a_package_may_import_its_modules_and_these_each_other(tmp_path: Path) -> None:
    files = {
        "a.py": "from . import sub\nfrom .sub.d import x\nimport os.path\n",
        "sub/__init__.py": "from .d import x\n",
        "sub/d.py": "from .e import y\n",
        "sub/e.py": "from .e import itself\n",
    }
    assert structure.main(package(tmp_path, files)) == 0


def test_linked_folders_are_not_counted_twice(tmp_path: Path) -> None:
    toy = package(tmp_path, {"sub/a.py": ""})
    (tmp_path / "toy" / "link").symlink_to(tmp_path / "toy" / "sub")
    assert sorted(structure.read_modules(toy)) == ["toy", "toy.sub.a"]


def test_long_signatures_namesakes_and_missing_docstrings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = ", ".join("abcdefgh")
    documented = '    def run(self):\n        """Runs."""\n'
    files = {
        "a.py": f"from typing import Protocol\nclass Runs(Protocol):\n    'Doc.'\n{documented}"
        f"class Twin:\n    'Doc.'\n    def run(self): ...\n    def walk(self, {many}): ...\n    def _own(self): ...\n",
        "b.py": "class Base:\n    'Doc.'\n    def halt(self):\n        'Doc.'\n    def stop(self): ...\n"
        "class Between(Base):\n    'Doc.'\n"
        "class Suite(Between):\n    'Doc.'\n    def halt(self): ...\n    def test_it_runs(self): ...\n",
        "sub/a.py": f"class Twin:\n    'Doc.'\ndef call({many}, i): 'Doc.'\ndef bare(): ...\n",
    }
    assert structure.main(package(tmp_path, files)) == 0
    told = capsys.readouterr().out
    assert "parameters: 1\n  9 toy.sub.a.call\n" in told
    assert "once: 1\n  Twin: toy.a, toy.sub.a\n" in told
    assert "folder: 1\n  a.py: toy.a, toy.sub.a\n" in told
    assert "docstring: 3\n  toy.a.Twin.walk\n  toy.b.Base.stop\n  toy.sub.a.bare\n" in told
