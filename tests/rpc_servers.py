"""TVM's RPC servers on this machine, which a test may kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

Address = tuple[str, int]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def rpc_server(
    port: int | None = None, *more: str, program: str = "rpc_server"
) -> Iterator[tuple[subprocess.Popen[bytes], Address]]:
    """A server (or tracker): its process and its address. Killed at the end, if it is still there."""
    chosen = port or free_port()
    command = [sys.executable, "-m", f"tvm.exec.{program}", "--host", "127.0.0.1", "--port", str(chosen)]
    process = subprocess.Popen(
        [*command, "--port-end", str(chosen + 1), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", chosen), timeout=1):
                break
            time.sleep(0.1)
        yield process, ("127.0.0.1", chosen)
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """At once, with all that it started, as a board that loses its power."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
