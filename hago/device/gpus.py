"""The GPU of this machine, and the hardware spec that fits it."""

from __future__ import annotations

from dataclasses import dataclass

from ..kernels.cuda.driver import driver, runs_on
from ..spec import HardwareSpec, load_spec, spec_names


@dataclass(frozen=True)
class GpuDetection:
    """A GPU, its compute capability, and the shipped spec that is made for it, or whose code it runs at least."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    spec: HardwareSpec | None
    exact: bool

    def fit(self) -> str:
        """In words, which spec is for it."""
        said = f"compute capability {_dotted(self.capability)}"
        if self.spec is None:
            return f"no shipped spec is for {said}: write one that extends the nearest"
        if self.exact:
            return f"{self.spec.name} fits: it is made for {said}"
        return f"no shipped spec is made for {said}; {self.spec.name} would run too, but uses less of the GPU"


def detect_gpu() -> GpuDetection | None:
    """This machine's first GPU; None if it has none that CUDA can use."""
    found = driver()
    if found is None:
        return None
    spec = fitting(found.capability)
    exact = spec is not None and capability_of(spec) == found.capability
    return GpuDetection(found.name, found.capability, found.memory_bytes, spec, exact)


def fitting(capability: tuple[int, int]) -> HardwareSpec | None:
    """The shipped spec with the newest code that such a GPU runs; None if it runs none."""
    specs = [load_spec(name) for name in spec_names()]
    running = [spec for spec in specs if runs_on(str(spec.target.get("arch", "")), capability)]
    return max(running, key=capability_of, default=None)


def capability_of(spec: HardwareSpec) -> tuple[int, int]:
    """The compute capability that a spec of a GPU is made for."""
    digits = "".join(filter(str.isdigit, str(spec.target["arch"])))
    return int(digits[:-1]), int(digits[-1])


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
