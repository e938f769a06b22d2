"""``hago quantize``, ``hago compile`` and ``hago run``: the stages of `tune`, one at a time."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..files import write_atomic
from .common_arguments import add_cache, add_hw, add_model, add_strategy, open_model, quantized

if TYPE_CHECKING:
    from ..data import Samples
    from ..measure.turns import Series
    from ..runtime.artifact import Artifact


_REPLAYS = 50


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``quantize``, ``compile`` and ``run``."""
    _register_quantize(subparsers)
    _register_compile(subparsers)
    _register_run(subparsers)


def _register_quantize(subparsers: argparse._SubParsersAction[Any]) -> None:
    text = (
        "Quantizes a model by a strategy and writes a standard QDQ ONNX file. Without --strategy: int8 where possible."
    )
    parser = subparsers.add_parser("quantize", help="apply a strategy and write QDQ ONNX", description=text)
    add_model(parser)
    add_strategy(parser, needed="calibration")
    add_hw(parser)
    add_cache(parser)
    parser.add_argument("--out", metavar="FILE", required=True, help="the QDQ file to write")
    parser.set_defaults(run=_quantize)


def _quantize(arguments: argparse.Namespace) -> int:
    from ..api import quantize
    from ..spec import resolve_hw
    from ..strategy import Strategy, uniform

    spec = resolve_hw(arguments.hw)
    model = open_model(arguments, arguments.calibration)
    strategy = Strategy.load(arguments.strategy) if arguments.strategy else uniform(model, spec)
    qdq = quantize(model, strategy, arguments.calibration, hw=spec, cache=arguments.cache)
    write_atomic(arguments.out, qdq.SerializeToString())
    layers = sum(choice.precision != "float32" for choice in strategy.choices.values())
    counted = sum(layer.kind != "shape" for layer in model.layers)  # without layers that only move data
    print(f"{arguments.out}: {layers} of {counted} layers quantized")
    return 0


def _register_compile(subparsers: argparse._SubParsersAction[Any]) -> None:
    text = "Compiles a float or QDQ ONNX file to one shared object that needs only TVM's runtime. With --strategy and "
    text += "--calibration the model is quantized first."
    parser = subparsers.add_parser(
        "compile", help="compile a float or QDQ model to one shared object", description=text
    )
    add_model(parser, "an ONNX file, float or QDQ")
    add_strategy(parser)
    add_hw(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="number of threads (default: physical cores)")
    add_cache(parser)
    parser.add_argument("--out", metavar="FILE", required=True, help="the file to write, such as model.so")
    parser.set_defaults(run=_compile)


def _compile(arguments: argparse.Namespace) -> int:
    from .. import api
    from ..compiler.linker import require_linker
    from ..spec import resolve_hw
    from ..text import plural, size

    started = time.perf_counter()
    spec = resolve_hw(arguments.hw)
    require_linker(spec.triple, arguments.out)
    model, qdq = quantized(arguments, spec)
    source = model if qdq is None else qdq
    net = api.compile(source, hw=spec, batch=model.batch, threads=arguments.threads, cache=arguments.cache)
    net.save(arguments.out)
    seconds, written = time.perf_counter() - started, size(Path(arguments.out).stat().st_size)
    print(f"{arguments.out}: {written}, {plural(net.threads, 'thread')}, built in {seconds:.1f} s")
    return 0


def _register_run(subparsers: argparse._SubParsersAction[Any]) -> None:
    text = "Runs a compiled model on samples and prints its latency, and its top-1 if there are labels."
    parser = subparsers.add_parser("run", help="run a model.so on samples", description=text)
    add = parser.add_argument
    add("model", metavar="MODEL.so", help="a file that `hago tune` or `hago compile` wrote")
    add(
        "--data",
        metavar="FILE.npz",
        required=True,
        help="samples: x (or one array per input), and labels y if there are any",
    )
    add("--out", metavar="FILE.npz", help="write the outputs to this file")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ..data import make_samples
    from ..measure.clocks import GPU, SYSTEM_CLOCKS
    from ..measure.runner import by_cpu_time
    from ..measure.turns import Series, Turn, take_turn
    from ..runtime.artifact import load
    from ..text import plural

    net = load(arguments.model)
    samples = make_samples(arguments.data, net.input_info)
    collected: list[list[np.ndarray]] = []
    turns: list[Turn] = []
    for start in range(0, len(samples), net.batch):
        count = min(net.batch, len(samples) - start)
        feeds = samples.batch(start, start + count)
        if count < net.batch:  # pad the last batch, and drop the surplus outputs
            rows = np.arange(net.batch) % count
            feeds = {name: values[rows] for name, values in feeds.items()}
        outputs: list[np.ndarray] = []
        turns.append(take_turn(partial(_run_into, outputs, net, feeds), 1, 1, SYSTEM_CLOCKS, settle_s=None))
        collected.append([output[:count] for output in outputs])
    outputs = [np.concatenate(parts) for parts in zip(*collected, strict=True)]
    print(f"{plural(len(samples), 'sample')}, {net.batch} per call, {plural(net.threads, 'thread')}")
    print(f"latency  {_latency(Series.of_turns(turns, by_cpu_time(net)))}")
    if net.has_clock:  # what is above has the copies of inputs and outputs, too
        print(f"on GPU   {net.time_calls(feeds, _REPLAYS) / _REPLAYS * 1e3:.3f} ms per call ({GPU})")
    told = _top1(net, samples, outputs)
    if told:
        print(told)
    if arguments.out is not None:
        _write(Path(arguments.out), {info.name: array for info, array in zip(net.output_info, outputs, strict=True)})
        print(f"outputs  {arguments.out}")
    return 0


def _run_into(outputs: list[np.ndarray], net: Artifact, feeds: dict[str, np.ndarray]) -> None:
    outputs += net.run(feeds)


def _latency(series: Series) -> str:
    """The median of the undisturbed calls."""
    if not series.counts.any():
        return "cannot be determined: other work interrupted every call"
    return f"{np.median(series.times_s[series.counts]) * 1e3:.3f} ms per call (median, {series.clock})"


def _top1(net: Artifact, samples: Samples, outputs: list[np.ndarray]) -> str:
    """The line of top-1; empty if the labels are not classes or no output fits them."""
    from ..measure.outputs import ModelOutputs
    from ..measure.topk import TopK

    try:
        metric = TopK("top1").fitted(ModelOutputs(net.output_info), samples.labels)
        value = metric.value(metric.per_sample(outputs, samples.labels))
    except DataError:
        return ""
    name = "" if len(outputs) == 1 else f" (output {net.output_info[metric.index or 0].name})"
    return f"top-1    {value:.2%}{name}"


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import io

    if path.suffix != ".npz":
        raise DataError("outputs are written as npz", where=str(path), hint="end the name in .npz")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())
