"""The other side of `counting.Counter`: runs in the emulated Python, with only TVM's runtime and numpy.

Each line of JSON on standard input requests one network; a line on standard output answers with the number of counted
intervals, or an error. The counts come from the emulator's plugin, which starts and stops at calls of getppid.
"""

from __future__ import annotations

import gc
import json
import os
import signal
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm.runtime.vm import VirtualMachine

ENDED = 3  # exit status: no more requests


def counted(function: Any, arguments: list[Any]) -> None:
    """Calls once uncounted, to lay out memory, and once counted."""
    function(*arguments)
    os.getppid()
    try:
        function(*arguments)
    finally:
        os.getppid()


def count_network(library: Any) -> int:
    """One interval: a call of the whole network, inputs all zero."""
    machine = VirtualMachine(library, tvm.cpu())
    meta = json.loads(machine["hago_meta"]().numpy().tobytes())
    inputs = [tvm.runtime.tensor(np.zeros(i["shape"], i["dtype"])) for i in meta["inputs"]]
    counted(machine["main"], inputs)
    return 1


def count_kernels(library: Any, kernels: list[Any]) -> int:
    """Two intervals for each kernel: its call, and that of an empty function with the same arguments, to subtract."""
    nothing = tvm_ffi.get_global_func("testing.nop")
    for symbol, kinds in kernels:
        function = library.get_function(symbol, query_imports=True)
        if function is None:
            raise ValueError(f"no kernel {symbol!r} in the library")
        arguments = [tvm.runtime.tensor(np.zeros(shape, dtype)) for dtype, shape in kinds]
        counted(function, arguments)
        counted(nothing, arguments)
    return 2 * len(kernels)


def answer_of(line: bytes) -> dict[str, Any]:
    """The answer to one request: the number of intervals counted, or an error."""
    try:
        request = json.loads(line)
        library = tvm_ffi.load_module(request["library"])
        kernels = request["kernels"]
        return {"intervals": count_network(library) if kernels is None else count_kernels(library, kernels)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def serve_one(answers: int) -> int:
    """Reads one request and answers it; the exit status."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part:
            return ENDED
        line += part
    os.write(answers, (json.dumps(answer_of(line)) + "\n").encode())
    return 0


def main() -> None:
    """Answers requests until the input ends."""
    answers = os.dup(1)  # other writes to standard output go to standard error, not between the answers
    os.dup2(2, 1)
    gc.disable()
    while True:
        # Every network in a separate process, which reads its request itself: each finds the same memory, so counts do
        # not depend on earlier ones, and a crash ends only one network.
        child = os.fork()
        if not child:
            os._exit(serve_one(answers))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == ENDED:
            return
        if status:
            died = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            os.write(answers, (json.dumps({"error": f"its process died of {died}"}) + "\n").encode())


if __name__ == "__main__":
    main()
