"""Compiled networks against the numpy reference, bit for bit, and against ONNX Runtime, class by class.

    python benchmarks/conformance.py

Every real model, in QDQ files of both makers: Hago's own strategies, and ONNX Runtime's `quantize_static`
(per tensor and per channel, uint8 and int8 activations). Needs hago[peers].
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from common import CLASSIFIERS, EVERY_MODEL, arguments, load_bundle, markdown, provenance, write_table

from hago.compiler.build import build
from hago.compiler.cache import KernelCache
from hago.compiler.conformance import Conformance, Conformity
from hago.data import make_samples
from hago.lower import lower
from hago.model import Model, load_model
from hago.qdq import Quantizer
from hago.scheme import PER_CHANNEL, PER_TENSOR
from hago.search.option import option_of
from hago.search.space import SearchSpace
from hago.spec import HardwareSpec, load_spec, resolve_hw
from hago.tuning.calibrating import calibrate_model

LARGE = 200_000_000  # multiply-adds from which on a model is run on fewer samples
CALIBRATION = 128


@dataclass(frozen=True)
class Row:
    """One QDQ file. Counts of ``nodes`` and ``elements`` are of what must be equal; ``agreement`` are shares."""

    model: str
    file: str
    hw: str
    samples: int
    nodes: int
    elements: int
    differing: int
    float_nodes: int
    float_error: float
    outputs: str
    compared: int
    agreement: float | None
    plain_agreement: float | None
    ort_agreement: float | None
    float_agreement: float | None
    decibels: float
    seconds: float


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/conformance.md"))
    parser.set_defaults(only=list(EVERY_MODEL))
    parser.add_argument("--samples", type=int, default=8, help="for the reference, of small models (default: 8)")
    parser.add_argument("--large-samples", type=int, default=2, help="of large models (default: 2)")
    parser.add_argument("--classes", type=int, default=1100, help="samples for classes (default: all)")
    parser.add_argument("--large-classes", type=int, default=200, help="of large models (default: 200)")
    parser.add_argument("--cache", type=Path, help="kernel cache (default: a new, empty one)")
    parser.add_argument("--seed", type=int, default=0, help="of the mixed strategies (default: 0)")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        cache = KernelCache(options.cache or Path(place) / "kernels")
        for name in options.only:
            for row in check_model(name, options, cache, Path(place)):
                print(" ".join(cells(row)), f"{row.seconds:.1f} s", flush=True)
                rows.append(row)
    write_table(options.out, _text(rows, options), [asdict(row) for row in rows])


def check_model(name: str, options: Any, cache: KernelCache, place: Path) -> Iterator[Row]:
    bundle = load_bundle(options.models, name)
    model = load_model(bundle["model"])
    large = sum(layer.macs for layer in model.layers) > LARGE
    exact = options.large_samples if large else options.samples
    count = min(options.large_classes if large else options.classes, len(bundle["x"]))
    host = resolve_hw("auto")
    expected = _classes(session(model.proto), model, bundle, count)
    for label, hw, proto in (*own_files(model, bundle, host, options, cache), *ort_files(bundle, place)):
        started = time.perf_counter()
        lowered = lower(load_model(proto).proto, hw)
        conformance = Conformance(lowered, hw, threads=options.threads, cache=cache)
        found = _checked(conformance, model, bundle, exact)
        net = build(lowered, hw, threads=options.threads, cache=cache)
        ours = run(net.run, model, bundle, count)
        theirs = run(session(proto), model, bundle, count)
        plain = run(session(proto, optimized=False), model, bundle, count)
        classifier = name in CLASSIFIERS
        must = [check for check in found.nodes if check.exact]
        yield Row(
            model=name,
            file=label,
            hw=hw.name,
            samples=exact,
            nodes=len(must),
            elements=sum(check.elements for check in must),
            differing=sum(check.differing for check in must),
            float_nodes=len(found.nodes) - len(must),
            float_error=found.error,
            outputs=_outputs(found),
            compared=count,
            agreement=_same(ours, theirs) if classifier else None,
            plain_agreement=_same(ours, plain) if classifier else None,
            ort_agreement=_same(theirs, plain) if classifier else None,
            float_agreement=_same(ours, expected) if classifier else None,
            decibels=_decibels(theirs, ours),
            seconds=time.perf_counter() - started,
        )


def own_files(
    model: Model, bundle: Mapping[str, Any], host: HardwareSpec, options: Any, cache: KernelCache
) -> Iterator[tuple[str, HardwareSpec, onnx.ModelProto]]:
    """What Hago's own quantization makes of the model: (what, hardware, QDQ)."""
    samples = make_samples(bundle["calib"][0:CALIBRATION], model.inputs)
    calibration = calibrate_model(model, samples, host, threads=options.threads, cache=cache)
    for label, hw, scheme in (
        ("int8 per channel", host, option_of("int8", PER_CHANNEL)),
        ("int8 per tensor", host, option_of("int8", PER_TENSOR)),
        ("int7 per channel", load_spec("x86-avx2"), option_of("int7", PER_CHANNEL)),
        ("mixed", host, None),
    ):
        space = SearchSpace.from_model(model, hw)
        if scheme is None:
            rng = np.random.default_rng(options.seed)
            params = {key: str(rng.choice(np.array(choices))) for key, choices in space.parameters.items()}
        else:
            params = space.uniform(scheme, "minmax")
        yield f"Hago, {label}", hw, Quantizer(model, calibration, hw).qdq(space.strategy(params))


def ort_files(bundle: Mapping[str, Any], place: Path) -> Iterator[tuple[str, HardwareSpec, onnx.ModelProto]]:
    """What ONNX Runtime's `quantize_static` makes of the model, min-max ranges."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    feed = onnx.load(bundle["model"]).graph.input[0].name
    samples = bundle["calib"][0:CALIBRATION]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {feed: row[None]}

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        for per_channel in (True, False):
            for kind in (QuantType.QUInt8, QuantType.QInt8):
                path = place / "ort.onnx"
                quantize_static(
                    bundle["model"], path, Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
                    activation_type=kind, weight_type=QuantType.QInt8,
                    extra_options={"ActivationSymmetric": kind == QuantType.QInt8},
                )  # fmt: skip
                label = f"ORT, per {'channel' if per_channel else 'tensor'}, {kind.name[1:].lower()}"
                yield label, resolve_hw("auto"), onnx.load(path)
    finally:
        logging.disable(level)


def session(proto: onnx.ModelProto, *, optimized: bool = True) -> Any:
    """A function of feeds, by ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: made.run(None, dict(feeds))


def run(function: Any, model: Model, bundle: Mapping[str, Any], count: int) -> np.ndarray:
    """The first output for the first ``count`` samples, one by one."""
    (info,) = model.inputs
    found: list[np.ndarray] = []
    for start in range(0, count, 50):
        rows = bundle["x"][start : min(start + 50, count)]
        found += [function({info.name: row[None]})[0] for row in rows]
    return np.concatenate(found)


def _classes(function: Any, model: Model, bundle: Mapping[str, Any], count: int) -> np.ndarray:
    return run(function, model, bundle, count)


def _checked(conformance: Conformance, model: Model, bundle: Mapping[str, Any], count: int) -> Conformity:
    (info,) = model.inputs
    first, *rest = (conformance.check({info.name: bundle["x"][i : i + 1]}) for i in range(count))
    return sum(rest, first)


def _outputs(found: Conformity) -> str:
    """Whether the whole network's outputs are those of the reference, without teacher forcing."""
    if not any(check.differing for check in found.outputs):
        return "equal"
    return f"{max(check.error for check in found.outputs):.0e}"


def _same(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.argmax(-1) == b.argmax(-1)).mean())


def _decibels(reference: np.ndarray, found: np.ndarray) -> float:
    noise = float(np.square(reference.astype(np.float64) - found).sum())
    signal = float(np.square(reference.astype(np.float64)).sum())
    return 10 * float(np.log10(signal / noise)) if noise else float("inf")


_HEAD = [
    "model", "QDQ file", "samples", "exact nodes", "values", "differing", "float nodes", "their error", "outputs",
    "classes of", "as ORT %", "as plain ORT %", "ORT as plain ORT %", "dB to ORT", "as float32 %",
]  # fmt: skip

_INTRODUCTION = """
Compiled networks against the numpy reference of their lowered graph, and against ONNX Runtime {ort} running the same
QDQ file.

- *exact nodes*: nodes with one right answer (integer operators, conversions, what moves elements), of which every
  kernel is given the inputs that the compiled network gave it. *differing*: values that are not equal, bit for bit,
  out of *values*, over all *samples*. Other nodes compute floats; *their error* is the largest difference relative to
  the largest value.
- *outputs*: the whole network's outputs against the reference, from the same input and without that help: equal, or
  the largest relative difference (only where float operators lie between).
- *as ORT*: share of the samples with the same top-1 class as ONNX Runtime with all optimizations; *as plain ORT*: as
  ONNX Runtime with none, which computes the file's float operators one by one. *ORT as plain ORT*: the two against
  each other: how far ONNX Runtime knows the file's answer at all. *dB to ORT*: signal to noise of the outputs, ONNX
  Runtime's (with all optimizations) being the signal.
- int7 is compiled for x86-avx2 (the instruction that saturates), everything else for {hw}. *mixed*: every layer's
  precision, granularity and calibrator drawn at random.

"""


def cells(row: Row) -> list[str]:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    return [
        row.model,
        row.file,
        str(row.samples),
        str(row.nodes),
        f"{row.elements:,}",
        str(row.differing),
        str(row.float_nodes),
        f"{row.float_error:.0e}" if row.float_nodes else "-",
        row.outputs,
        str(row.compared),
        share(row.agreement),
        share(row.plain_agreement),
        share(row.ort_agreement),
        f"{row.decibels:.1f}",
        share(row.float_agreement),
    ]


def _agreement(row: Row) -> float:
    """With that ONNX Runtime which it agrees with more."""
    assert row.agreement is not None and row.plain_agreement is not None
    return max(row.agreement, row.plain_agreement)


def _text(rows: Sequence[Row], options: Any) -> str:
    values, wrong = sum(row.elements for row in rows), sum(row.differing for row in rows)
    told = [row for row in rows if row.agreement is not None]
    same = [row for row in told if row.decibels == float("inf")]
    below = [row for row in told if _agreement(row) < 0.99]
    lines = [
        f"- {len(rows)} files: {wrong} of {values:,} values that must be equal differ.",
        f"- All outputs equal ONNX Runtime's (with all optimizations), bit for bit: {len(same)} of {len(told)} files.",
        "- Same classes as ONNX Runtime, with all of its optimizations or with none, on at least 99 % of the samples: "
        f"{len(told) - len(below)} of {len(told)} files.",
    ]
    for row in below:
        assert row.agreement is not None and row.plain_agreement is not None and row.ort_agreement is not None
        lines.append(
            f"- {row.model}, {row.file}: {100 * row.agreement:.1f} and {100 * row.plain_agreement:.1f} %; the two ONNX "
            f"Runtimes agree with each other on {100 * row.ort_agreement:.1f} %."
        )
    introduction = _INTRODUCTION.format(ort=onnxruntime.__version__, hw=resolve_hw("auto").name)
    text = "# Conformance\n" + introduction + "\n".join(lines) + "\n\n"
    return text + markdown(_HEAD, [cells(row) for row in rows]) + "\n" + provenance(options.threads) + "\n"


if __name__ == "__main__":
    main()
