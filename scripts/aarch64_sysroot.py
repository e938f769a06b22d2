"""Makes a folder in which AArch64 code runs without a board: Debian's Python and TVM under QEMU user emulation.

    python scripts/aarch64_sysroot.py            # into ~/.cache/hago/aarch64, about 500 MB
    python scripts/aarch64_sysroot.py --install  # also installs the host's packages (Debian, as root)

The folder holds a sysroot of Debian's arm64 packages (`root/`), the AArch64 wheels of TVM and numpy (`wheels/`), and
`python`, a wrapper that runs its Python in the emulator. `hago.device.emulated` starts TVM's RPC server with it. A
finished folder is left as it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

HOST_PACKAGES = {
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-aarch64": "qemu-user",  # the one that takes plugins: hago.device.counting
    "aarch64-linux-gnu-ld": "binutils-aarch64-linux-gnu",
}
PACKAGES = [
    "libc6",
    "libc-bin",
    "libgcc-s1",
    "libstdc++6",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "python3.11-minimal",
    "python3.11",
    "libexpat1",
    "zlib1g",
    "libssl3",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libsqlite3-0",
    "libuuid1",
    "libdb5.3",
    "libncursesw6",
    "libtinfo6",
    "libreadline8",
    "libnsl2",
    "libtirpc3",
    "libcrypt1",
    "libgssapi-krb5-2",
    "libkrb5-3",
    "libk5crypto3",
    "libkrb5support0",
    "libcom-err2",
    "libkeyutils1",
    "libzstd1",
    "media-types",
]
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
PYTHON = "3.11"  # Debian 12's
DONE = "complete"

WRAPPER = """#!/bin/sh
# Runs the sysroot's Python in the emulator. QEMU_CPU chooses the processor: without it glibc would take SVE.
here=$(dirname "$(readlink -f "$0")")
export QEMU_LD_PREFIX="$here/root" PYTHONHOME="$here/root/usr" PYTHONPATH="$here/wheels" PYTHONNOUSERSITE=1
exec qemu-aarch64-static -0 "$here/python" "$here/root/usr/bin/python3.11" "$@"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=default_folder(), help="default: %(default)s")
    parser.add_argument("--install", action="store_true", help="install the host's packages with apt-get (as root)")
    options = parser.parse_args()
    missing = [package for command, package in HOST_PACKAGES.items() if shutil.which(command) is None]
    if missing and options.install:
        run("apt-get", "install", "-y", "-q", *missing)
    elif missing:
        sys.exit(f"needed on this machine: apt-get install {' '.join(missing)} (or run this again with --install)")
    if (options.folder / DONE).is_file():
        print(f"{options.folder} is complete")
        return 0
    make(options.folder)
    print(f"{options.folder} is complete")
    return 0


def default_folder() -> Path:
    """$HAGO_AARCH64, or a folder in the user's cache."""
    named = os.environ.get("HAGO_AARCH64")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else base / "hago" / "aarch64"


def make(folder: Path) -> None:
    """Builds the folder beside its place and moves it there when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".aarch64-") as place:
        made = Path(place) / "made"
        made.mkdir()
        unpack_packages(made / "root", Path(place) / "apt")
        unpack_wheels(made / "wheels", Path(place) / "downloads")
        wrapper = made / "python"
        wrapper.write_text(WRAPPER)
        wrapper.chmod(0o755)
        environment = {**os.environ, "QEMU_CPU": "cortex-a72", "TVM_USE_RUNTIME_LIB": "1"}
        check = "import tvm, numpy, platform; assert platform.machine() == 'aarch64'"
        subprocess.run([str(wrapper), "-c", check], env=environment, check=True, cwd=place)
        (made / DONE).touch()
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def unpack_packages(root: Path, apt: Path) -> None:
    """Debian's arm64 packages, by an apt that knows nothing of the host's own packages."""
    lists, archives = apt / "lists", apt / "archives"
    for path in (lists / "partial", archives / "partial", root):
        path.mkdir(parents=True)
    status = apt / "status"
    status.touch()
    options = [
        f"-oDir::State::lists={lists}", f"-oDir::State::status={status}", f"-oDir::Cache={apt}",
        "-oAPT::Architecture=arm64", "-oAPT::Architectures::=arm64", "-oAPT::Sandbox::User=root",
    ]  # fmt: skip
    run("apt-get", *options, "-q", "update")
    run("apt-get", *options, "-q", "download", *PACKAGES, cwd=archives)
    for package in sorted(archives.glob("*.deb")):
        run("dpkg", "-x", str(package), str(root))


def unpack_wheels(target: Path, downloads: Path) -> None:
    """TVM and what its runtime and RPC server import, in this environment's versions."""
    downloads.mkdir()
    names = (
        "apache-tvm",
        "apache-tvm-ffi",
        "numpy",
        "ml_dtypes",
        "typing_extensions",
        "psutil",
        "tornado",
        "cloudpickle",
    )
    wanted = [f"{name}=={version(name)}" if _installed(name) else name for name in names]
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    run(
        sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON,
        "--implementation", "cp", *platforms, "-d", str(downloads), *wanted,
    )  # fmt: skip
    target.mkdir()
    for wheel in downloads.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except Exception:
        return False


def run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
