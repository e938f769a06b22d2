"""Numbers as text for readers: units, significant digits, proper minus signs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

NOTHING = "–"
MINUS = "−"

_TIME_UNITS = (("s", 1.0, 1.0), ("ms", 1e3, 1e-4), ("µs", 1e6, 1e-7), ("ns", 1e9, 0.0))


def significant(value: float, digits: int = 3) -> str:
    """``value`` with that many significant digits, without an exponent if possible."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: f"{MINUS}∞"}.get(value, "not a number")
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -5 <= magnitude <= 14:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    rounded = round(value, digits - 1 - magnitude)
    places = digits - 1 - math.floor(math.log10(abs(rounded)))  # 9.999 has become 10.0
    return f"{rounded:,.{max(places, 0)}f}".replace("-", MINUS)


def plain(value: float) -> str:
    """Four digits, or six if four would round the value to 1: ``0.8714``, ``0.999941``."""
    return f"{value:.6g}" if 0.999 <= abs(value) < 1 else f"{value:.4g}"


def signed(value: float, places: int) -> str:
    """With its sign, ``+0.4`` or ``−0.8``; ``0.0`` has none."""
    text = f"{value:+.{places}f}".replace("-", MINUS)
    return text[1:] if float(f"{value:.{places}f}") == 0 else text


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit that suits this many seconds, and its factor."""
    return next((unit, factor) for unit, factor, least in _TIME_UNITS if seconds >= least)


def duration(seconds: float | None, digits: int = 3) -> str:
    """``0.194 ms``, ``12.1 µs``."""
    if seconds is None:
        return NOTHING
    unit, factor = time_unit(abs(seconds))
    return f"{significant(seconds * factor, digits)} {unit}"


def pair_of_durations(first: float, second: float, digits: int = 2) -> tuple[str, str]:
    """Two times in one unit, with enough digits to distinguish them."""
    unit, factor = time_unit(max(first, second))
    for more in range(digits, digits + 3):
        texts = tuple(f"{significant(t * factor, more)} {unit}" for t in (first, second))
        if texts[0] != texts[1]:
            break
    return texts[0], texts[1]


def duration_interval(seconds: float | None, interval: tuple[float, float] | None) -> str:
    """``0.194 ms (0.190 to 0.199)``: one unit for all three."""
    if seconds is None:
        return NOTHING
    unit, factor = time_unit(seconds)
    if interval is None:
        return duration(seconds)
    places = _places(seconds * factor, 3)
    low, high = (f"{t * factor:,.{places}f}" for t in interval)
    return f"{seconds * factor:,.{places}f} {unit} ({low} to {high})"


def _places(value: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def clock(seconds: float) -> str:
    """A waiting time: ``0.4 s``, ``58 s``, ``12 min 5 s``, ``1 h 20 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def ratio(value: float | None) -> str:
    """A part of float32's latency: ``0.345``."""
    return NOTHING if value is None else significant(value, 3)


def ratio_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    """``0.345 (0.341 to 0.352)``."""
    if value is None or interval is None or interval[0] == interval[1]:
        return ratio(value)
    places = _places(value, 3)
    return f"{value:.{places}f} ({interval[0]:.{places}f} to {interval[1]:.{places}f})"


def factor(value: float) -> str:
    """How many times: ``2.9``, ``1.06``, ``14``."""
    if value < 1.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def size(size_bytes: float | None, digits: int = 3) -> str:
    """``268 kB``, ``1.2 MB``: in powers of 1000, with at most so many digits."""
    if size_bytes is None:
        return NOTHING
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
    unit, scale = next((each for each in units if size_bytes >= each[1]), units[-1])
    text = significant(size_bytes / scale, digits)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


def count(number: int) -> str:
    """``40.6 M``, ``271 k``, ``12``."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{significant(number / scale)} {unit}"
    return str(number)


def percent(share: float | None) -> str:
    """A share as ``12 %``, ``0.34 %``, ``0.0012 %``."""
    return NOTHING if share is None else f"{significant(share * 100, 2)} %"


def shape(dims: Sequence[int]) -> str:
    """``1×16×32×32``; a scalar's is ``scalar``."""
    return "×".join(map(str, dims)) or "scalar"


def plural(number: int, noun: str) -> str:
    """``1 layer``, ``3 layers``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listing(items: Iterable[str], most: int | None = None) -> str:
    """``a, b and c``; beyond ``most`` items the rest is counted."""
    names = list(items)
    if most is not None and len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def cpu_name(name: str) -> str:
    """The common name of a processor, without trademarks, clock rate and family numbers."""
    short = re.sub(r"\((R|TM|tm|C)\)|\s+\(.*?\)\s*$|@.*$|\bCPU\b|\bProcessor\b", " ", name)
    return " ".join(short.split()) or name


def no_break(text: str) -> str:
    """The same text, with numbers and their units, and names such as top-1, kept on one line."""
    text = re.sub(r"(?<=\d) ([kMG]) MAC\b", "\u00a0\\1\u00a0MAC", text)
    text = re.sub(r"(?<=\btop)-(?=\d)", "\u2011", text)
    return re.sub(r"(?<=\d) (?=(s|ms|µs|ns|MAC|kB|MB|GB|B|dB|k|M|G|points?|min|h)\b|%)", "\u00a0", text)
