"""The device that compiled code runs on: its memory, transfers of arrays, and completion of calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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

    def wait(self) -> None:
        """Until all calls are done."""
        if not self.timed_by_cpu:
            self.device().sync()
