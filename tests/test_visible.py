r"""Names of strangers reach terminals and pages as text: nothing in them is sent, nothing is markup."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import onnx
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hago.cli import main
from hago.errors import ModelError
from hago.record import Record
from hago.report.write import templates
from hago.search import LiveProgress, PlainProgress, Status
from hago.visible import cell, plain_markdown, visible

HOSTILE = (
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b31mC1", "a\rb", "a\nb", "\u202egnirts", "\u2066x\u2069", "\u2028",
    "[red]x[/red]", "[link=https://example.org]x[/link]", "<script>alert(1)</script>", "a|b", "`code`", "\x00",
    "\u200b", "\ufeff", "\x7f\x08", "[/]", "![x](y)", "\ud800",
)  # fmt: skip
SENT = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def sent(text: str) -> set[str]:
    """The characters of a text that are not shown but do something; line ends are the writer's own."""
    return {char for char in text if unicodedata.category(char) in SENT and char != "\n"}


@given(st.text(alphabet=st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L", "P", "Zs"])))
def test_nothing_that_is_not_seen_is_left(text: str) -> None:
    shown = visible(text)
    assert not sent(shown) and "\n" not in shown
    assert visible(shown) == shown
    assert not sent(visible(text, lines=True))


def test_what_is_seen_stays() -> None:
    for text in ("conv1/größe", "日本語", "a b\u00a0c", "−0.4 µs", "🙂", r"back\slash"):
        assert visible(text) == text
    assert visible("a\x1b\u202e\n") == r"a\x1b\u202e\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_richs_markup_is_printed_as_it_stands(name: str) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(cell(name))
    assert console.file.getvalue() == visible(name) + "\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_error_shows_the_name_that_it_is_about(name: str) -> None:
    text = str(ModelError(f"there is no layer {name}", where=name, hint=name))
    assert not sent(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_progress_shows_labels(name: str) -> None:
    last = Record(0, name.encode("utf-8", "replace").decode(), state="failed", reason=name)
    status = Status(stage=f"trying {name}", trial=1, trials=2, elapsed_s=1.0, left_s=1.0, max_drop=0.01, last=last)
    plain = io.StringIO()
    progress = PlainProgress(plain)
    progress.update(status)
    progress.trial(status)
    assert not sent(plain.getvalue()) and plain.getvalue().count("\n") == 2
    console = Console(file=io.StringIO(), width=300, color_system=None)
    console.print(LiveProgress(console).render(status))
    assert not sent(console.file.getvalue())  # type: ignore[attr-defined]


def test_inspect_shows_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    names = [name for name in HOSTILE if name not in ("\ud800", "\x00")]
    for start in range(0, len(names), 4):
        proto = onnx.ModelProto.FromString(tiny.network().SerializeToString())
        layers = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "GlobalAveragePool")]
        for node, name in zip(layers, names[start:], strict=False):
            node.name = name
        onnx.save(proto, path)
        assert main(["inspect", str(path), "--hw", "x86-avx2"]) == 0
        shown = capsys.readouterr().out
        assert not sent(shown)
        for node, name in zip(layers, names[start:], strict=False):
            assert visible(name) in shown, node.op_type


@pytest.mark.parametrize("name", HOSTILE)
def test_templates_print_what_can_be_seen(name: str) -> None:
    page = templates().from_string("<b>{{ name }}</b> {{ name|code }} {{ name|md }}")
    assert not sent(page.render(name=name))
    assert plain_markdown(name).count("|") == plain_markdown(name).count("\\|")
