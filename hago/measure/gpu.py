"""The state of this machine's GPU, as NVIDIA's management library (NVML) reports it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from ..kernels.cuda.driver import Driver, driver

PACKAGE = "nvidia-ml-py"
_SLOWED = {
    0x2: "application clocks",
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x20: "temperature (driver)",
    0x40: "temperature (hardware)",
    0x80: "power brake",
}
"""Why the clock may be below its maximum; an idle GPU is not slowed down."""


@dataclass(frozen=True)
class GpuState:
    """The GPU now: clocks in MHz, powers in W, temperature in degrees Celsius; None where nothing reports it.

    ``slowed_by``: why its clock is below the maximum, if it is.
    """

    name: str
    driver: str | None = None
    clock_mhz: int | None = None
    most_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    slowed_by: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "slowed_by": list(self.slowed_by)}

    def lasting(self) -> GpuState:
        """Without what changes from one moment to the next."""
        return GpuState(self.name, self.driver, most_clock_mhz=self.most_clock_mhz, power_limit_w=self.power_limit_w)

    def sentence(self) -> str:
        """One line for a report."""
        if self.driver is None:
            return f"{self.name} (clocks and power are not recorded: pip install {PACKAGE})"
        facts = [f"driver {self.driver}"]
        if self.clock_mhz is not None:
            most = "" if self.most_clock_mhz is None else f" of {self.most_clock_mhz}"
            facts.append(f"clock {self.clock_mhz}{most} MHz")
        if self.power_limit_w is not None:
            now = "" if self.power_w is None else f"{self.power_w:.0f} of "
            facts.append(f"{now}{self.power_limit_w:.0f} W")
        if self.slowed_by:
            facts.append(f"slowed by {', '.join(self.slowed_by)}")
        return f"{self.name} ({', '.join(facts)})"


def read_gpu() -> GpuState | None:
    """The GPU that networks run on; None if there is none, its name alone without the package nvidia-ml-py."""
    gpu = driver()
    if gpu is None:
        return None
    try:
        import pynvml
    except ImportError:
        return GpuState(gpu.name)
    try:
        return _state(pynvml, gpu)
    except pynvml.NVMLError:
        return GpuState(gpu.name)


def _state(nvml: Any, gpu: Driver) -> GpuState:
    """What NVML says of ``gpu``, which it numbers differently from CUDA."""
    nvml.nvmlInit()
    try:
        handle = nvml.nvmlDeviceGetHandleByPciBusId(gpu.bus_id)

        def known(function: str, *arguments: Any, scale: Callable[[Any], Any] = int) -> Any:
            with suppress(nvml.NVMLError, AttributeError):  # not every GPU, and not every version, has everything
                return scale(getattr(nvml, function)(handle, *arguments))
            return None

        watts = lambda milliwatts: milliwatts / 1000  # noqa: E731
        reasons = known("nvmlDeviceGetCurrentClocksEventReasons") or known("nvmlDeviceGetCurrentClocksThrottleReasons")
        version = nvml.nvmlSystemGetDriverVersion()
        return GpuState(
            gpu.name,
            version.decode() if isinstance(version, bytes) else str(version),
            clock_mhz=known("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            most_clock_mhz=known("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
            memory_clock_mhz=known("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            power_w=known("nvmlDeviceGetPowerUsage", scale=watts),
            power_limit_w=known("nvmlDeviceGetEnforcedPowerLimit", scale=watts),
            temperature_c=known("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            slowed_by=tuple(text for bit, text in _SLOWED.items() if (reasons or 0) & bit),
        )
    finally:
        nvml.nvmlShutdown()
