"""The spec that a user means: by name or file, this machine's, or what several have in common."""

from __future__ import annotations

import os
from pathlib import Path

from .. import arguments
from ..errors import SpecError
from .join import SEPARATOR, join
from .load import load_spec
from .types import HardwareSpec


def detect() -> HardwareSpec:
    """The shipped spec that fits this machine's processor best.

    Features come from LLVM and, on Linux, /proc/cpuinfo. Raises SpecError if none fits.
    `hago.spec.host.detect_host` also returns what was found, and the reasons for the choice.
    """
    from .host import detect_host

    return detect_host().spec


def resolve_hw(hw: str | os.PathLike[str] | HardwareSpec) -> HardwareSpec:
    """``"auto"`` (this machine), the name of a shipped spec, a YAML file, or a loaded spec.

    Names joined by "+" mean what all of these have in common (join.py).
    """
    if isinstance(hw, HardwareSpec):
        return hw
    names = arguments.path("hw", hw, SpecError).split(SEPARATOR)
    if len(names) > 1 and not Path(hw).exists():
        return join([load_spec(name) for name in names])
    return detect() if hw == "auto" else load_spec(hw)
