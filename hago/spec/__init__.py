"""Hardware specs: what a device can compute, read from YAML and checked.

>>> from hago.spec import load_spec
>>> spec = load_spec("x86-avx512-vnni")
>>> [choice.precision for choice in spec.choices("conv")]
['int8', 'float32']
>>> spec.find("conv", "int8").instruction
'vpdpbusd'
"""

from .load import check_spec, load_spec, read_spec, shipped_folder, spec_names
from .resolve import detect, resolve_hw
from .types import OP_KINDS, HardwareSpec, Way

__all__ = [
    "OP_KINDS",
    "HardwareSpec",
    "Way",
    "check_spec",
    "detect",
    "load_spec",
    "read_spec",
    "resolve_hw",
    "shipped_folder",
    "spec_names",
]
