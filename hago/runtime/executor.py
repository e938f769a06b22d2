"""The device that compiled code runs on: its memory, transfers of arrays, and completion of calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Executor:
    """One kind of device, as TVM's runtime drives it.

    ``name`` is the target's, which a compiled network remembers; ``kind`` is TVM's name of the device ("cpu", "cuda").
    ``shared_memory``: numpy sees its tensors without a copy. ``timed_by_cpu``: a call is done when it returns, and took
    the CPU time of its caller.
    """

    name: str
    kind: str
    shared_memory: bool
    timed_by_cpu: bool

    def device(self, session: Any = None) -> Any:
        """TVM's device: of this machine, or of an RPC session."""
        if session is not None:
            return session.device(self.kind)
        from tvm.runtime import device

        return device(self.kind)

    def tensor(self, array: NDArray[Any], session: Any = None) -> Any:
        """A copy of an array in the device's memory."""
        from tvm.runtime import tensor

        return tensor(array, self.device(session))

    def array(self, tensor: Any) -> NDArray[Any]:
        """The values of a tensor of this machine's device; its own memory where that is shared."""
        # Not tensor.numpy() where it can be avoided: its copy takes longer than a small network.
        return np.from_dlpack(tensor) if self.shared_memory else tensor.numpy()

    def wait(self) -> None:
        """Until all calls are done."""
        if not self.timed_by_cpu:
            self.device().sync()
