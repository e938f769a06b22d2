"""Random float graphs, compiled, against ONNX Runtime with all optimizations off.

    python benchmarks/random_graphs.py --count 1000

Every operator that Hago takes, opsets 11 to 21, odd shapes, several inputs and outputs. A graph is *right* where all
outputs have ONNX Runtime's types, shapes and values; *refused* where Hago says in one sentence why not. Values are
those of ONNX Runtime within what rounding explains: 1e-4 of the largest of the tensor, or, where a graph amplifies
rounding, what ONNX Runtime itself does when its inputs change in the last bit. Where that is not enough, ONNX's own
evaluator (numpy, float32) is asked as well, since the standard fixes neither a formula's rounding nor the order of a
sum or product: the values must then be those of either, within twice what the two differ.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from common import arguments, markdown, provenance, write_table
from float_graphs import OPSETS, Graph, float_graph
from onnx.reference import ReferenceEvaluator

import hago
from hago.compiler.cache import KernelCache
from hago.errors import HagoError

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Outcome:
    """What became of one graph. ``kind``: right, refused, differs, fault, or invalid (ONNX Runtime refuses it)."""

    seed: int
    opset: int
    kind: str
    operators: list[str]
    message: str = ""


def check(graph: Graph, cache: KernelCache | None = None) -> Outcome:
    """Compiles and runs one graph on one thread."""

    def outcome(kind: str, message: object = "") -> Outcome:
        text = " ".join(str(message).split())[:300]
        return Outcome(graph.seed, graph.opset, kind, graph.operators, text)

    try:
        session = _session(graph)
        wanted = session.run(None, graph.feeds)
    except Exception as error:
        return outcome("invalid", error)
    try:
        got = hago.compile(graph.proto, threads=1, cache=cache).run(graph.feeds)
    except HagoError as error:
        return outcome("refused", error)
    except Exception as error:
        return outcome("fault", f"{type(error).__name__}: {error}")
    for index, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return outcome("differs", f"output {index} is {a.dtype} {a.shape}, not {b.dtype} {b.shape}")
    worst = _excess(got, wanted, [TOLERANCE] * len(wanted))
    if worst is None:
        return outcome("right")
    shaken = [_shaken(session, graph, seed, wanted) for seed in range(3)]
    allowed = [max(TOLERANCE, *(30 * s[i] for s in shaken)) for i in range(len(wanted))]
    worst = _excess(got, wanted, allowed)
    if worst is not None and _is_like_the_evaluator(graph, got, wanted, allowed):
        return outcome("right", f"as ONNX's evaluator; from ONNX Runtime, {worst}")
    return outcome("right") if worst is None else outcome("differs", worst)


def _is_like_the_evaluator(
    graph: Graph, got: Sequence[np.ndarray], wanted: Sequence[np.ndarray], allowed: Sequence[float]
) -> bool:
    """Whether values that ONNX Runtime does not have are those of ONNX's evaluator, or between the two."""
    try:
        with np.errstate(all="ignore"):
            second = ReferenceEvaluator(graph.proto).run(None, graph.feeds)
    except Exception:  # it lacks operators, and some opsets of others
        return False
    for a, b, c, limit in zip(got, wanted, second, allowed, strict=True):
        between = _distance(c, b)
        if np.isfinite(between):
            limit = max(limit, 2 * between)
        if a.shape != c.shape or min(_distance(a, b), _distance(a, c)) > limit:
            return False
    return True


def _session(graph: Graph) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest value (at least 1e-3); inf where NaN or inf stand apart."""
    if not a.size:
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(y)
    if not np.array_equal(np.isfinite(x), finite) or not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    return float(np.abs(x[finite] - y[finite]).max() / max(np.abs(y[finite]).max(), 1e-3))


def _excess(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray], allowed: Sequence[float]) -> str | None:
    for index, (a, b, limit) in enumerate(zip(got, wanted, allowed, strict=True)):
        if (distance := _distance(a, b)) > limit:
            return f"output {index} of {b.shape} is off by {distance:.2g} of its largest value (at most {limit:.2g})"
    return None


def _shaken(
    session: onnxruntime.InferenceSession, graph: Graph, seed: int, wanted: Sequence[np.ndarray]
) -> list[float]:
    """How far each output moves when the inputs change by about their last bit."""
    rng = np.random.default_rng(seed)
    feeds = {n: a * (1 + rng.choice([-1, 0, 1], a.shape) * 2.0**-23).astype(np.float32) for n, a in graph.feeds.items()}
    return [_distance(a, b) for a, b in zip(session.run(None, feeds), wanted, strict=True)]


def main() -> None:
    parser = arguments(__doc__, out=Path("reports/random_graphs.md"))
    parser.add_argument("--count", type=int, default=1000, help="graphs (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    seed = options.first
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(KeyboardInterrupt):  # what was done is told
        cache = KernelCache(Path(place) / "kernels")
        while sum(o.kind != "invalid" for o in outcomes) < options.count:
            found = check(float_graph(seed), cache)
            outcomes.append(found)
            if found.kind != "right" or found.message:
                print(f"{seed}: {found.kind}: {found.message}", flush=True)
            seed += 1
    valid = [o for o in outcomes if o.kind != "invalid"]
    report = _report(valid, len(outcomes) - len(valid))
    notable = [asdict(o) for o in valid if o.kind != "right" or o.message]
    write_table(options.out, f"{report}\n{provenance(1)}\n", notable)


def _report(outcomes: Sequence[Outcome], invalid: int) -> str:
    kinds = Counter(o.kind for o in outcomes)
    per_operator: dict[str, Counter[str]] = {}
    for o in outcomes:
        for op in set(o.operators):
            per_operator.setdefault(op, Counter())[o.kind] += 1
    columns = ["right", "refused", "differs", "fault"]
    rows = [[op, *(str(found[kind]) for kind in columns)] for op, found in sorted(per_operator.items())]
    told = "\n".join(f"- graph {o.seed}: {o.kind}: {o.message}" for o in outcomes if o.kind != "right" or o.message)
    opsets = Counter(o.opset for o in outcomes)
    return (
        f"# Random graphs\n\n{len(outcomes)} random float graphs, compiled, against ONNX Runtime "
        f"{onnxruntime.__version__} with all optimizations off.\n\n"
        + "".join(f"- {kind}: {kinds[kind]}\n" for kind in columns)
        + f"- opsets: {', '.join(f'{v} ({opsets[v]})' for v in OPSETS)}\n"
        + f"- drawn as well, and refused by ONNX Runtime: {invalid}\n\n"
        + (told + "\n\n" if told else "")
        + "Graphs that hold an operator, by outcome:\n\n"
        + markdown(["operator", *columns], rows)
    )


if __name__ == "__main__":
    main()
