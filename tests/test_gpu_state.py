"""What is recorded of a GPU, by a fake of NVIDIA's management library."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fake_cuda import FakeCuda

import hago.measure.gpu as gpu_module
from hago.kernels.cuda.driver import Driver
from hago.measure.clocks import CPU, GPU
from hago.measure.environment import read_environment
from hago.measure.gpu import GpuState, read_gpu


class NVMLError(Exception):
    pass


def absent(*_):
    raise NVMLError("Not Supported")


def fake_nvml(**changed):
    handles = {"0000:3B:00.0": "the one"}
    functions = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.159.04",
        "nvmlDeviceGetHandleByPciBusId": handles.__getitem__,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1830, 2: 3201}[kind],
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {1: 1980}[kind],
        "nvmlDeviceGetPowerUsage": lambda handle: 690_400,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x4,
    }
    constants = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0, "NVMLError": NVMLError}
    return SimpleNamespace(**{**functions, **constants, **changed})


@pytest.fixture
def machine(monkeypatch):
    """Makes a machine with a GPU and this library."""

    def make(nvml):
        found = Driver(FakeCuda())
        monkeypatch.setattr(gpu_module, "driver", lambda: found)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)

    return make


def test_clocks_power_and_what_slows_the_gpu_are_recorded(machine):
    machine(fake_nvml())
    found = read_gpu()
    assert found == GpuState("A fake GPU", "580.159.04", 1830, 1980, 3201, 690.4, 700.0, 61, ("power limit",))
    assert found.sentence() == (
        "A fake GPU (driver 580.159.04, clock 1830 of 1980 MHz, 690 of 700 W, slowed by power limit)"
    )


def test_what_a_gpu_does_not_report_is_none(machine):
    machine(
        fake_nvml(
            nvmlDeviceGetPowerUsage=absent,
            nvmlDeviceGetEnforcedPowerLimit=absent,
            nvmlDeviceGetCurrentClocksEventReasons=absent,
            nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x20 | 0x1,
            nvmlSystemGetDriverVersion=lambda: b"535.1",
        )
    )
    found = read_gpu()
    assert (found.driver, found.power_w, found.power_limit_w) == ("535.1", None, None)
    assert found.slowed_by == ("temperature (driver)",)


@pytest.mark.parametrize("nvml", [None, fake_nvml(nvmlInit=absent), fake_nvml(nvmlDeviceGetHandleByPciBusId=absent)])
def test_without_the_library_only_the_name_is_known_and_that_is_said(machine, nvml):
    machine(nvml)
    assert read_gpu() == GpuState("A fake GPU")
    assert read_gpu().sentence() == "A fake GPU (clocks and power are not recorded: pip install nvidia-ml-py)"


def test_the_environment_names_the_gpu_where_networks_run_on_it(machine, monkeypatch):
    machine(fake_nvml())
    found = read_environment(1, gpu=True)
    assert found.clock == GPU and found.sentence().startswith("A fake GPU (driver 580.159.04")
    assert found.to_dict()["gpu"]["slowed_by"] == ["power limit"]
    cooler = replace(found, gpu=replace(found.gpu, clock_mhz=1980, power_w=300.0, temperature_c=50, slowed_by=()))
    assert found.key() == cooler.key()
    assert found.key() != replace(found, gpu=replace(found.gpu, power_limit_w=300.0)).key()
    here = read_environment(1)
    assert here.gpu is None and here.clock == CPU and "gpu" not in here.to_dict() and here.key() != found.key()
    monkeypatch.setattr(gpu_module, "driver", lambda: None)
    assert read_environment(1, gpu=True).gpu is None
