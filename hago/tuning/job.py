"""The job of a search, stored next to its records; `hago answer` reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..documents import read_document
from ..errors import SearchError
from ..files import write_atomic
from ..result_files import JOB_FILE

_FORMAT = 1


@dataclass(frozen=True)
class Job:
    """The job of a search: the model's file (None if it had none), the hardware, and how it was measured.

    ``metric``, ``higher_is_better`` and ``unit`` are the metric's; ``input_shapes`` and ``devices`` are as in `tune`.
    """

    model: str | None
    model_hash: str
    hw: str
    batch: int
    threads: int
    metric: str
    higher_is_better: bool
    unit: str = ""
    input_shapes: Mapping[str, Sequence[int]] | None = None
    devices: Sequence[str] = field(default_factory=tuple)

    def save(self, folder: Path) -> None:
        """Writes ``search.json``. Raises StorageError."""
        write_atomic(folder / JOB_FILE, json.dumps({"hago_search": _FORMAT, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Reads ``search.json``. Raises SearchError."""
        hint = "`hago tune --resume` finishes a search and writes it"
        document = read_document(folder / JOB_FILE, error=SearchError, hint=hint)
        values = {key: value for key, value in document.data.items() if key != "hago_search"}
        kinds: dict[str, Any] = {
            "model": (str, type(None)), "model_hash": str, "hw": str, "batch": int, "threads": int, "metric": str,
            "higher_is_better": bool, "unit": str, "input_shapes": (dict, type(None)), "devices": list,
        }  # fmt: skip
        if document.data.get("hago_search") != _FORMAT or set(values) != set(kinds):
            raise SearchError("is not of this version of hago", where=document.file, hint=hint)
        for key, kind in kinds.items():
            if not isinstance(values[key], kind):
                raise SearchError(f"{values[key]!r} cannot be", where=f"{document.file}: {key}", hint=hint)
        return cls(**values)
