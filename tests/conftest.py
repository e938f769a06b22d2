"""What several test files share."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType

import pytest

_HERE = Path(__file__).resolve().parent


def models_folder() -> Path | None:
    """The folder with the real models, or None. $HAGO_MODELS wins over ../shared/models."""
    named = os.environ.get("HAGO_MODELS")
    folder = Path(named) if named else _HERE.parent.parent / "shared" / "models"
    return folder if (folder / "load_bundle.py").is_file() else None


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder with the real models; skips, loudly, where it is absent."""
    folder = models_folder()
    if folder is None:
        warnings.warn("the real models are absent: tests marked shared_models are skipped", stacklevel=1)
        pytest.skip("no real models beside the checkout (set HAGO_MODELS)")
    return folder


@pytest.fixture(scope="session")
def load_bundle(shared_models: Path) -> ModuleType:
    """The module that loads one of the real models with its labelled samples."""
    spec = importlib.util.spec_from_file_location("load_bundle", shared_models / "load_bundle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
