"""Bad inputs, one case each: what is wrong, how it is given, and what the message must say.

``tests/test_bad_inputs.py`` holds every case to its words, and ``scripts/error_table.py`` writes them all
down in docs/errors.md. Every case runs for real in a folder of its own, on a tiny network.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import shlex
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hago import errors
from hago.cli import main

Prepare = Callable[[Path], None]


@dataclass(frozen=True)
class BadInput:
    """``command`` is typed in a shell where it begins with "hago", and is Python otherwise.

    ``what``, ``where`` and ``hint`` are parts of the message; None where that part is not there.
    ``around`` simulates what a test cannot have: a full disk, another processor.
    """

    group: str
    title: str
    command: str
    error: type[errors.HagoError]
    what: str
    where: str | None
    hint: str | None
    prepare: Prepare = lambda folder: None
    around: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def is_shell(self) -> bool:
        return self.command.startswith("hago ")

    def run(self, folder: Path) -> errors.HagoError:
        """The error it ends in. AssertionError where it does not."""
        write_usual_files(folder)
        self.prepare(folder)
        output = io.StringIO()
        with working_in(folder), self.around(), contextlib.redirect_stdout(output):
            try:
                if self.is_shell:
                    main(["--debug", *shlex.split(self.command)[1:]])
                else:
                    exec(compile(self.command, self.title, "exec"), {"hago": __import__("hago"), "np": np})
            except errors.HagoError as error:
                return error
        raise AssertionError(f"{self.title}: no error, but {output.getvalue()!r}")


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """The current folder for a while, so that messages hold relative paths, the same on every machine."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def network(seed: int = 0, batch: int | str = "n") -> onnx.ModelProto:
    """[n, 1, 8, 8] -> conv, relu, mean, linear -> [n, 10]; weights with short binary fractions."""
    rng = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.integers(-64, 64, shape).astype(np.float32) / 64, name)

    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["scores"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 10])],
        [weights("w1", 16, 1, 3, 3), weights("b1", 16), weights("w2", 10, 16), weights("b2", 10)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def samples(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, count)


def write_usual_files(folder: Path) -> None:
    """A model and samples that are right."""
    onnx.save(network(), folder / "model.onnx")
    x, y = samples()
    np.savez(folder / "samples.npz", x=x, y=y)


# What makes files wrong.


def model(name: str, change: Callable[[onnx.ModelProto], None]) -> Prepare:
    """The usual network, changed."""

    def prepare(folder: Path) -> None:
        proto = network()
        change(proto)
        (folder / name).write_bytes(proto.SerializeToString())

    return prepare


def _node(proto: onnx.ModelProto, op: str, domain: str = "") -> None:
    proto.graph.node[1].op_type, proto.graph.node[1].domain = op, domain
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))


def _random(proto: onnx.ModelProto) -> None:
    _node(proto, "RandomNormalLike")


def _nan_weights(proto: onnx.ModelProto) -> None:
    weights = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weights[3, 0, 1, 1] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w1"))


def _fixed_batch(proto: onnx.ModelProto) -> None:
    proto.CopyFrom(network(batch=2))


def _unknown_width(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"


def _old_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 6


def _external(folder: Path) -> None:
    onnx.save(
        network(), folder / "external.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (folder / "weights.bin").unlink()


def cut(name: str, source: str, share: float) -> Prepare:
    """A file that ends too early."""

    def prepare(folder: Path) -> None:
        data = (folder / source).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return prepare


def text(name: str, content: str) -> Prepare:
    def prepare(folder: Path) -> None:
        (folder / name).write_text(content)

    return prepare


def _torch_file(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"weight": 1}))


def npz(**arrays: np.ndarray) -> Prepare:
    def prepare(folder: Path) -> None:
        np.savez(folder / "bad.npz", **arrays)  # type: ignore[arg-type]

    return prepare


def _nan_samples(folder: Path) -> None:
    x, y = samples()
    x[7, 0, 2, 3] = np.nan
    np.savez(folder / "bad.npz", x=x, y=y)


def _colour_samples(folder: Path) -> None:
    np.savez(folder / "bad.npz", x=np.zeros((60, 8, 8, 3), np.float32), y=samples()[1])


def _classes_from_one(folder: Path) -> None:
    x, y = samples()
    np.savez(folder / "bad.npz", x=x, y=y + 1)


def _overlap(folder: Path) -> None:
    np.savez(folder / "calibration.npz", x=samples()[0][:10])


def strategy(**changes: object) -> Prepare:
    """A strategy for the usual network in which some keys are replaced."""

    def prepare(folder: Path) -> None:
        import yaml

        from hago.model import load_model

        content = {
            "hago_strategy": 1,
            "model": load_model(network()).hash,
            "hw": "x86-avx2",
            "layers": {"conv": {"precision": "int8"}, "fc": {"precision": "int8"}},
        }
        (folder / "strategy.yaml").write_text(yaml.safe_dump({**content, **changes}))

    return prepare


def _other_model_strategy(folder: Path) -> None:
    from hago.model import load_model

    strategy(model=load_model(network(seed=1)).hash)(folder)


def _tuned(folder: Path) -> None:
    """A finished search in ``out``."""
    with working_in(folder), contextlib.redirect_stdout(io.StringIO()):
        main(shlex.split(f"hago {TUNE} --trials 1 --out out --progress silent")[1:])


def _torn_artifact(folder: Path) -> None:
    import hago

    hago.compile(folder / "model.onnx", hw="x86-avx2", threads=1).save(folder / "whole.so")
    cut("model.so", "whole.so", 0.3)(folder)


def _artifact(folder: Path) -> None:
    import hago

    hago.compile(folder / "model.onnx", hw="x86-avx2", threads=1).save(folder / "model.so")


def _warm_cache(folder: Path) -> None:
    import hago

    hago.compile(folder / "model.onnx", hw="x86-avx2", threads=1, cache=folder / "cache")


def _open_cache(folder: Path) -> None:
    from hago.cache import KernelCache

    place = KernelCache(folder / "cache").folder
    place.mkdir(parents=True)
    place.chmod(0o777)


# What is simulated.


def full_disk() -> AbstractContextManager[object]:
    """No byte can be forced to disk any more."""
    return mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def old_processor() -> AbstractContextManager[object]:
    """A processor of before AVX2."""
    return mock.patch("hago.artifact._host_features", return_value={"sse2", "ssse3", "bmi1", "bmi2", "f16c"})


def without(*packages: str) -> Callable[[], AbstractContextManager[object]]:
    """Packages that are not installed."""

    def around() -> AbstractContextManager[object]:
        from importlib.util import find_spec

        stack = ExitStack()
        stack.enter_context(mock.patch.dict("sys.modules", dict.fromkeys(packages)))
        stack.enter_context(
            mock.patch("importlib.util.find_spec", lambda name, *rest: None if name in packages else find_spec(name))
        )
        return stack

    return around


TUNE = "tune model.onnx --data samples.npz --hw x86-avx2 --threads 1"
INSPECT = "inspect {} --hw x86-avx2"

_WRONG_KEY = """\
name: my-board
description: A board of mine.
extends: x86-avx2
machine: {cores: 4, l1_byte: 32 KiB}
"""

_OVERFLOW = """\
name: my-board
description: A board of mine.
extends: x86-avx2
ways:
  int8: {max_reduction: 100000}
"""

MODELS = [
    BadInput("Models", "no such file", "hago " + INSPECT.format("missing.onnx"),
        errors.ModelError, "no such file", "missing.onnx", "check the path"),
    BadInput("Models", "an ONNX file cut short", "hago " + INSPECT.format("cut.onnx"),
        errors.ModelError, "cut short", "cut.onnx", "export or download it again", cut("cut.onnx", "model.onnx", 0.6)),
    BadInput("Models", "a text file", "hago " + INSPECT.format("notes.onnx"),
        errors.ModelError, "is not an ONNX model", "notes.onnx", "check the path",
        text("notes.onnx", "Not found\n" * 40)),
    BadInput("Models", "an empty file", "hago " + INSPECT.format("empty.onnx"),
        errors.ModelError, "the file is empty", "empty.onnx", "again", text("empty.onnx", "")),
    BadInput("Models", "a PyTorch file", "hago " + INSPECT.format("model.pt"),
        errors.ModelError, "a zip archive", "model.pt", "hago.from_torch", _torch_file),
    BadInput("Models", "an operator that nobody knows", "hago " + INSPECT.format("custom.onnx"),
        errors.UnsupportedOpError, "operator FancyRelu of domain com.example cannot be compiled",
        "custom.onnx, node 'relu'", "standard ONNX operators", model("custom.onnx", lambda p: _node(p, "FancyRelu", "com.example"))),
    BadInput("Models", "a random operator", "hago " + INSPECT.format("random.onnx"),
        errors.UnsupportedOpError, "it is random", "random.onnx, node 'relu'", "standard ONNX operators",
        model("random.onnx", _random)),
    BadInput("Models", "NaN among the weights", "hago " + INSPECT.format("nan.onnx"),
        errors.ModelError, "1 NaN of 144 values", "nan.onnx, initializer 'w1'", "earlier checkpoint",
        model("nan.onnx", _nan_weights)),
    BadInput("Models", "external weights that are missing", "hago " + INSPECT.format("external.onnx"),
        errors.ModelError, "'weights.bin' of tensor 'w1' is missing", "external.onnx", "beside the model", _external),
    BadInput("Models", "an opset from before 11", "hago " + INSPECT.format("old.onnx"),
        errors.ModelError, "the model's opset is 6", "old.onnx", "export the model again", model("old.onnx", _old_opset)),
    BadInput("Models", "a batch that the model does not allow", "hago compile fixed.onnx --batch 4 --hw x86-avx2 --out m.so",
        errors.ModelError, "batch", "fixed.onnx", "batch", model("fixed.onnx", _fixed_batch)),
    BadInput("Models", "an input of unknown width", "hago " + INSPECT.format("wide.onnx"),
        errors.ModelError, "", "wide.onnx", "input-shape", model("wide.onnx", _unknown_width)),
    BadInput("Models", "a PyTorch module given to compile", "hago.compile(lambda x: x)",
        errors.ModelError, "not function", None, "hago.from_torch"),
]  # fmt: skip

_BAD = "hago tune model.onnx --data bad.npz --hw x86-avx2"
SAMPLES = [
    BadInput("Samples", "no such file", "hago tune model.onnx --data missing.npz --hw x86-avx2",
        errors.DataError, "no such file", "missing.npz", None),
    BadInput("Samples", "an npz file cut short", _BAD,
        errors.DataError, "is not a whole npz", "bad.npz", "copy or write it again", cut("bad.npz", "samples.npz", 0.5)),
    BadInput("Samples", "an npz file without arrays", _BAD,
        errors.DataError, "expected arrays named x, or image", "bad.npz", "numpy.savez", npz()),
    BadInput("Samples", "Python objects inside (pickle)", _BAD,
        errors.DataError, "pickle can run any code", "bad.npz[x]", "plain numeric arrays",
        npz(x=np.array([{"a": 1}, None], dtype=object), y=np.zeros(2, np.int64))),
    BadInput("Samples", "no samples at all", _BAD,
        errors.DataError, "there are no samples", "bad.npz", None,
        npz(x=np.zeros((0, 1, 8, 8), np.float32), y=np.zeros(0, np.int64))),
    BadInput("Samples", "NaN in a sample", _BAD,
        errors.DataError, "sample 7 of input 'image': the value at (0, 2, 3) is not a finite number", "bad.npz", "remove or repair", _nan_samples),
    BadInput("Samples", "another shape (channels last)", _BAD,
        errors.DataError, "takes samples of shape [1, 8, 8]", "bad.npz", "", _colour_samples),
    BadInput("Samples", "no labels, and a metric that needs them", _BAD,
        errors.DataError, "needs labels", "bad.npz", "cosine", npz(x=samples()[0])),
    BadInput("Samples", "fewer labels than samples", _BAD,
        errors.DataError, "60 samples need as many labels, found 59", "bad.npz", None,
        npz(x=samples()[0], y=samples()[1][:59])),
    BadInput("Samples", "labels that begin at 1", _BAD,
        errors.DataError, "labels must be from 0 to 9", "", "do labels begin at 1", _classes_from_one),
    BadInput("Samples", "calibration samples that are among the others", f"hago {TUNE} --calibration calibration.npz",
        errors.DataError, "share 10 samples", "", "cannot be judged", _overlap),
    BadInput("Samples", "too few to make three parts", _BAD,
        errors.DataError, "3 parts (calibration, search, test) need as many", "bad.npz", "give more samples",
        npz(x=samples(2)[0], y=samples(2)[1])),
    BadInput("Samples", "a metric that nobody knows", f"hago {TUNE} --metric accuracy",
        errors.DataError, "accuracy", "", "top1"),
    BadInput("Samples", "a folder of images without its preprocessing", "hago tune model.onnx --data images --hw x86-avx2",
        errors.DataError, "needs the preprocessing", "images", "preprocess.yaml",
        lambda folder: (folder / "images").mkdir()),
    BadInput("Samples", "a compiled network given another shape", 'net = hago.compile("model.onnx", hw="x86-avx2")\nnet(np.zeros((2, 1, 8, 8), "float32"))',
        errors.DataError, "must have shape [1, 1, 8, 8], not [2, 1, 8, 8]", "input 'image'", "batch"),
]  # fmt: skip

HARDWARE = [
    BadInput("Hardware", "a name that nobody knows", "hago inspect model.onnx --hw x86-avx512-vni",
        errors.SpecError, "there is no such hardware spec", "x86-avx512-vni", "x86-avx512-vnni"),
    BadInput("Hardware", "a misspelt key", "hago hw show board.yaml",
        errors.SpecError, "unknown key", "board.yaml:4: machine.l1_byte", "did you mean 'l1_bytes'", text("board.yaml", _WRONG_KEY)),
    BadInput("Hardware", "an accumulator that overflows", "hago hw show board.yaml",
        errors.SpecError, "", "board.yaml", "", text("board.yaml", _OVERFLOW)),
    BadInput("Hardware", "hardware without kernels yet", "hago compile model.onnx --hw nvidia-t4 --out model.so",
        errors.BuildError, "no kernels for this hardware yet", "nvidia-t4", "hago hw list"),
]  # fmt: skip

_QUANTIZE = "hago quantize model.onnx --strategy strategy.yaml --calibration samples.npz --hw x86-avx2 --out q.onnx"
STRATEGIES = [
    BadInput("Strategies", "a layer that the model does not have", _QUANTIZE,
        errors.StrategyError, "the model has no layer 'conv1'; did you mean 'conv'?", None, "hago inspect",
        strategy(layers={"conv1": {"precision": "int8"}})),
    BadInput("Strategies", "a strategy of another model", _QUANTIZE,
        errors.StrategyError, "this strategy is for the model", "model.onnx", "the one model", _other_model_strategy),
    BadInput("Strategies", "a precision that the hardware does not offer", _QUANTIZE,
        errors.StrategyError, "x86-avx2 offers no bfloat16 for conv", "layer conv", "precisions offered",
        strategy(layers={"conv": {"precision": "bfloat16"}})),
    BadInput("Strategies", "a misspelt key", _QUANTIZE,
        errors.StrategyError, "unknown key 'presicion'; did you mean 'precision'?", "strategy.yaml: layers: conv", "known keys",
        strategy(layers={"conv": {"presicion": "int8"}})),
    BadInput("Strategies", "a group size that does not divide", _QUANTIZE,
        errors.StrategyError, "", "layer fc", "per_channel", strategy(layers={"fc": {"precision": "int8", "granularity": "per_group:32"}})),
    BadInput("Strategies", "YAML that would make a Python object", _QUANTIZE,
        errors.StrategyError, "is not valid", "strategy.yaml", None,
        text("strategy.yaml", "hago_strategy: !!python/object/apply:os.system ['true']\n")),
]  # fmt: skip

SEARCH = [
    BadInput("Searches", "a negative bound", f"hago {TUNE} --max-drop -0.01",
        errors.SearchError, "max_drop must be a number of at least 0, got -0.01", None, "max_drop=0.01"),
    BadInput("Searches", "a budget that is no time", f"hago {TUNE} --budget soon",
        errors.SearchError, "a time budget is written like 10m, 90s or 1h30m, got 'soon'", None, "--budget 10m"),
    BadInput("Searches", "no trials", f"hago {TUNE} --trials 0",
        errors.SearchError, "trials must be at least 1, got 0", None, None),
    BadInput("Searches", "an objective that nobody knows", f"hago {TUNE} --objectives speed",
        errors.SearchError, "objectives must be some of latency, accuracy, size", None, None),
    BadInput("Searches", "threads below one", "hago tune model.onnx --data samples.npz --hw x86-avx2 --threads 0",
        errors.MeasureError, "threads must be a whole number from 1 on, not 0", None, None),
    BadInput("Searches", "a folder that holds a search", f"hago {TUNE} --out out",
        errors.SearchError, "there is a search already", "out", "--resume", _tuned),
    BadInput("Searches", "resuming with another seed", f"hago {TUNE} --out out --resume --seed 1",
        errors.SearchError, "seed was '0', is '1'", "out", "resume it as it was begun", _tuned),
    BadInput("Searches", "a sampler whose package is not installed", f"hago {TUNE} --sampler gp",
        errors.MissingExtraError, "needs the package 'torch'", None, "pip install 'hago[torch]'", around=without("torch")),
]  # fmt: skip

FILES = [
    BadInput("Files", "a full disk (simulated)", f"hago {TUNE} --out out --cache cache",
        errors.StorageError, "No space left on device", "out/records.jsonl", "a search resumes where it was", _warm_cache, full_disk),
    BadInput("Files", "a folder that cannot be made", f"hago {TUNE} --out samples.npz/out",
        errors.StorageError, "the folder cannot be made: Not a directory", "samples.npz/out", "--out"),
    BadInput("Files", "a file where a folder has to be", "hago compile model.onnx --hw x86-avx2 --out samples.npz/model.so",
        errors.StorageError, "cannot be written", "samples.npz/model.so", "choose another folder"),
    BadInput("Files", "an output into a folder that is not there", _QUANTIZE.replace("q.onnx", "nowhere/q.onnx"),
        errors.StorageError, "cannot be written: No such file or directory", "nowhere/q.onnx", "another folder", strategy()),
    BadInput("Files", "a compiled model cut short", "hago run model.so --data samples.npz",
        errors.BuildError, "it was cut short or changed", "model.so", "hago compile", _torn_artifact),
    BadInput("Files", "a compiled model for another processor (simulated)", "hago run model.so --data samples.npz",
        errors.BuildError, "this processor lacks", "model.so", None, _artifact, old_processor),
    BadInput("Files", "no such compiled model", "hago run missing.so --data samples.npz",
        errors.BuildError, "no such file", "missing.so", "hago compile"),
    BadInput("Files", "a kernel cache that others can write to", "hago compile model.onnx --hw x86-avx2 --cache cache --out model.so",
        errors.StorageError, "others can write to it", "cache", "chmod go-w", _open_cache),
    BadInput("Files", "a package that is not installed", "hago.from_torch(None, None)",
        errors.MissingExtraError, "needs the package 'torch'", None, "pip install 'hago[torch]'", around=without("torch")),
]  # fmt: skip

CASES = [*MODELS, *SAMPLES, *HARDWARE, *STRATEGIES, *SEARCH, *FILES]
