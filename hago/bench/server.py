"""Starts, awaits and ends a process with TVM's RPC server or tracker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DeviceError
from ..files import TemporaryFolder

Address = tuple[str, int]

_HOST = "127.0.0.1"
_TAIL = 1500  # bytes of the log that an error quotes


@contextmanager
def rpc_server(
    *more: str,
    python: Sequence[str] = (sys.executable,),
    port: int | None = None,
    program: str = "rpc_server",
    environment: Mapping[str, str] | None = None,
    limit_s: float = 60.0,
) -> Iterator[tuple[subprocess.Popen[bytes], Address]]:
    """``program`` of ``tvm.exec`` on this machine: its process, and the address where it answers.

    ``more`` are further arguments, ``python`` runs it, ``port`` is a free one unless given. The process is killed when
    the block ends. Raises DeviceError, with the end of its log, if it ends early or does not answer within ``limit_s``.
    """
    chosen = port or free_port()
    command = [*python, "-m", f"tvm.exec.{program}", "--host", _HOST, "--port", str(chosen)]
    with TemporaryFolder() as place, open(Path(place) / "log", "w+b") as log:
        process = subprocess.Popen(
            [*command, "--port-end", str(chosen + 1), *more],
            env=None if environment is None else dict(environment),
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait(process, chosen, Path(place) / "log", limit_s)
            yield process, (_HOST, chosen)
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills it with all its children, like a board that loses power."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as found:
        found.bind((_HOST, 0))
        return int(found.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, limit_s: float) -> None:
    """Returns once the server listens."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
            return
        time.sleep(0.1)
    tail = log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
    state = f"ended with status {process.returncode}" if process.poll() is not None else f"no answer in {limit_s:g} s"
    raise DeviceError(f"the RPC server did not start ({state}): {tail or 'its log is empty'}", where=f"port {port}")
