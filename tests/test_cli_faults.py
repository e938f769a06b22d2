"""The last guard of the command line: one message, a log, an exit code; silence where nobody reads."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hago import errors
from hago.cli import EXIT_ERROR, EXIT_FAULT, EXIT_INTERRUPTED, faults, main

NOTE = "\x1b[2Jnote"


def fails_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: object) -> int:
        raise error

    monkeypatch.setattr("hago.cli.cache._info", run)


def test_an_unexpected_exception_is_one_message_and_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    fails_with(ZeroDivisionError(NOTE), monkeypatch)
    assert main(["cache", "info", "--cache", "my folder"]) == EXIT_FAULT
    said = capsys.readouterr().err
    assert said.startswith("fault of Hago's: ZeroDivisionError: \\x1b[2Jnote\n") and "Traceback" not in said
    (log,) = (tmp_path / "hago").glob("fault-*.log")
    assert str(log) in said
    text = log.read_text()
    for part in ("hago cache info --cache 'my folder'", "Traceback", "ZeroDivisionError", "apache-tvm", "Python 3"):
        assert part in text
    assert "\x1b" not in text


@pytest.mark.parametrize("words", [["--debug", "cache", "info"], ["cache", "info", "--debug"]])
def test_debug_shows_the_traceback(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    fails_with(KeyError("x"), monkeypatch)
    assert main(words) == EXIT_FAULT
    assert "Traceback" in capsys.readouterr().err
    fails_with(errors.DataError("no"), monkeypatch)
    assert main(words) == EXIT_ERROR
    said = capsys.readouterr().err
    assert "Traceback" in said and said.endswith("error: no\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.ModelError("must be so", where="x"), EXIT_ERROR, "error: x: must be so\n"),
        (MemoryError("Unable to allocate 3 TiB"), EXIT_ERROR, "error: out of memory: Unable to allocate 3 TiB\n"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "stopped by Ctrl-C: what was not finished has not been written\n"),
    ],
)
def test_what_is_expected_leaves_no_log(
    error: BaseException,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    fails_with(error, monkeypatch)
    assert main(["cache", "info"]) == code
    assert capsys.readouterr().err.startswith(said)
    assert not list(tmp_path.iterdir())


def test_a_log_goes_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    log = faults.write_log(ValueError("x"), ["tune"])
    assert log is not None and log.parent == tmp_path / "temporary"
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file" / "below"))
    assert faults.write_log(ValueError("x"), ["tune"]) is None


@pytest.mark.parametrize("command", [["hw", "list"], ["cache", "info"]])
def test_a_reader_that_has_gone_is_no_error(command: list[str], tmp_path: Path) -> None:
    """``hago ... | true``: a table of rich's, and plain lines."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    ending = "from hago.cli import main; import sys; sys.stdin.read(); sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", ending, *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.close()
    assert process.wait(120) == 0
    assert process.stderr.read() == b""


def test_a_terminal_that_knows_ascii_alone_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, "ascii"))
    fails_with(errors.DataError("größe"), monkeypatch)
    assert main(["cache", "info"]) == EXIT_ERROR
    sys.stderr.flush()
    assert raw.getvalue() == b"error: gr\\xf6\\xdfe\n"
