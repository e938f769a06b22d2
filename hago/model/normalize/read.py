"""Reading an ONNX model: from a file or bytes to a checked ModelProto with all its data inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ...errors import ModelError, faults_of_others, reason_of
from ...files import hash_bytes
from .validate import check, walk

_MAGIC = (
    (
        0,
        b"PK\x03\x04",
        "a zip archive (a PyTorch or Keras file?)",
        "export it to ONNX (hago.from_torch does)",
    ),
    (0, b"\x80\x02", "a Python pickle, which Hago never opens", "export the model to ONNX"),
    (0, b"\x89HDF", "an HDF5 file (Keras?)", "export it to ONNX with tf2onnx"),
    (4, b"TFL3", "a TensorFlow Lite model", "convert it to ONNX with tf2onnx --tflite"),
    (0, b"ORTM", "an ONNX Runtime .ort file", "give the .onnx file it was made from"),
    (4, b"ORTM", "an ONNX Runtime .ort file", "give the .onnx file it was made from"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run: git lfs pull"),
)


Source = str | os.PathLike[str] | bytes | onnx.ModelProto


def read_proto(source: Source) -> tuple[onnx.ModelProto, str]:
    """The checked model with all its data inside, and a name for messages. Raises ModelError."""
    proto, where = read_unchecked(source)
    check(proto, where)
    return proto, where


def damaged(source: Source) -> AbstractContextManager[None]:
    """Turns any exception that a library or a rewrite raises in here into a ModelError: damage can cause any."""
    where = str(source) if isinstance(source, (str, os.PathLike)) else "the given model"
    hint = "the file is damaged or has unexpected content: export it again (`hago --debug` shows the place)"
    return faults_of_others(lambda reason: ModelError(f"cannot be read: {reason}", where=where, hint=hint))


def read_unchecked(source: Source) -> tuple[onnx.ModelProto, str]:
    """The model with all its data inside, its operators unchecked, and a name for messages. Raises ModelError."""
    if isinstance(source, onnx.ModelProto):
        proto, where, folder = onnx.ModelProto(), source.graph.name or "the given ModelProto", None
        proto.CopyFrom(source)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        proto, where, folder = parse(bytes(source), "the given bytes"), "the given bytes", None
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        where, folder = str(path), path.parent
        proto = parse(_read_file(path), where)
    else:
        raise ModelError(
            f"a model must be a path, bytes, an onnx.ModelProto or a hago Model, not {type(source).__name__}",
            hint="a PyTorch module goes through hago.from_torch(module, example_inputs)",
        )
    _load_external_data(proto, folder, where)
    return proto, where


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """A ModelProto from its bytes; raises ModelError with a guess of what the bytes are instead."""
    if not data:
        raise ModelError("the file is empty", where=where, hint="export or download the model again")
    for offset, magic, what, hint in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            raise ModelError(f"is not an ONNX model but {what}", where=where, hint=hint)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(
            "is not an ONNX model, or is truncated (it is not a valid protobuf message)",
            where=where,
            hint="check the path and the size of the file, then export or download it again",
        ) from None
    return proto


def content_hash(proto: onnx.ModelProto) -> str:
    """SHA-256 of what the model computes and its names, however it is stored."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    bare.ClearField("doc_string")
    bare.ClearField("metadata_props")
    bare.ClearField("producer_name")
    bare.ClearField("producer_version")
    bare.graph.ClearField("value_info")
    bare.graph.ClearField("doc_string")
    bare.graph.ClearField("metadata_props")
    for value in [*bare.graph.input, *bare.graph.output]:
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for tensor in bare.graph.initializer:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    for node in walk(bare.graph.node):
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    return hash_bytes(bare.SerializeToString(deterministic=True))


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.onnx"))
        hint = f"did you mean {path / inside[0]}?" if inside else "give the path of an .onnx file"
        raise ModelError("is a folder, not an ONNX file", where=str(path), hint=hint)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError("no such file", where=str(path), hint="check the path of the model") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read: {reason_of(error)}", where=str(path)) from None


def _load_external_data(proto: onnx.ModelProto, folder: Path | None, where: str) -> None:
    tensors = list(_all_tensors(proto))
    external = [t for t in tensors if onnx.external_data_helper.uses_external_data(t)]
    if not external:
        return
    if folder is None:
        raise ModelError(
            f"the weights of {external[0].name!r} and {len(external) - 1} others are in another file",
            where=where,
            hint="give the path of the model, so that its data file can be found beside it",
        )
    for tensor in external:
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # exceptions of onnx, of the system, and of text that is not a number
            raise ModelError(
                f"the external data file {location[:80]!r} of tensor {tensor.name!r} {_why(folder, location, error)}",
                where=where,
                hint="put it next to the model, or export the model with its data inside",
            ) from None
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _why(folder: Path, location: str, error: Exception) -> str:
    try:
        missing = not (folder / location).is_file()
    except (OSError, ValueError):  # not a valid file name
        missing = True
    return "is missing" if missing else f"cannot be used: {reason_of(error)}"


def _all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from proto.graph.initializer
    for node in walk(proto.graph.node):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from attribute.g.initializer
