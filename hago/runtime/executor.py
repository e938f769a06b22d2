"""The device that compiled code runs on: its memory, transfers of arrays, and completion of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import HagoError, MeasureError
from .processor import processor_name


@dataclass(frozen=True)
class Executor:
    """One kind of device, driven by TVM's runtime.

    ``name`` is that of the target, which a compiled network stores; ``kind`` is TVM's name of the device ("cpu",
    "cuda"). ``shared_memory``: numpy sees its tensors without a copy. ``timed_by_cpu``: a call is done when it
    returns, and has taken its caller's CPU time. ``has_clock``: the device itself tells how long calls take
    (`time_calls`, `kernel_times`).
    """

    name: str
    kind: str
    shared_memory: bool
    timed_by_cpu: bool
    has_clock: bool = False

    def device(self, session: Any = None) -> Any:
        """TVM's device, on this machine or in an RPC session."""
        if session is not None:
            return session.device(self.kind)
        from tvm.runtime import device

        return device(self.kind)

    def tensor(self, array: NDArray[Any], session: Any = None) -> Any:
        """A copy of an array in the device's memory."""
        from tvm.runtime import tensor

        return tensor(array, self.device(session))

    def array(self, tensor: Any) -> NDArray[Any]:
        """The values of a tensor on this machine's device; without a copy if memory is shared."""
        # Not tensor.numpy() if avoidable: its copy takes longer than a small network.
        return np.from_dlpack(tensor) if self.shared_memory else tensor.numpy()

    def why_absent(self, arch: str = "") -> str | None:
        """Why this machine has no such device (of the architecture ``arch``, if one is named): a clause, or None."""
        return None

    def is_present(self, arch: str = "") -> bool:
        """Whether this machine has such a device, of the architecture ``arch`` if one is named."""
        return self.why_absent(arch) is None

    def place(self) -> str:
        """The name of this machine's device, under which times of kernels are stored."""
        return processor_name()

    def attach(self, module: Any, code: bytes, session: Any = None) -> None:
        """Gives a module, loaded here or in an RPC session, a kernel's code for a device beside the processor."""

    def prepared(self, machine: Mapping[str, Any], buffers: Sequence[Any]) -> Callable[..., Sequence[Any]]:
        """The function of a network (TVM's virtual ``machine``), to be called with ``buffers`` again and again.

        It returns the outputs' tensors. The next call may overwrite them, unless memory is shared.
        """
        return machine["main"]  # type: ignore[no-any-return]

    def time_calls(self, main: Callable[..., Sequence[Any]], buffers: Sequence[Any], count: int) -> float:
        """Seconds that the device takes for ``count`` calls of what `prepared` returned (``has_clock``)."""
        raise NotImplementedError

    def kernel_times(self, function: Callable[..., Any], tensors: Sequence[Any], repeats: int) -> list[float]:
        """Seconds that the device takes for one call of a kernel, measured ``repeats`` times (``has_clock``)."""
        raise NotImplementedError

    def failure(self, error: Exception) -> HagoError:
        """The error to raise where a call failed with ``error``."""
        return MeasureError(f"the network failed while running: {error}")

    def wait(self) -> None:
        """Until all calls are done."""
        if not self.timed_by_cpu:
            self.device().sync()


def pack(codes: Sequence[bytes]) -> bytes:
    """Several kernels' codes as one: each after its length, 8 bytes, little-endian."""
    return b"".join(part for code in codes for part in (len(code).to_bytes(8, "little"), code))


def unpack(packed: bytes) -> Iterator[bytes]:
    """What `pack` joined."""
    start = 0
    while start < len(packed):
        end = start + 8 + int.from_bytes(packed[start : start + 8], "little")
        yield packed[start + 8 : end]
        start = end
