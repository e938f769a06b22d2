"""The contents of this folder, and what stages write."""

from __future__ import annotations

import json
import os
import tarfile
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """``networks`` are entries of the manifest, the most important first; ``files`` has what archives held."""

    folder: Path
    files: Path
    manifest: Mapping[str, Any]

    @property
    def networks(self) -> list[dict[str, Any]]:
        """One entry for each network: name, model, precision, batch, file, kernels ..."""
        return list(self.manifest["networks"])

    def groups(self) -> list[tuple[str, int, list[dict[str, Any]]]]:
        """(model, batch, its networks), the most important first."""
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for entry in self.networks:
            found.setdefault((entry["model"], entry["batch"]), []).append(entry)
        return [(model, batch, entries) for (model, batch), entries in found.items()]

    def path(self, entry: Mapping[str, Any]) -> Path:
        """The compiled network."""
        return self.files / str(entry["file"])

    def graph(self, model: str) -> dict[str, Any]:
        """The float network, for other engines."""
        return dict(json.loads((self.files / f"{model}.graph.json").read_text()))

    def samples(self, model: str, batch: int | None = None) -> dict[str, Any]:
        """The inputs by name, as arrays; of exactly ``batch`` samples, repeated if there are fewer."""
        import numpy as np

        with np.load(self.files / f"{model}.samples.npz") as file:
            found = {name: decoded(file, name) for name in self.manifest["models"][model]["inputs"]}
        if batch is None:
            return found
        return {name: array[np.arange(batch) % len(array)] for name, array in found.items()}

    def labels(self, model: str) -> Any:
        """The classes of the samples, or None."""
        import numpy as np

        with np.load(self.files / f"{model}.samples.npz") as file:
            return file["labels"] if "labels" in file.files else None

    def expected(self, entry: Mapping[str, Any]) -> list[Any]:
        """The outputs for all samples."""
        import numpy as np

        with np.load(self.files / f"{entry['model']}.{entry['precision']}.expected.npz") as file:
            return [file[f"output{i}"] for i in range(len(file.files))]


def decoded(file: Any, name: str) -> Any:
    """An input's samples: as they are, or from 8-bit codes with a scale and a zero point."""
    import numpy as np

    if f"{name}/codes" not in file.files:
        return file[name]
    scale, zero = file[f"{name}/scale"], file[f"{name}/zero"]
    return (file[f"{name}/codes"].astype(np.float32) - zero) * scale


def read_bundle(folder: Path, place: Path) -> Bundle:
    """The bundle in ``folder``, its archives unpacked to ``place`` (if they were not before)."""
    manifest = json.loads((folder / "manifest.json").read_text())
    if manifest.get("hago_gpu_bundle") != FORMAT:
        raise SystemExit(f"{folder} is not a bundle of format {FORMAT}")
    place.mkdir(parents=True, exist_ok=True)
    archives = sorted((folder / "archives").glob("*.tar.xz"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda archive: _unpack(archive, place), archives))
    return Bundle(folder, place, manifest)


def _unpack(archive: Path, place: Path) -> None:
    mark = place / f".{archive.name}.{archive.stat().st_mtime_ns}"
    if not mark.exists():
        with tarfile.open(archive) as opened:
            opened.extractall(place, filter="data")
        mark.touch()


class Notes:
    """What one stage has found so far; written at every step, and never longer than the stage may take."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._began, self._seconds = path, time.monotonic(), seconds
        self.found: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds until the stage must end."""
        return self._seconds - (time.monotonic() - self._began)

    def put(self, value: Any, *keys: str) -> None:
        """Stores ``value`` under a path of keys."""
        place = self.found
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        self.write()

    def failed(self, where: str, error: BaseException) -> None:
        """Keeps how something failed."""
        told = "".join(traceback.format_exception(error))[-1500:]
        self.put({"error": f"{type(error).__name__}: {error}"[:500], "trace": told}, "errors", where)
        print(f"  {where}: {type(error).__name__}: {str(error)[:300]}", flush=True)

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        self.found["seconds"] = round(time.monotonic() - self._began, 1)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(self.found, default=float))
        temporary.replace(self._path)
