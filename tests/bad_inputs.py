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
from hago.cli import dispatch

Prepare = Callable[[Path], None]

TUNE = "tune model.onnx --data samples.npz --hw x86-avx2 --threads 1"
INSPECT = "inspect {} --hw x86-avx2"


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
                    dispatch(shlex.split(self.command)[1:])
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


def _replace_relu(proto: onnx.ModelProto, op: str, domain: str = "") -> None:
    proto.graph.node[1].op_type, proto.graph.node[1].domain = op, domain
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))


def custom_operator(proto: onnx.ModelProto) -> None:
    _replace_relu(proto, "FancyRelu", "com.example")


def random_operator(proto: onnx.ModelProto) -> None:
    _replace_relu(proto, "RandomNormalLike")


def nan_weights(proto: onnx.ModelProto) -> None:
    weights = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weights[3, 0, 1, 1] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w1"))


def fixed_batch(proto: onnx.ModelProto) -> None:
    proto.CopyFrom(network(batch=2))


def unknown_width(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"


def old_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 6


def weights_apart(folder: Path) -> None:
    onnx.save(network(), folder / "external.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
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


def torch_file(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"weight": 1}))


def npz(**arrays: np.ndarray) -> Prepare:
    def prepare(folder: Path) -> None:
        np.savez(folder / "bad.npz", **arrays)  # type: ignore[arg-type]

    return prepare


def nan_samples(folder: Path) -> None:
    x, y = samples()
    x[7, 0, 2, 3] = np.nan
    np.savez(folder / "bad.npz", x=x, y=y)


def channels_last_samples(folder: Path) -> None:
    np.savez(folder / "bad.npz", x=np.zeros((60, 8, 8, 3), np.float32), y=samples()[1])


def classes_from_one(folder: Path) -> None:
    x, y = samples()
    np.savez(folder / "bad.npz", x=x, y=y + 1)


def overlapping_calibration(folder: Path) -> None:
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


def strategy_of_another_model(folder: Path) -> None:
    from hago.model import load_model

    strategy(model=load_model(network(seed=1)).hash)(folder)


def finished_search(folder: Path) -> None:
    """A finished search in ``out``."""
    with working_in(folder), contextlib.redirect_stdout(io.StringIO()):
        dispatch(shlex.split(f"hago {TUNE} --trials 1 --out out --progress silent")[1:])


def torn_network(folder: Path) -> None:
    import hago

    hago.compile(folder / "model.onnx", hw="x86-avx2", threads=1).save(folder / "whole.so")
    cut("model.so", "whole.so", 0.3)(folder)


def compiled_network(folder: Path) -> None:
    import hago

    hago.compile(folder / "model.onnx", hw="x86-avx2", threads=1).save(folder / "model.so")


def warm_cache(folder: Path) -> None:
    import hago

    hago.compile(folder / "model.onnx", hw="x86-avx2", threads=1, cache=folder / "cache")


def open_cache(folder: Path) -> None:
    from hago.compiler.cache import KernelCache

    place = KernelCache(folder / "cache").folder
    place.mkdir(parents=True)
    place.chmod(0o777)


# What is simulated.


def full_disk() -> AbstractContextManager[object]:
    """No byte can be forced to disk any more."""
    return mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def old_processor() -> AbstractContextManager[object]:
    """A processor of before AVX2."""
    return mock.patch("hago.runtime.processor.host_features", return_value={"sse2", "ssse3", "bmi1", "bmi2", "f16c"})


def no_gpu() -> AbstractContextManager[object]:
    """A machine without a GPU."""
    return mock.patch("hago.kernels.cuda.executor.driver", return_value=None)


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
