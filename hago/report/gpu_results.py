"""What scripts/gpu_bundle.py measured on a GPU: its results file, as plain values."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import arguments
from ..documents import read_document
from ..errors import DataError
from ..files import hash_bytes
from ..strategy import Strategy

FORMAT = 1
_MADE_BY = "run.py in a folder that scripts/gpu_bundle.py made writes it (gpu.json)"


@dataclass(frozen=True)
class GpuTime:
    """Seconds of one call: the median of the rounds, and where 10 and 90 % of them lie below."""

    median_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True)
class GpuKernel:
    """One kernel by itself; ``floor_s`` is the least that its bytes and operations take, bound by one of them."""

    layer: str
    family: str
    seconds: float
    floor_s: float
    bound: str


@dataclass(frozen=True)
class GpuNetwork:
    """``right`` says whether the outputs were those expected; None if that was not found out."""

    name: str
    model: str
    precision: str
    batch: int
    strategy: str
    right: bool | None
    kernels: tuple[GpuKernel, ...]


@dataclass(frozen=True)
class GpuResults:
    """One GPU: ``models`` maps names to hashes, ``times`` (model, batch) to times by engine and precision."""

    gpu: str
    about: str  # driver, clocks and power, in words
    made: str
    commit: str
    models: Mapping[str, str]
    networks: tuple[GpuNetwork, ...]
    times: Mapping[tuple[str, int], Mapping[str, GpuTime]]
    ends: Mapping[str, str]

    def names(self, model_hash: str) -> list[str]:
        """The bundle's names of a model."""
        return [name for name, known in self.models.items() if known == model_hash]

    def batches(self, model: str) -> list[int]:
        """The batches at which a model was timed."""
        return sorted(batch for name, batch in self.times if name == model)


def strategy_hash(strategy: Strategy | None) -> str:
    """Names what a strategy chooses, whatever file of the model it is for; empty for float32."""
    if strategy is None or strategy.is_float:
        return ""
    return hash_bytes(json.dumps(strategy.to_dict()["layers"], sort_keys=True))[:16]


def read_gpu_results(path: str | os.PathLike[str]) -> GpuResults:
    """Reads a results file. Raises DataError if it is none, or has no GPU's name."""
    where = arguments.path("a results file of a GPU", path, DataError)
    data = read_document(where, error=DataError).data
    if data.get("hago_gpu_results") != FORMAT:
        raise DataError(f"must be results of a GPU, format {FORMAT}", where=where, hint=_MADE_BY)
    try:
        return _results(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"results of a GPU are damaged: {error!r}", where=where, hint=_MADE_BY) from error


def _results(data: Mapping[str, Any]) -> GpuResults:
    bundle, environment = data["bundle"], data["environment"]
    right = {name: bool(one["right"]) for name, one in _part(data, "exactness").items()}
    kernels = _part(data, "kernels")
    networks = tuple(
        GpuNetwork(
            str(one["name"]),
            str(one["model"]),
            str(one["precision"]),
            int(one["batch"]),
            str(one["strategy"]),
            right.get(one["name"]),
            tuple(map(_kernel, kernels.get(one["name"], ()))),
        )
        for one in bundle["networks"]
    )
    times: dict[tuple[str, int], dict[str, GpuTime]] = {}
    for stage in ("times", "compiled"):
        for model, batches in _part(data, stage).items():
            for batch, engines in batches.items():
                place = times.setdefault((model, int(batch)), {})
                place.update({name: _time(one) for name, one in engines.items() if name not in place})
    return GpuResults(
        str(environment["device"]["name"]),
        _about(environment),
        str(bundle["made"]),
        str(bundle["commit"]),
        {name: str(one["hash"]) for name, one in bundle["models"].items()},
        networks,
        times,
        {str(stage): str(end) for stage, end in data["ends"].items()},
    )


def _part(data: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    return dict(data.get(stage, {}).get("networks", {}))


def _time(one: Mapping[str, Any]) -> GpuTime:
    return GpuTime(float(one["median_s"]), float(one["low_s"]), float(one["high_s"]))


def _kernel(one: Mapping[str, Any]) -> GpuKernel:
    texts = str(one["layer"] or ""), str(one["family"])
    return GpuKernel(*texts, float(one["seconds"]), float(one["floor_s"]), str(one["bound"]))


def _about(environment: Mapping[str, Any]) -> str:
    smi, packages = environment.get("smi", {}), environment.get("packages", {})
    told = [f"driver {smi['driver_version']}"] if "driver_version" in smi else []
    told += [f"{smi['clocks.max.sm']} at most"] if "clocks.max.sm" in smi else []
    told += [f"{smi['power.limit']} allowed"] if "power.limit" in smi else []
    told += [f"PyTorch {packages['torch']}"] if "torch" in packages else []
    return ", ".join(told)
