"""Devices: their file, sessions over RPC (to a server on this machine), and what becomes of one that dies or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hago
from hago.bench.server import rpc_server
from hago.cli import main
from hago.compiler.cache import KernelCache
from hago.device.config import Device, find_device, load_devices
from hago.device.package import make_package
from hago.device.remote import connect, limited
from hago.errors import DeviceError
from hago.model import load_model
from hago.spec import resolve_hw


def network() -> onnx.ModelProto:
    """A convolution and a fully connected layer."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((8, 3, 3, 3)), "v": rng.standard_normal((5, 8))}
    constants = [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "v"], ["y"], "fc", transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "net", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[bytes], tuple[str, int]]]:
    """TVM's RPC server on this machine: the process and its address."""
    with rpc_server() as started:
        yield started


def test_a_network_on_a_device_gives_what_it_gives_here(
    server: tuple[subprocess.Popen[bytes], tuple[str, int]], cache: KernelCache, tmp_path: Path
) -> None:
    model, spec = load_model(network()), resolve_hw("auto")
    package = make_package(model, model.proto, spec, tmp_path, threads=1, cache=cache)
    here = hago.load(package.library)
    rng = np.random.default_rng(1)
    with connect(Device("there", spec.name, rpc=server[1])) as session:
        net = session.load(package.library, package.meta)
        for _ in range(3):
            feeds = {"x": rng.standard_normal((1, 3, 8, 8), np.float32)}
            np.testing.assert_array_equal(net.run(feeds)[0], here.run(feeds)[0])
        assert all(seconds > 0 for seconds in net.times_s(feeds, repeat=3, min_repeat_ms=1))
    with connect(Device("there", spec.name, rpc=server[1])) as session:  # the first session has ended
        session.load(package.library, package.meta)


def test_a_device_that_dies_is_an_error_that_says_so(
    server: tuple[subprocess.Popen[bytes], tuple[str, int]], cache: KernelCache, tmp_path: Path
) -> None:
    model, spec = load_model(network()), resolve_hw("auto")
    package = make_package(model, model.proto, spec, tmp_path, threads=1, cache=cache)
    feeds = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    with connect(Device("pi", spec.name, rpc=server[1], timeout_s=10)) as session:
        net = session.load(package.library, package.meta)
        net.run(feeds)
        os.killpg(server[0].pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match="while running") as caught:
            net.run(feeds)
    assert "device 'pi'" in str(caught.value) and str(server[1][1]) in str(caught.value)


def test_a_device_that_hangs_is_given_up() -> None:
    device = Device("slow", "arm-cortex-a72", rpc=("localhost", 1), timeout_s=0.2)
    with pytest.raises(DeviceError, match=r"no answer within 0\.2 s while sleeping"):
        limited(device, "sleeping", lambda: time.sleep(5), device.timeout_s)


def test_nobody_listening_is_reported_with_the_address() -> None:
    with (
        pytest.raises(DeviceError, match=r"device 'off' \(rpc 127\.0\.0\.1:9\): failed while connecting"),
        connect(Device("off", "arm-cortex-a72", rpc=("127.0.0.1", 9))),
    ):
        pass


FILE = """
devices:
  desk: {spec: auto, local: true}
  pi5: {spec: arm-cortex-a76, rpc: "192.0.2.7:9090"}
  farm: {spec: arm-cortex-a72, tracker: "farm.example:9190", key: pi4, timeout_s: 120}
"""


def test_devices_are_read_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(FILE)
    found = load_devices(path)
    assert found["desk"].is_local and found["pi5"].rpc == ("192.0.2.7", 9090)
    assert found["farm"] == Device("farm", "arm-cortex-a72", None, ("farm.example", 9190), "pi4", 120.0)
    assert find_device("local", path).is_local
    with pytest.raises(DeviceError, match="no device 'nas'"):
        find_device("nas", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "devices: {a: {spec: x, rpc: '1:2', local: true}}",
            "exactly one of local: true, rpc, tracker",
        ),
        ("devices: {a: {spec: x}}", "has: none"),
        ("devices: {a: {spec: x, rpc: nowhere}}", "devices.a.rpc: must be host:port"),
        ("devices: {a: {spec: x, rpc: 'h:" + "9" * 5000 + "'}}", "devices.a.rpc: must be host:port"),
        ("devices: {a: {spec: x, rpc: 'h:\u0664'}}", "devices.a.rpc: must be host:port"),
        ("devices: {a: {spec: x, tracker: 'h:1'}}", "a tracker needs a key"),
        ("devices: {a: {rpc: 'h:1'}}", "spec: auto is only for this machine"),
        ("devices: {a: {spec: x, rpc: 'h:1', port: 3}}", "devices.a.port"),
        ("devices: [", "broken YAML: "),
        ("", "must be a mapping of keys to values"),
        ("device: {}", "devices: Field required"),
    ],
)
def test_a_wrong_file_names_the_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(text)
    with pytest.raises(DeviceError) as caught:
        load_devices(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_the_command_line_lists_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(FILE)
    assert main(["device", "list", "--file", str(path)]) == 0
    assert "arm-cortex-a76" in capsys.readouterr().out
    assert main(["device", "check", "desk", "--file", str(path)]) == 0
    assert "good" in capsys.readouterr().out


def test_build_writes_a_network_and_its_runner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    folder = tmp_path / "board"
    command = [
        "build",
        str(tmp_path / "net.onnx"),
        "--hw",
        "auto",
        "-o",
        str(folder),
        "--cache",
        str(tmp_path / "cache"),
    ]
    assert main(command) == 0
    assert "model.so" in capsys.readouterr().out
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", x=rng.standard_normal((4, 3, 8, 8), np.float32), y=np.zeros(4, np.int64))
    done = subprocess.run(
        [sys.executable, str(folder / "run.py"), str(tmp_path / "samples.npz")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "4 calls" in done.stdout and "top-1" in done.stdout


@pytest.mark.parametrize(
    ("python", "program", "told"),
    [
        ((sys.executable,), "no_such_program", r"ended with status 1\): .*no_such_program"),
        ((sys.executable, "-c", "import time; print('warming up', flush=True); time.sleep(60)"), "rpc_server",
         r"no answer in 2 s\): warming up"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_start_is_an_error_with_the_end_of_its_log(
    python: tuple[str, ...], program: str, told: str
) -> None:
    limit_s = 2 if len(python) > 1 else 60
    with pytest.raises(DeviceError, match=f"(?s){told}"), rpc_server(python=python, program=program, limit_s=limit_s):
        pass
