"""What the benchmarks share: the real models, peers' own quantization, and provenance of a table."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hago.calibrate import Calibration
from hago.files import write_atomic
from hago.measure.environment import read_environment
from hago.model import Model
from hago.qdq import Quantizer
from hago.search.option import option_of
from hago.search.space import SearchSpace
from hago.spec import HardwareSpec
from hago.strategy import PER_CHANNEL

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
MODELS = REPOSITORY.parent / "shared" / "models"
CLASSIFIERS = (
    "cifar10_resnet8",
    "cifar10_resnet20",
    "cifar10_resnet56",
    "vww_mobilenetv1_025",
    "kws_dscnn",
    "kws_kwt1",
    "imagenet_squeezenet1_1",
    "tin200_mobilenetv2",
    "tin200_resnet50v2_s3",
)
EVERY_MODEL = (*CLASSIFIERS, "ad_toycar_ae")
ARM_SPECS = ("arm-cortex-a72", "arm-cortex-a76", "arm-neoverse-v1")


def integer_forms(model: Model, calibration: Calibration, spec: HardwareSpec) -> dict[str, onnx.ModelProto]:
    """Precision -> QDQ, for each integer precision of the hardware's convolutions, everywhere and per channel."""
    quantizer, space = Quantizer(model, calibration, spec), SearchSpace.from_model(model, spec)
    offered = dict.fromkeys(choice.precision for choice in spec.choices("conv"))
    return {
        precision: quantizer.qdq(space.strategy(space.uniform(option_of(precision, PER_CHANNEL), "minmax")))
        for precision in offered
        if precision.startswith("int")
    }


def arguments(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--models", type=Path, default=MODELS, help="folder of the real models (default: ../shared/models)")
    add("--only", nargs="*", default=list(CLASSIFIERS), metavar="NAME", help="these models alone")
    add("--threads", type=int, default=1, help="threads of every engine (default: %(default)s)")
    add("--out", type=Path, default=defaults["out"], help="file to write, .md (default: %(default)s)")
    return parser


def load_bundle(models: Path, name: str) -> dict[str, Any]:
    """One real model with its labelled samples: model (path), x, y, calib ..."""
    path = models / "load_bundle.py"
    if not path.is_file():
        sys.exit(f"no real models in {models}: name their folder with --models")
    spec = importlib.util.spec_from_file_location("load_bundle", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.load(str(models / name)))


def ort_static_int8(bundle: dict[str, Any], folder: Path) -> Path:
    """The model quantized by ONNX Runtime's own `quantize_static`, as its users do: QDQ, per channel, u8/s8.

    Where 8-bit weights saturate there, they have 7 bits, as its documentation advises.
    """
    import logging

    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    source = bundle["model"]
    feed = onnx.load(source).graph.input[0].name
    samples = bundle["calib"]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.index = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            if self.index >= min(len(samples), 128):
                return None
            self.index += 1
            return {feed: samples[self.index - 1 : self.index]}

    target = folder / f"{bundle['name']}.ort-int8.onnx"
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=read_environment().saturates,
        )  # fmt: skip
    finally:
        logging.disable(level)
    return target


def provenance(threads: int) -> str:
    """Command, commit, machine and versions, for the foot of a table."""
    environment = read_environment(threads)
    command = " ".join(["python", *_relative(sys.argv)])
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    vnni = " Without VNNI 8-bit weights saturate in ONNX Runtime and OpenVINO." if environment.saturates else ""
    return f"`{command}` on {when}, commit {_commit()}. {environment.sentence()}. {_packages(environment)}.{vnni}"


def write_table(path: Path, text: str, data: Any) -> None:
    """The Markdown file, and the numbers behind it as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text)
    write_atomic(path.with_suffix(".json"), json.dumps(data, indent=1, default=float) + "\n")
    print(f"\n{path}")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: first column left, the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _commit() -> str:
    run = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    dirty = subprocess.run(
        ["git", "-C", str(REPOSITORY), "status", "--porcelain", "--untracked-files=no", "--", "hago", "search"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return (done.stdout.strip() or "unknown") + ("+" if dirty.stdout.strip() else "")


def _relative(argv: Sequence[str]) -> list[str]:
    script = Path(argv[0]).resolve()
    name = script.relative_to(REPOSITORY) if script.is_relative_to(REPOSITORY) else Path(script.name)
    return [str(name), *(os.path.relpath(text, REPOSITORY) if os.path.isabs(text) else text for text in argv[1:])]


def _packages(environment: Any) -> str:
    wanted = ("onnxruntime", "openvino", "nncf")
    return ", ".join(f"{name} {environment.packages[name]}" for name in wanted if name in environment.packages)
