"""The device that compiled code runs on: its memory, transfers of arrays, and completion of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .processor import processor_name


@dataclass(frozen=True)
class Executor:
    """One kind of device, driven by TVM's runtime.

    ``name`` is that of the target, which a compiled network stores; ``kind`` is TVM's name of the device ("cpu",
    "cuda"). ``shared_memory``: numpy sees its tensors without a copy. ``timed_by_cpu``: a call is done when it
    returns, and has taken its caller's CPU time.
    """

    name: str
    kind: str
    shared_memory: bool
    timed_by_cpu: bool

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

    def is_present(self) -> bool:
        """Whether this machine has such a device."""
        return True

    def place(self) -> str:
        """The name of this machine's device, under which times of kernels are stored."""
        return processor_name()

    def attach(self, module: Any, code: bytes) -> None:
        """Gives a loaded module a kernel's code for the device, where that is apart from the processor's."""

    def prepared(self, main: Any, buffers: Sequence[Any]) -> Callable[..., Sequence[Any]]:
        """The network's function, to be called with ``buffers`` again and again; it returns the outputs' tensors."""
        return main  # type: ignore[no-any-return]

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
