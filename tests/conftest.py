"""What several test files share."""

from __future__ import annotations

import importlib.util
import os
import signal
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from hago.compiler.cache import KernelCache
from hago.runtime import processor
from hago.spec import HardwareSpec, load_spec, spec_names

# A busy machine fails no test (no deadline, so no test says deadline=None), and the same tests are run each time;
# `--hypothesis-profile explore` runs new ones.
_unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
settings.register_profile("hago", _unhurried, derandomize=True, database=None)
settings.register_profile("explore", _unhurried, print_blob=True)
settings.load_profile("hago")

# A shell starts what it puts in the background with Ctrl-C ignored, nohup with hangups ignored; so would be all that
# is started from here.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

_HERE = Path(__file__).resolve().parent


def models_folder() -> Path | None:
    """The folder with the real models, or None. $HAGO_MODELS wins over ../shared/models."""
    named = os.environ.get("HAGO_MODELS")
    folder = Path(named) if named else _HERE.parent.parent / "shared" / "models"
    return folder if (folder / "load_bundle.py").is_file() else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--processor",
        metavar="SPEC",
        help="hide the features of this processor that other specs ask for and SPEC does not (x86-avx2)",
    )
    parser.addoption("--slow", action="store_true", help="also run the tests that show the same on more cases")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow") is not None:
                item.add_marker(pytest.mark.skip(reason="slow: run it with --slow"))


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--processor"):
        hide_features(load_spec(config.getoption("--processor")))


def hide_features(spec: HardwareSpec) -> None:
    """For the rest of this process, Hago sees a processor that has no more than ``spec`` needs."""
    asked = {feature for name in spec_names() for feature in load_spec(name).cpu_features}
    hidden = set(map(processor.linux_name, asked - set(spec.cpu_features)))
    read = processor.read_cpuinfo

    def seen(path: Path = processor.CPUINFO) -> list[dict[str, str]]:
        blocks = read(path)
        for block in blocks if path == processor.CPUINFO else ():
            block["flags"] = " ".join(f for f in block.get("flags", "").split() if processor.plain(f) not in hidden)
        return blocks

    processor.read_cpuinfo = seen
    processor.host_features.cache_clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which kernels ran as they are: the others stood on the meaning of instructions that are not there."""
    specs = [spec for spec in map(load_spec, spec_names()) if spec.family == "x86" and spec.kernels_available]
    lacking = {spec.name: processor.missing_features(spec.cpu_features) for spec in specs}
    here = [name for name, missing in lacking.items() if not missing]
    others = [name for name, missing in lacking.items() if missing]
    terminalreporter.write_line(
        f"kernels of this processor: {', '.join(here) or 'none'}; emulated: {', '.join(others)}"
    )


@pytest.fixture(scope="session")
def kernels_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are kept, empty at first: each is compiled once in all of pytest's processes.

    ``$XDG_CACHE_HOME`` is its parent. Tests of the cache, and those with emulated instructions, have their own.
    """
    place = tmp_path_factory.getbasetemp()
    return (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "cache" / "hago"


@pytest.fixture(scope="module")
def cache(kernels_folder: Path) -> KernelCache:
    return KernelCache(kernels_folder)


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
