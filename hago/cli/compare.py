"""``hago compare``: one model in TVM, ONNX Runtime and OpenVINO, float32 and quantized, in one table."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..files import write_atomic
from ..folder_lock import filled_folder
from ..result_files import QDQ_FILE
from ..visible import cell
from .common_arguments import CALIBRATION, DATA, add_cache, add_hw, add_model, open_model, positive
from .screen import screen

if TYPE_CHECKING:
    import onnx

    from ..compare import Comparison
    from ..data import Samples
    from ..model import Model

_CALIBRATION_SAMPLES = 256

_DESCRIPTION = """
Runs one model in TVM, ONNX Runtime and OpenVINO, in float32 and quantized, and prints latency (measured in turns),
accuracy and size side by side; on a GPU (--hw nvidia-...) in TVM, ONNX Runtime, PyTorch and TensorRT, those that are
installed, timed by the GPU. All run the same QDQ file: that of --qdq, or one made from --strategy, or int8
everywhere. Without --qdq or --calibration, some of the samples (those that the data file reserves for it, else up to
256 drawn by --seed) are used for calibration and not scored.
"""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds the ``compare`` command; it sets ``run``: a function of the parsed arguments -> exit code."""
    parser = subparsers.add_parser(
        "compare",
        help="latency, accuracy and size in TVM, ONNX Runtime and OpenVINO",
        description=_DESCRIPTION,
    )
    add_model(parser)
    add_hw(parser)
    add_cache(parser)
    add = parser.add_argument
    add("--data", metavar="PATH", required=True, help=DATA)
    add("--calibration", metavar="PATH", help=CALIBRATION)
    add(
        "--metric",
        default="top1",
        help="top1, top5, cosine, sqnr or mse; for one output: top1:NAME (default: %(default)s)",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--strategy", metavar="FILE", help="strategy to quantize by (YAML or JSON)")
    source.add_argument("--qdq", metavar="FILE", help="QDQ ONNX file to use as the quantized model")
    add(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="threads per engine (default: %(default)s)",
    )
    add("--rounds", type=positive, default=30, metavar="N", help="rounds of timing (default: %(default)s)")
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the sample split and of the order (default: %(default)s)",
    )
    add("--out", metavar="DIR", help="also write compare.md, compare.json and model.qdq.onnx to this folder")
    add("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from .. import api
    from ..compare import TurnPlan, compare
    from ..compare.engines import usual_engines
    from ..data import make_samples
    from ..measure.metrics import get_metric
    from ..measure.outputs import ModelOutputs
    from ..measure.running import kept_affinity
    from ..model import static_source
    from ..runtime.threads import check_threads
    from ..strategy import OTHER_WEIGHTS, Strategy

    say = _progress()
    threads = check_threads(arguments.threads)
    model = open_model(arguments, arguments.data)
    metric = get_metric(arguments.metric)
    samples = make_samples(arguments.data, model.inputs)
    with kept_affinity():  # calibration runs TVM
        qdq, samples = _quantized(arguments, model, samples)
    # Other engines read the file themselves, so its free dimensions are fixed for them.
    engines = usual_engines(
        arguments.model if model.input_shapes is None else static_source(model),
        qdq,
        compile=partial(api.compile, cache=arguments.cache),
        hw=arguments.hw,
        batch=model.batch,
        threads=threads,
    )
    found = compare(
        engines,
        samples,
        metric,
        model="/".join(Path(arguments.model).parts[-2:]),  # many files are named model.onnx
        plan=TurnPlan(arguments.rounds, seed=arguments.seed),
        threads=threads,
        progress=say,
        outputs=ModelOutputs.of(model),
    )
    if arguments.strategy is not None and Strategy.load(arguments.strategy).model_hash != model.hash:
        found = replace(found, notes=(f"{OTHER_WEIGHTS[0].upper()}{OTHER_WEIGHTS[1:]}.",))
    _print(found, arguments.json)
    if arguments.out is not None:  # after the results have been printed
        _write(arguments.out, found, qdq)
    return 0 if any(row.latency is not None for row in found.rows) else 1


def _quantized(arguments: argparse.Namespace, model: Model, samples: Samples) -> tuple[onnx.ModelProto, Samples]:
    """The QDQ model, and the samples that remain to score."""
    from .. import api
    from ..calibrate.calibration import is_calibration
    from ..data import make_samples
    from ..runners.onnx_io import static_model
    from ..spec import resolve_hw
    from ..strategy import Strategy, uniform

    if arguments.qdq is not None:
        return static_model(arguments.qdq, model.batch), samples
    ranges: Any = arguments.calibration
    if ranges is None or not is_calibration(ranges):
        if ranges is not None:
            given = make_samples(ranges, model.inputs)
            given = given.calibration or given
        elif samples.calibration is not None:
            given = samples.calibration
        else:
            given, samples = _split(samples, arguments.seed)
        ranges = given.subset(np.arange(min(len(given), _CALIBRATION_SAMPLES)))
    strategy = Strategy.load(arguments.strategy) if arguments.strategy else uniform(model, resolve_hw(arguments.hw))
    return api.quantize(model, strategy, calibration=ranges, hw=arguments.hw, cache=arguments.cache), samples


def _split(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """At most a quarter of the samples, drawn by seed, for calibration; the others, in order, to score."""
    count = min(_CALIBRATION_SAMPLES, len(samples) // 4)
    if count == 0:
        raise DataError(
            f"{len(samples)} samples are too few to calibrate on some and score the others",
            where=samples.where,
            hint="give more samples, or --calibration, or a quantized model with --qdq",
        )
    drawn = np.random.default_rng(seed).permutation(len(samples))
    return samples.subset(np.sort(drawn[:count])), samples.subset(np.sort(drawn[count:]))


def _write(path: str, found: Comparison, qdq: onnx.ModelProto) -> None:
    with filled_folder(path) as folder:
        write_atomic(folder / "compare.md", found.to_markdown())
        write_atomic(folder / "compare.json", found.to_json() + "\n")
        write_atomic(folder / QDQ_FILE, qdq.SerializeToString())


def _print(found: Comparison, as_json: bool) -> None:
    if as_json:
        print(found.to_json())
    else:
        screen().print(found.table())


def _progress() -> Any:
    """Prints progress on a terminal only, never into files, pipes or JSON."""
    from rich.console import Console

    console = Console(file=sys.stderr, highlight=False)
    return (lambda text: console.print(cell(f"{text} ...", "dim"))) if console.is_terminal else None
