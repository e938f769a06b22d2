"""The exceptions of Hago.

Every error a user can cause says what must hold, what was found, where, and what to do next.

    HagoError
    +-- SpecError          a hardware spec (YAML) breaks a rule: names file, key path and rule
    +-- ModelError         a model cannot be read or normalized
    |   +-- UnsupportedOpError   an operator nobody can compile
    +-- DataError          samples that do not fit the model, hold NaN, overlap, or cannot be read
    +-- StrategyError      a strategy does not fit its model or its hardware
    +-- BuildError         compiling or linking failed; kernel cache trouble
    +-- MeasureError       an artifact failed on the device
    +-- DeviceError        a device is not described rightly, cannot be reached, or does not answer
    |   +-- NoDeviceError  none of a search's devices can be reached any more
    +-- SearchError        a search cannot start, go on, or be resumed
    +-- StorageError       a folder or file cannot be written (disk full, no permission)
    +-- MissingExtraError  an optional package is needed (says the pip command)
"""

from __future__ import annotations


class HagoError(Exception):
    """Root of all errors that Hago raises on purpose.

    ``what`` is one sentence (what must hold and what was found), ``where`` names the file, layer,
    tensor or key, and ``hint`` says what to do next.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        text = what if where is None else f"{where}: {what}"
        super().__init__(text if hint is None else f"{text}\n  hint: {hint}")


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
    """A device is not described rightly, cannot be reached, or does not answer."""


class NoDeviceError(DeviceError):
    """None of the devices can be reached: no fault of what was to be measured there."""


class SearchError(HagoError):
    """A search cannot start, go on, or be resumed."""


class StorageError(HagoError):
    """A file or folder cannot be written."""


class HagoWarning(UserWarning):
    """Something went on in another way than asked for; the message says how."""


class MissingExtraError(HagoError):
    """An optional dependency is missing."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            hint=f"pip install 'hago[{extra}]'",
        )
