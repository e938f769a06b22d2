"""A hardware spec as frozen values, which `hago.spec` loads and checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import SpecError
from ..precision import Precision
from ..scheme import Granularity, IntegerType

OP_KINDS = (
    "conv",
    "depthwise_conv",
    "fully_connected",
    "matmul",  # two activations, as in attention
    "add",
    "mul",
    "concat",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "lookup",  # an activation function by table
    "scale_shift",  # per-channel affine: a BatchNormalization that could not be folded
    "resize",
    "data_movement",
)


@dataclass(frozen=True)
class Way:
    """One way to compute one kind of operation on the hardware.

    ``precision`` names the numbers that it computes in (see ``numbers``). ``activation`` and ``weight`` are the integer
    types of the operands, None if that operand is a float or does not exist; ``weight`` is also None for the
    second activation of a matmul, which then has the type of the first. ``accumulator`` is None if nothing is
    accumulated (copies, tables, maxima). ``granularities`` are those of the weight's scales. ``saturates`` names the
    type in which partial sums may saturate, or is None if every sum is exact. ``requantize`` is the arithmetic that
    brings an accumulator back to 8 bits: ``"float32"`` (one rounded multiplication) or ``"fixed_point"`` (integer
    multiplier and shift, Jacob et al. 2018). ``dot_width`` products are summed in one lane by one ``instruction``, and
    up to ``max_reduction`` products are certain to fit in the accumulator.
    """

    precision: str
    activation: IntegerType | None
    weight: IntegerType | None
    accumulator: str | None
    outputs: tuple[str, ...]
    granularities: tuple[Granularity, ...]
    saturates: str | None
    requantize: str | None
    instruction: str
    dot_width: int = 1
    max_reduction: int | None = None

    @property
    def numbers(self) -> Precision:
        """What its precision means; `hago.spec.rules` checks the operands against it."""
        return replace(Precision.named(self.precision), accumulator=self.accumulator)


@dataclass(frozen=True)
class HardwareSpec:
    """One device: its arithmetic for each kind of operation, and the sizes that tiling needs.

    ``target`` is the JSON form of the TVM target. ``kernels`` names the kernel family that code is
    generated with, or is None if there are no kernels for it yet. ``cpu_features`` (LLVM's names) must all
    be present on a host. Caches are those of ``device``: ``l1_bytes`` the data cache of one core (on a GPU,
    of one multiprocessor), ``l2_bytes`` as seen by one core, ``l3_bytes`` shared, 0 if absent.
    ``registers`` are vector registers of ``vector_bits`` each (on a GPU, 32-bit registers of one
    multiprocessor, and the width of a warp).
    """

    name: str
    description: str
    family: str
    extends: str | None
    device: str
    target: dict[str, Any]
    kernels: str | None
    cpu_features: tuple[str, ...]
    float_unit: bool
    vector_bits: int
    registers: int
    cores: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    ops: Mapping[str, tuple[Way, ...]]
    path: str = field(default="", compare=False)

    @property
    def kernels_available(self) -> bool:
        """Whether models can be compiled for it yet."""
        return self.kernels is not None

    @property
    def triple(self) -> str:
        """LLVM's name of the machine that its code is for; empty if the spec does not say."""
        return str(self.target.get("mtriple") or "")

    @property
    def isa(self) -> str:
        """The kernel family, or the spec's name if there is none yet."""
        return self.kernels or self.name

    def choices(self, kind: str) -> tuple[Way, ...]:
        """The ways to compute that kind of operation, fastest first.

        float32 is the last if the hardware has floats. Empty if the hardware cannot compute it.
        Raises SpecError for a kind that is not in `OP_KINDS`.
        """
        if kind not in OP_KINDS:
            raise SpecError(
                f"{kind!r} is not a kind of operation", where=self.name, hint=f"known: {', '.join(OP_KINDS)}"
            )
        return self.ops.get(kind, ())

    def find(self, kind: str, precision: str) -> Way:
        """The way to compute ``kind`` in that precision. Raises SpecError if it is not offered."""
        offered = self.choices(kind)
        for way in offered:
            if way.precision == precision:
                return way
        raise SpecError(
            f"this hardware does not offer {kind} in {precision}",
            where=self.name,
            hint=f"it offers {', '.join(way.precision for way in offered) or 'nothing'}",
        )
