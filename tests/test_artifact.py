"""A compiled network as its user meets it: calling, saving, loading elsewhere, and files that are none."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import hago
from hago.compiler.cache import KernelCache
from hago.compiler.linker import linker
from hago.errors import BuildError, DataError, MeasureError
from hago.runtime import processor
from hago.runtime.artifact import Artifact, load
from hago.runtime.processor import missing_features
from hago.spec import resolve_hw

HOST = resolve_hw("auto")
if not HOST.kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)


def two_inputs(seed: int = 0) -> onnx.ModelProto:
    """image float [2, 3, 8, 8] and tokens int64 [2, 4]; outputs pooled [2, 16] and words [2, 4, 5]."""
    rng = np.random.default_rng(seed)
    info = helper.make_tensor_value_info
    arrays = {
        "w": rng.standard_normal((16, 3, 3, 3), np.float32),
        "table": rng.standard_normal((10, 5), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["pooled"], "flatten"),
        helper.make_node("Gather", ["table", "tokens"], ["words"], "embed"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [info("image", TensorProto.FLOAT, ["n", 3, 8, 8]), info("tokens", TensorProto.INT64, ["n", 4])],
        [info("pooled", TensorProto.FLOAT, ["n", 16]), info("words", TensorProto.FLOAT, ["n", 4, 5])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


IMAGE = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
TOKENS = np.array([[1, 2, 3, 4], [9, 0, 0, 5]])


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    cache = KernelCache(tmp_path_factory.mktemp("kernels"))
    return hago.compile(two_inputs(), batch=2, threads=1, cache=cache)


@pytest.fixture(scope="module")
def saved(net: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if linker() is None:
        pytest.skip("saving needs a linker")
    path = tmp_path_factory.mktemp("saved") / "deep" / "model.so"
    net.save(path)
    return path


# --- calling -------------------------------------------------------------------------------------


def test_all_ways_to_call_it_are_the_same(net: Artifact) -> None:
    expected = net.run({"image": IMAGE, "tokens": TOKENS})
    assert [array.shape for array in expected] == [(2, 16), (2, 4, 5)]
    assert all(array.dtype == np.float32 for array in expected)
    calls = [
        net(IMAGE, TOKENS),
        net({"image": IMAGE, "tokens": TOKENS}),
        net(image=IMAGE, tokens=TOKENS),
        net(IMAGE, tokens=TOKENS),
        net({"image": IMAGE}, tokens=TOKENS),
        net(IMAGE.tolist(), TOKENS.tolist()),
    ]
    for outputs in calls:
        for mine, theirs in zip(outputs, expected, strict=True):
            assert np.array_equal(mine, theirs)


def test_it_tells_about_itself(net: Artifact) -> None:
    assert [(i.name, i.dtype, i.shape) for i in net.input_info] == [
        ("image", "float32", (2, 3, 8, 8)),
        ("tokens", "int64", (2, 4)),
    ]
    assert [(o.name, o.shape) for o in net.output_info] == [("pooled", (2, 16)), ("words", (2, 4, 5))]
    assert net.batch == 2 and net.threads == 1
    assert net.size_bytes >= 4 * (16 * 27 + 50)
    assert net.build_s > 0
    assert net.meta["hw"] == HOST.name


@pytest.mark.parametrize(
    ("arrays", "named", "message"),
    [
        ((IMAGE,), {}, r"input 'tokens' is missing\n.*its inputs: image, tokens"),
        ((IMAGE, TOKENS, TOKENS), {}, "takes 2 inputs, 3 were given"),
        ((IMAGE,), {"tokens": TOKENS, "mask": TOKENS}, "no input 'mask'"),
        ((IMAGE,), {"token": TOKENS}, "no input 'token'"),
        ((IMAGE[:1], TOKENS), {}, r"input 'image': must have shape \[2, 3, 8, 8\], not \[1, 3, 8, 8\]"),
        ((IMAGE.astype(complex), TOKENS), {}, "input 'image': must be float32, not complex128"),
        ((IMAGE, TOKENS + 0.5), {}, "input 'tokens': must be int64, not float64"),
        ((IMAGE, None), {}, "input 'tokens'"),
        (("cat.jpg", TOKENS), {}, "input 'image'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(net: Artifact, arrays: tuple, named: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        net(*arrays, **named)
    assert net(IMAGE, TOKENS)[0].shape == (2, 16)  # and it still works


def test_an_input_given_twice_is_refused(net: Artifact) -> None:
    with pytest.raises(DataError, match="input 'image' is given twice"):
        net(IMAGE, TOKENS, image=IMAGE)


def test_kernel_times_cover_every_layer(net: Artifact) -> None:
    times = net.kernel_times(repeats=1)
    assert all(seconds > 0 for _, _, seconds in times)
    assert {"conv", "embed"} <= {layer for layer, _, _ in times}
    assert set(net.layer_times()) == {layer or "" for layer, _, _ in times}


OUTPUTS = {  # what an output is besides -> the nodes that make it so, of x, a constant c [4] and a shape s [4]
    "the input": [("Identity", ["x"], "y")],
    "the input, in another shape": [("Reshape", ["x", "s"], "y")],
    "the input, twice removed": [("Reshape", ["x", "s"], "t"), ("Unsqueeze", ["t", "axis"], "y")],
    "a constant": [("Relu", ["x"], "r"), ("Identity", ["c"], "y")],
    "another output": [("Relu", ["x"], "r"), ("Identity", ["r"], "y")],
    "another output, in another shape": [("Relu", ["x"], "r"), ("Reshape", ["r", "s"], "y")],
}


@pytest.mark.parametrize("what", OUTPUTS)
@pytest.mark.parametrize("saved", [False, True], ids=["compiled", "loaded"])
def test_an_output_is_the_callers_alone(tmp_path: Path, what: str, saved: bool) -> None:
    """Later calls leave it as it is, and writing into it changes neither the network nor other outputs."""
    nodes = [helper.make_node(op, inputs, [output], f"make_{output}") for op, inputs, output in OUTPUTS[what]]
    outputs = [name for name in ("y", "r") if any(name in node.output for node in nodes)]
    constants = {"c": np.arange(4, dtype=np.float32), "s": np.array([4]), "axis": np.array([0])}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    net = hago.compile(onnx.shape_inference.infer_shapes(model), threads=1, cache=KernelCache(tmp_path / "kernels"))
    if saved:
        if linker() is None:
            pytest.skip("saving needs a linker")
        net.save(tmp_path / "model.so")
        net = load(tmp_path / "model.so")
    first, second = np.float32([[1, 2, 3, 4]]), np.float32([[5, 6, 7, 8]])
    expected = ReferenceEvaluator(model).run(outputs, {"x": first})
    found = net(first)
    net(second)
    assert all(map(np.array_equal, found, expected))
    for output in found:
        others = [other.copy() for other in found if other is not output]
        output[...] = 99
        assert all(map(np.array_equal, [other for other in found if other is not output], others))
        output[...] = 0
    assert all(map(np.array_equal, net(first), expected))


# --- saving and loading --------------------------------------------------------------------------


def test_a_saved_network_computes_the_same(net: Artifact, saved: Path) -> None:
    loaded = load(saved)
    assert loaded.meta == net.meta
    assert loaded.input_info == net.input_info and loaded.output_info == net.output_info
    for mine, theirs in zip(loaded(IMAGE, TOKENS), net(IMAGE, TOKENS), strict=True):
        assert np.array_equal(mine, theirs)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["model.so"]


_ELSEWHERE = """
import sys
import numpy as np
import hago
net = hago.load(sys.argv[1])
feeds = dict(np.load(sys.argv[2]))
np.savez(sys.argv[3], *net(feeds))
heavy = {"onnx", "onnx_ir", "optuna", "scipy", "yaml", "pydantic", "hago.compiler", "hago.lower"}
heavy |= {"hago.kernels.common", "hago.kernels.cpu.backend"}
print(sorted(heavy & set(sys.modules)))
with open("/proc/self/maps") as maps:
    print("compiler" if "libtvm_compiler" in maps.read() else "runtime alone")
"""


def test_it_runs_elsewhere_with_the_runtime_alone(net: Artifact, saved: Path, tmp_path: Path) -> None:
    """In another process, moved to another folder, under another name, without cache, linker or TVM's compiler."""
    folder = tmp_path / "a folder with spaces é"
    folder.mkdir()
    moved = folder / "net"
    shutil.copy(saved, moved)
    np.savez(tmp_path / "feeds.npz", image=IMAGE, tokens=TOKENS)
    environment = {**os.environ, "TVM_USE_RUNTIME_LIB": "1", "PATH": "", "HOME": str(tmp_path), "PYTHONPATH": ""}
    environment["PYTHONPATH"] = str(Path(hago.__file__).parent.parent)
    command = [sys.executable, "-c", _ELSEWHERE, str(moved), "feeds.npz", "outputs.npz"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    heavy, library = done.stdout.split("\n")[:2]
    assert heavy == "[]"
    if Path("/proc/self/maps").exists():
        assert library == "runtime alone"
    with np.load(tmp_path / "outputs.npz") as found:
        for mine, theirs in zip((found["arr_0"], found["arr_1"]), net(IMAGE, TOKENS), strict=True):
            assert np.array_equal(mine, theirs)


def test_a_file_that_was_replaced_is_loaded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's loader knows libraries by name, and would hand out the old one."""
    if linker() is None:
        pytest.skip("saving needs a linker")
    monkeypatch.chdir(tmp_path)
    cache, path = KernelCache(tmp_path / "kernels"), Path("model.so")
    nets, loaded, expected = [], [], []
    for seed in (0, 1, 2):
        nets.append(hago.compile(two_inputs(seed), batch=2, threads=1, cache=cache))
        nets[-1].save(path)
        loaded += [load(path), load(path)]
        expected += [nets[-1](IMAGE, TOKENS)] * 2
    assert not np.array_equal(expected[0][0], expected[2][0])
    del nets
    gc.collect()
    for mine, theirs in zip(loaded, expected, strict=True):
        assert all(map(np.array_equal, mine(IMAGE, TOKENS), theirs))
    while loaded:
        loaded.pop()
        gc.collect()
    assert all(map(np.array_equal, load(path)(IMAGE, TOKENS), expected[-1]))


def test_a_loaded_network_says_what_it_cannot(saved: Path, tmp_path: Path) -> None:
    loaded = load(saved)
    assert loaded.build_s == 0
    with pytest.raises(BuildError, match="copy that file instead"):
        loaded.save(tmp_path / "again.so")
    with pytest.raises(BuildError, match="kernels of a loaded network cannot be timed"):
        loaded.kernel_times()


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "empty":
        data.clear()
    elif how == "text":
        data[:] = b"this is a poem, not a network\n" * 40
    elif how == "half":
        del data[len(data) // 2 :]
    elif how == "last byte":
        del data[-1:]
    elif how == "one bit":
        data[len(data) // 3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["empty", "text", "half", "last byte", "one bit"])
def test_a_damaged_file_is_refused(saved: Path, tmp_path: Path, how: str) -> None:
    path = tmp_path / "model.so"
    shutil.copy(saved, path)
    damaged(path, how)
    with pytest.raises(BuildError, match=r"model.so: not a network that Hago compiled, or the file was truncated"):
        load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.so", tmp_path):
        with pytest.raises(BuildError, match="no such file"):
            load(path)


def test_a_shared_object_that_is_no_network_is_refused(tmp_path: Path) -> None:
    from hago.runtime.checksum import append_checksum

    path = tmp_path / "libother.so"
    source = next(Path(np.__file__).parent.rglob("_multiarray_umath*.so"), None)
    if source is None:
        pytest.skip("no shared object at hand")
    shutil.copy(source, path)
    with pytest.raises(BuildError, match="not a network that Hago compiled"):
        load(path)
    append_checksum(path)
    with pytest.raises(BuildError, match="not a network that Hago compiled, or not for this processor"):
        load(path)


def test_a_network_for_another_processor_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "host_features", lambda: frozenset({"sse2", "avx"}))
    with pytest.raises(BuildError, match=rf"this processor lacks .*avx2.*compiled for {HOST.name}"):
        load(saved)


def test_features_have_linux_names_and_llvm_names() -> None:
    flags = frozenset(map(processor.plain, ["avx2", "bmi1", "abm", "avx512_vnni", "avx512vl", "avx_vnni", "amx_int8"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "host_features", lambda: flags)
        patch.setattr(processor, "allow_tiles", lambda: True)  # as Linux would, on a processor with tiles
        wanted = ["avx2", "bmi", "lzcnt", "avx512vnni", "avx512vl", "avxvnni", "amx-int8"]
        assert missing_features([*wanted, "avx512bf16"]) == ["avx512bf16"]
        patch.setattr(processor, "host_features", frozenset)
        assert missing_features(wanted) == []  # it cannot be told


def test_the_host_has_what_its_spec_asks_for() -> None:
    assert missing_features(HOST.cpu_features) == []


def test_another_format_is_refused(net: Artifact, tmp_path: Path, saved: Path) -> None:
    assert net._built is not None
    net._built.export(tmp_path / "old.so", {**net.meta, "format": 0})
    with pytest.raises(BuildError, match="format 0 is not format 1"):
        load(tmp_path / "old.so")


@pytest.mark.parametrize(
    "change",
    [{"threads": "x"}, {"inputs": None}, {"outputs": [{"name": "y"}]}, {"inputs": [{"name": "x", "dtype": "?"}]}],
)
def test_a_damaged_description_is_refused(net: Artifact, tmp_path: Path, saved: Path, change: dict) -> None:
    assert net._built is not None
    net._built.export(tmp_path / "odd.so", {**net.meta, **change})
    with pytest.raises(BuildError, match=r"odd\.so: its metadata are damaged"):
        load(tmp_path / "odd.so")


@pytest.mark.parametrize("machine", [183, 40, 243])
def test_a_file_for_another_machine_is_refused(saved: Path, tmp_path: Path, machine: int) -> None:
    from hago.runtime.checksum import append_checksum

    path, data = tmp_path / "model.so", bytearray(saved.read_bytes())
    data[18:20] = machine.to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(BuildError, match="truncated or changed"):
        load(path)
    append_checksum(path)
    with pytest.raises(
        BuildError, match=r"model\.so: the network was compiled for (aarch64|arm|riscv64), this processor"
    ):
        load(path)


def test_a_file_that_cannot_be_read_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_path: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hago.runtime.artifact.has_valid_checksum", refused)
    with pytest.raises(BuildError, match=r"model\.so: cannot be read: Permission denied"):
        load(saved)


def test_a_failure_of_the_network_is_a_measure_error(net: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(net, "_main", broken)
    with pytest.raises(MeasureError, match="failed while running: no memory"):
        net(IMAGE, TOKENS)


def test_where_it_cannot_be_saved(net: Artifact, tmp_path: Path, saved: Path) -> None:
    from hago.errors import StorageError

    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        net.save(tmp_path / "file" / "model.so")
    taken = tmp_path / "taken"
    (taken / "inside").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be written"):
        net.save(taken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]
