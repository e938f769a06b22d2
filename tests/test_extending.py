"""The recipes of docs/extending.md: each diff applies to this code, touches no more files than it says, and works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hago.spec import resolve_hw

ROOT = Path(__file__).resolve().parent.parent
if not resolve_hw("auto").kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)


@dataclass(frozen=True)
class Recipe:
    """One section: ``files`` are those that its diffs touch outside of ``own``, ``most`` what the text promises."""

    title: str
    most: int
    own: tuple[str, ...]
    diffs: tuple[str, ...]
    example: str

    @property
    def files(self) -> set[str]:
        every = {name for diff in self.diffs for name in re.findall(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE)}
        return {name for name in every if not name.startswith(self.own)}


def recipes() -> list[Recipe]:
    """The sections of docs/extending.md that touch files, in order."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        said = re.search(r"^Files touched: (\d+)(?:, besides (.*))?\.$", section, re.MULTILINE)
        assert said is not None, section.splitlines()[0]
        own = tuple(re.findall(r"`(\S+?)`", said[2] or ""))
        blocks = {
            language: tuple(re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))
            for language in ("diff", "python")
        }
        found.append(Recipe(section.splitlines()[0], int(said[1]), own, blocks["diff"], "\n".join(blocks["python"])))
    return found


_SEARCHES = {"A sampler", "A metric"}  # which tests of searches and metrics show as well


def _parameter(recipe: Recipe) -> Any:
    marks = [pytest.mark.slow] if recipe.title in _SEARCHES else []
    return pytest.param(recipe, marks=marks, id=recipe.title.replace(" ", "-"))


@pytest.mark.parametrize("recipe", list(map(_parameter, recipes())))
def test_a_recipe_works_as_it_is_written(recipe: Recipe, tmp_path: Path, kernels_folder: Path) -> None:
    assert len(recipe.files) == recipe.most and recipe.example
    for name in ("hago", "search", "hw_specs"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for diff in recipe.diffs:
        applied = subprocess.run(
            ["git", "apply", "--recount", "-"], input=diff, cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        )  # fmt: skip
        assert applied.returncode == 0, f"the diff no longer fits the code:\n{applied.stderr}"
    (tmp_path / "example.py").write_text(recipe.example, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "example.py"]
        if "def test_" in recipe.example or "Suite" in recipe.example
        else [sys.executable, "example.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(kernels_folder.parent)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_no_recipe_touches_more_than_is_promised() -> None:
    promised = {
        "A method": 2, "A transformation": 2, "A knob": 2, "A quantized operator": 3, "A kernel for an operator": 1,
        "A target": 1, "A goal": 1, "A metric": 0, "A sampler": 0,
    }  # fmt: skip
    assert {recipe.title: recipe.most for recipe in recipes()} == promised


def test_a_target_takes_its_folder_its_spec_and_one_line() -> None:
    (target,) = (recipe for recipe in recipes() if recipe.title == "A target")
    assert target.own == ("hago/kernels/toy/", "hw_specs/toy.yaml")
    assert not any((ROOT / name).exists() for name in target.own)
    (line,) = re.findall(r"^diff [^\n]*kernels/__init__.py\n.*?(?=^diff )", target.diffs[0], re.DOTALL | re.MULTILINE)
    changed = [text for text in line.splitlines() if text[:1] in "+-" and text[:3] not in ("+++", "---")]
    assert changed == ['+    "toy": "hago.kernels.toy",']
