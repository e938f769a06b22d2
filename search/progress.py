"""Progress of a search: a live display on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import IO, Any, Protocol, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..deadline import Deadline
from ..errors import SearchError
from ..measure.metric_text import MetricText
from ..record import Record
from ..text import duration, size
from ..visible import cell, visible

MODES = ("auto", "live", "plain", "silent")


@dataclass(frozen=True)
class Status:
    """The state of a search.

    ``trial`` of ``trials`` are finished; ``stage`` is the current activity; ``best`` is the best record within the
    bounds so far, ``last`` the newest. ``left_s`` is an estimate, None while there is none. ``bound`` is the bound in
    words.
    """

    stage: str
    trial: int
    trials: int | None
    elapsed_s: float
    left_s: float | None
    max_drop: float
    float: Record | None = None
    best: Record | None = None
    last: Record | None = None
    failed: int = 0
    bound: str = ""


class Progress(Protocol):
    """Receives the state of a search; must not raise. Pass your own to ``run_search``."""

    def start(self, status: Status) -> None:
        """The search begins."""
        ...

    def update(self, status: Status) -> None:
        """A new stage begins (``status.stage``); called often."""
        ...

    def trial(self, status: Status) -> None:
        """A trial is finished: ``status.last``."""
        ...

    def finish(self, status: Status) -> None:
        """The search has ended, for whatever reason."""
        ...


class SilentProgress:
    """Says nothing."""

    def start(self, status: Status) -> None: ...

    def update(self, status: Status) -> None: ...

    def trial(self, status: Status) -> None: ...

    def finish(self, status: Status) -> None: ...


class PlainProgress:
    """One line per trial, one when a kind of stage begins for the first time, and one after ``quiet_s`` of silence.

    For logs and pipes.
    """

    def __init__(self, stream: IO[str] | None = None, quiet_s: float = 10.0) -> None:
        self._stream, self._quiet_s = stream, quiet_s
        self._stages: set[str] = set()
        self._status: Status | None = None
        self._told_at = self._said_at = 0.0
        self._ended = threading.Event()

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        print(visible(text), file=self._stream if self._stream is not None else sys.stderr, flush=True)

    def start(self, status: Status) -> None:
        self._stages = set()
        self._ended = threading.Event()
        self.update(status)
        threading.Thread(target=self._remind, args=(self._ended,), daemon=True).start()

    def _remind(self, ended: threading.Event) -> None:
        """Repeats the current stage now and then."""
        while not ended.wait(self._quiet_s / 4):
            now, status = time.monotonic(), self._status
            if status is not None and now - self._said_at >= self._quiet_s:
                self._say(f"{_clock(status.elapsed_s + now - self._told_at)}  {status.stage}")

    def update(self, status: Status) -> None:
        self._status, self._told_at = status, time.monotonic()
        stage = status.stage.split(":")[0]  # without a step count
        if stage not in self._stages and not stage.startswith("trial "):
            self._stages.add(stage)
            self._say(f"{_clock(status.elapsed_s)}  {stage}")

    def trial(self, status: Status) -> None:
        self._status, self._told_at = status, time.monotonic()
        parts = [f"trial {_count(status)}"]
        if status.last is not None:
            parts.append(f"{status.last.label}: {describe(status.last)}")
        if status.best is not None and status.best is not status.last:
            parts.append(f"best {describe(status.best)}")
        if status.left_s is not None:
            parts.append(f"{_clock(status.left_s)} left")
        self._say(f"{_clock(status.elapsed_s)}  " + " | ".join(parts))

    def finish(self, status: Status) -> None:
        self._ended.set()
        self._say(f"{_clock(status.elapsed_s)}  {status.stage}")


class JobProgress:
    """A display that also covers what precedes the search; it starts with the first message of either."""

    def __init__(self, display: Progress, deadline: Deadline) -> None:
        self._display, self._deadline = display, deadline
        self._status = Status("", 0, None, 0.0, None, 0.0)
        self._state = "new"

    def say(self, stage: str) -> None:
        """The same status at another stage."""
        self.update(replace(self._status, stage=stage, elapsed_s=self._deadline.elapsed_s()))

    def start(self, status: Status) -> None:
        self.update(status)

    def update(self, status: Status) -> None:
        self._status = status
        if self._state == "new":
            self._state = "begun"
            self._display.start(status)
        else:
            self._display.update(status)

    def trial(self, status: Status) -> None:
        self._status = status
        self._display.trial(status)

    def finish(self, status: Status) -> None:
        self._status = status
        self.close()

    def close(self) -> None:
        """Ends the display, unless it has ended already."""
        if self._state == "begun":
            self._state = "ended"
            self._display.finish(replace(self._status, elapsed_s=self._deadline.elapsed_s()))


class LiveProgress:
    """A few lines on a terminal, rewritten as the search proceeds."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console if console is not None else Console(stderr=True)
        self._live: Live | None = None
        self._status: Status | None = None
        self._told_at = 0.0

    def start(self, status: Status) -> None:
        self.update(status)
        self._live = Live(get_renderable=self._now, console=self._console, refresh_per_second=4)
        self._live.start()

    def update(self, status: Status) -> None:
        self._status, self._told_at = status, time.monotonic()

    def _now(self) -> Any:
        """The last status, with current clocks."""
        if self._status is None:
            return Text("")
        since = time.monotonic() - self._told_at
        left = None if self._status.left_s is None else max(0.0, self._status.left_s - since)
        return self.render(replace(self._status, elapsed_s=self._status.elapsed_s + since, left_s=left))

    def trial(self, status: Status) -> None:
        self.update(status)

    def finish(self, status: Status) -> None:
        self.update(status)
        if self._live is not None:
            self._live.stop()  # shows the last status again
            self._live = None

    def render(self, status: Status) -> Any:
        """The lines for a status."""
        head = Table.grid(padding=(0, 1))
        total = status.trials or max(status.trial, 1)
        head.add_row(
            Text(f"trial {_count(status)}", style="bold"),
            ProgressBar(total=total, completed=min(status.trial, total), width=24),
            Text(f"{_clock(status.elapsed_s)} gone"),
            Text("" if status.left_s is None else f"about {_clock(status.left_s)} left", style="dim"),
        )
        body = Table.grid(padding=(0, 2))
        body.add_column(no_wrap=True)
        body.add_column(no_wrap=True, overflow="ellipsis")
        if status.float is not None and status.float.cost_s is not None:
            body.add_row("float32", cell(f"{_cost(status.float)}, {_accuracy(status.float)}"))
        if status.best is not None:
            body.add_row("best", Text(describe(status.best), style="green"))
        elif status.float is not None:
            wanted = status.bound or f"within a drop of {status.max_drop:g}"
            body.add_row("best", Text(f"none yet {wanted}", style="yellow"))
        if status.last is not None:
            style = "red" if status.last.state == "failed" else "dim"
            body.add_row(
                "last",
                cell(f"{describe(status.last)}  {status.last.label}", style),
            )
        if status.failed:
            body.add_row("failed", Text(str(status.failed), style="red"))
        body.add_row("now", cell(status.stage))
        return Group(head, body)


def make_progress(progress: str | Progress | None) -> Progress:
    """``"auto"``: live on a terminal, else plain; None or ``"silent"``: nothing; an object: itself.

    Raises SearchError for another name.
    """
    if progress is None or progress == "silent":
        return SilentProgress()
    if all(callable(getattr(progress, name, None)) for name in ("start", "update", "trial", "finish")):
        return cast(Progress, progress)
    if progress not in MODES:
        raise SearchError(f"there is no progress display {progress!r}", hint=f"displays: {', '.join(MODES)}")
    live = progress == "live" or (progress == "auto" and sys.stderr.isatty())
    return LiveProgress() if live else PlainProgress()


def describe(record: Record) -> str:
    """A record against float32 in a few words."""
    if record.state == "failed":
        return "failed: " + (record.reason or "no reason given").splitlines()[0]
    speed = "no latency"
    if record.latency_ratio is not None:
        of = "instructions (estimated)" if record.estimated else "latency"
        speed = f"{record.latency_ratio:.3f} of float32's {of}"
    text = f"{speed}, {_accuracy(record)}"
    if record.size_bytes is not None:
        text += f", {size(record.size_bytes)}"
    return text + " (stopped early)" if record.state == "pruned" else text


def _cost(record: Record) -> str:
    if record.instructions is not None:
        return f"{record.instructions / 1e6:.3g} M instructions"
    return duration(record.latency_s)


def _accuracy(record: Record) -> str:
    """``top-1 91.3 % (−0.2 points)``, ``cosine similarity 0.9999``."""
    if record.accuracy is None:
        return "no accuracy"
    metric = MetricText.of_record(record)
    text = f"{metric.info.name} {metric.value(record.accuracy)}"
    # Of a distance from float32's outputs the change says no more than the value.
    if record.accuracy_change is None or record.id < 0 or metric.info.against_float:
        return text
    return text + f" ({metric.change(record.accuracy_change)} {metric.change_unit}".rstrip() + ")"


def _count(status: Status) -> str:
    return f"{status.trial}/{status.trials}" if status.trials else str(status.trial)


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
