"""Every bad input gets one clear message: what is wrong, where, what to do; and docs/errors.md says the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from bad_input_cases import CASES
from bad_inputs import BadInput, working_in, write_usual_files

from hago.cli import EXIT_ERROR, main

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def error_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("error_table", ROOT / "scripts" / "error_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def committed() -> str:
    return (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


def _name(case: BadInput) -> str:
    return f"{case.group}: {case.title}"


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_the_message_says_what_where_and_what_to_do(
    case: BadInput,
    tmp_path: Path,
    kernels_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error_table: ModuleType,
    committed: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(kernels_folder.parent))
    error = case.run(tmp_path)
    assert type(error) is case.error
    assert case.what in error.what
    for part, found in ((case.where, error.where), (case.hint, error.hint)):
        if part is None:
            assert found is None
        else:
            assert found is not None and part in found
    assert str(tmp_path) not in str(error)
    assert error_table.row(case, error) in committed, "run: python scripts/error_table.py"


def test_the_committed_table_holds_nothing_else(error_table: ModuleType, committed: str) -> None:
    rows = [line for line in committed.splitlines() if line.startswith("| ") and not line.startswith("| problem |")]
    assert len(rows) == len(CASES)
    assert committed == error_table.page(dict(zip(CASES, rows, strict=True))), "run: python scripts/error_table.py"


def test_there_are_enough_cases_and_each_stands_once() -> None:
    assert len(CASES) >= 40
    assert len({_name(case) for case in CASES}) == len(CASES)


def test_the_command_line_prints_one_message_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_usual_files(tmp_path)
    with working_in(tmp_path):
        code = main(["inspect", "model.onnx", "--hw", "x86-avx512-vni"])
    out, err = capsys.readouterr()
    assert code == EXIT_ERROR
    assert out == ""
    assert err == (
        "error: x86-avx512-vni: there is no such hardware spec\n"
        "  hint: did you mean 'x86-avx512-vnni'? (hago hw list; a file needs its .yaml)\n"
    )
