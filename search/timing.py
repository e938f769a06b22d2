"""The latency of a strategy from kernel times measured once: the additive model of latency.

The kernels of a model run one after the other, so its time is close to the sum of theirs, plus the cost of converting
tensors from floats to integers where neighbours differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import HagoError, NoDeviceError, StorageError
from .grouping import Flow
from .groups import Group, GroupMember
from .objective import Evaluator
from .option import FLOAT32, kind_of, precision_of
from .priors import typical_time
from .space import SearchSpace

# The cost of a conversion: such kernels convert about ten elements per nanosecond on a current core, and a call takes
# half a microsecond. Only the order of magnitude matters.
CONVERT_CALL_S = 5e-7
CONVERT_ELEMENT_S = 1e-10

# Without kernel times: seconds per multiply-add in float32.
_MAC_S = 2e-11
_CALL_S = 1e-6
# A two-level scale multiplies once more per group of weights.
_PER_GROUP = 1.25


@dataclass(frozen=True)
class TimeTable:
    """Option -> layer -> seconds, measured with the whole model at that option.

    An option that was not timed gets the time of the same precision per channel (a quarter more for per-group weights),
    or else of float32; without any times, multiply-adds are used.
    """

    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def layer_s(self, layer: str, option: str, macs: int = 0) -> float:
        """Seconds of one layer under one option."""
        exact = self.times.get(option, {})
        if layer in exact:
            return exact[layer]
        if option == FLOAT32:
            return macs * _MAC_S + _CALL_S
        factor = 1.0
        if kind_of(option) == "per_group":
            factor = _PER_GROUP
        for text, times in self.times.items():
            kin = precision_of(text) == precision_of(option) and "per_group" not in text
            if kin and layer in times:
                return times[layer] * factor
        typical = 1.0 if self.times else typical_time(precision_of(option))
        return self.layer_s(layer, FLOAT32, macs) * factor * typical

    def member_s(self, member: GroupMember, option: str, macs: int) -> float:
        """Seconds of one layer of a group, which may stay in float when its group does not."""
        stays = member.ways[option].precision == "float32"
        return self.layer_s(member.layer, FLOAT32 if stays else option, macs)

    def group_cost(self, space: SearchSpace, group: Group, option: str) -> float:
        """Seconds of a group's layers under one of its options."""
        return sum(self.member_s(m, option, space.macs[m.layer]) for m in group.members)

    def to_integer(self, flow: Flow) -> float:
        """Seconds to convert a tensor from floats to integers, in a separate kernel."""
        return CONVERT_CALL_S + flow.elements * CONVERT_ELEMENT_S

    def to_float(self, flow: Flow) -> float:
        """Seconds to write floats instead of integers: more bytes, in the kernel that produces the tensor."""
        return flow.elements * CONVERT_ELEMENT_S

    def float_s(self, space: SearchSpace) -> float:
        """Seconds of the whole model in float32."""
        times = self.times.get("float32")
        if times:
            return sum(times.values())
        return sum(self.layer_s(layer, FLOAT32, macs) for layer, macs in space.macs.items())

    def outside(self, space: SearchSpace) -> float:
        """Seconds of the layers that belong to no group."""
        grouped = ((name, space.macs[name]) for group in space.groups for name in group.layers)
        return self.float_s(space) - sum(self.layer_s(name, FLOAT32, macs) for name, macs in grouped)

    def predict_s(self, space: SearchSpace, options: Sequence[str]) -> float:
        """Seconds of the whole model with these options, one for each group."""
        total = self.float_s(space) + convert_s(space, options)
        for group, option in zip(space.groups, options, strict=True):
            floats = sum(self.layer_s(m.layer, FLOAT32, space.macs[m.layer]) for m in group.members)
            total += self.group_cost(space, group, option) - floats
        return total

    def ratio(self, space: SearchSpace, options: Sequence[str]) -> float:
        """Predicted latency over float32's."""
        return self.predict_s(space, options) / max(self.float_s(space), 1e-12)


def convert_s(space: SearchSpace, options: Sequence[str]) -> float:
    """Seconds spent on converting tensors from floats to integers and back.

    To integers takes a kernel; back, the producing kernel writes floats itself, at the price of more bytes.
    """
    integer = [option in group.integer for group, option in zip(space.groups, options, strict=True)]
    total = 0.0
    for flow in space.flows:
        made_integer = flow.maker is not None and integer[flow.maker]
        read_integer = any(integer[g] for g in flow.readers)
        read_float = flow.float_reader or not all(integer[g] for g in flow.readers)
        if read_integer and not made_integer:
            total += CONVERT_CALL_S + flow.elements * CONVERT_ELEMENT_S
        elif made_integer and read_float:
            total += flow.elements * CONVERT_ELEMENT_S
    return total


def options_to_time(space: SearchSpace, thorough: bool) -> list[str]:
    """float32 and one option per precision; ``thorough`` also each size of weight groups.

    Per tensor is not timed, because it runs the kernels of per channel. Nor is a precision of layers without weights,
    if other layers have weights at that precision: one run of the model times both.
    """
    found: dict[str, str] = {}
    weighted = {precision_of(s) for group in space.groups for s in group.options if kind_of(s)}
    for group in space.groups:
        for option in group.options:
            kind = kind_of(option)
            if option == FLOAT32:
                continue
            if kind == "per_group":
                if thorough:
                    found.setdefault(option, option)
            elif kind or precision_of(option) not in weighted:
                found.setdefault(precision_of(option), option)
    return [FLOAT32, *found.values()]


def time_option(space: SearchSpace, evaluator: Evaluator, option: str) -> dict[str, float]:
    """Kernel times of the model at one option everywhere, for the layers that then run it.

    Empty if the model cannot be built or run. Raises only StorageError and NoDeviceError.
    """
    params = space.uniform(option, space.settings[0])
    try:
        times = dict(evaluator.kernel_times(space.strategy(params)))
    except (StorageError, NoDeviceError):
        raise
    except HagoError:
        return {}
    if option == FLOAT32:
        return times
    chosen = space.options(params)
    same = precision_of(option)
    running = {m.layer for g, s in zip(space.groups, chosen, strict=True) if precision_of(s) == same for m in g.members}
    return {layer: seconds for layer, seconds in times.items() if layer in running}
