"""The exceptions of Hago.

Every error a user can cause says what must hold, what was found, where, and what to do next.

    HagoError
    +-- SpecError          a hardware spec (YAML) breaks a rule: names file, key path and rule
    +-- ModelError         a model cannot be read or normalized
    |   +-- UnsupportedOpError   an operator that cannot be compiled
    +-- DataError          samples that do not fit the model, hold NaN, overlap, or cannot be read
    +-- StrategyError      a strategy does not fit its model or its hardware
    +-- BuildError         compiling or linking failed; kernel cache trouble
    +-- MeasureError       an artifact failed on the device
    +-- DeviceError        a device is described incorrectly, cannot be reached, or does not answer
    |   +-- NoDeviceError  none of a search's devices can be reached any more
    +-- SearchError        a search cannot start, continue, or be resumed
    +-- StorageError       a folder or file cannot be written (disk full, no permission)
    +-- MissingExtraError  an optional package is needed (says the pip command)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .visible import visible

_LONGEST_REASON = 300  # characters


class HagoError(Exception):
    """Root of all errors that Hago raises on purpose.

    ``what`` is one sentence (what must hold and what was found), ``where`` names the file, layer,
    tensor or key, and ``hint`` says what to do next. Control characters of names and files are escaped in
    the message.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        text = what if where is None else f"{where}: {what}"
        super().__init__(visible(text if hint is None else f"{text}\n  hint: {hint}", lines=True))


@contextmanager
def faults_of_others(tell: Callable[[str], HagoError]) -> Iterator[None]:
    """Turns any exception of another library into the error that ``tell`` creates from the reason.

    For places where foreign data are parsed, since a damaged file can raise anything. Hago's own errors pass through.
    """
    try:
        yield
    except HagoError:
        raise
    except Exception as error:
        raise tell(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """The text of an exception, on one line of at most 300 characters, with its type where that adds information."""
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    bare = isinstance(error, (OSError, ValueError, RuntimeError, MemoryError)) and not isinstance(error, UnicodeError)
    named = said if said and bare else f"{type(error).__name__}: {said}" if said else type(error).__name__
    return named if len(named) <= _LONGEST_REASON else f"{named[:_LONGEST_REASON]} ..."


class SpecError(HagoError):
    """A hardware spec breaks a rule."""


class ModelError(HagoError):
    """A model cannot be read, checked or normalized."""


class UnsupportedOpError(ModelError):
    """The model holds an operator that cannot be compiled."""


class DataError(HagoError):
    """The samples cannot be used."""


class StrategyError(HagoError):
    """A strategy does not fit the model or the hardware."""


class BuildError(HagoError):
    """Compiling or linking failed."""


class MeasureError(HagoError):
    """An artifact could not be run or timed."""


class DeviceError(HagoError):
    """A device is described incorrectly, cannot be reached, or does not answer."""


class NoDeviceError(DeviceError):
    """None of the devices can be reached; the candidate is not at fault."""


class SearchError(HagoError):
    """A search cannot start, continue, or be resumed."""


class StorageError(HagoError):
    """A file or folder cannot be written."""


class HagoWarning(UserWarning):
    """Something was done differently from what was asked for; the message says how."""


class MissingExtraError(HagoError):
    """An optional dependency is missing."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            hint=f"pip install 'hago[{extra}]'",
        )
