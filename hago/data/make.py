"""`make_samples`: recognises what the user gave, and checks it against the model's inputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..tensor import TensorInfo
from .images import Preprocessing, open_images
from .labels import as_labels
from .npz import NpzFile, open_npy
from .samples import InputReader, Samples, element_type
from .sources import Array, ArraySource, SliceSource, Source, Spool, as_array, is_array_like

_LABEL_KEYS = ("y", "labels", "label")


def make_samples(
    data: object,
    model_inputs: Sequence[TensorInfo],
    *,
    preprocessing: Preprocessing | None = None,
    classes: int | None = None,
) -> Samples:
    """Samples of ``data``, checked against the model's inputs.

    ``data`` is one of

    - ``(x, y)`` or ``x`` alone: ``x`` an array, an object with ``len()`` whose slices are arrays, or a
      mapping from input name to such; never copied, and read in slices;
    - the path of an ``.npz`` file with ``x`` and ``y`` (or arrays named after the inputs, and ``y``);
      an array ``calib`` (``calib_INPUT`` with several inputs) becomes ``Samples.calibration``;
    - the path of an ``.npy`` file: ``x`` alone;
    - the path of a folder of images with its preprocessing (hago.data.images);
    - an iterable of samples or batches, each ``(x, y)``, ``x``, or a mapping: read once and spooled to
      bounded memory. With several inputs, ``x`` is a mapping.

    ``classes``, if known, bounds integer labels. Raises DataError that says what was expected and what was found.
    """
    infos = tuple(model_inputs)
    if not infos:
        raise DataError("the model has no inputs, so it takes no samples")
    if isinstance(data, Samples):
        samples = data
        if samples.inputs != infos:
            samples = Samples(
                [InputReader(info, _Rows(data, info.name), data.where) for info in infos],
                data.own_labels,
                where=data.where,
            )
    elif isinstance(data, (str, os.PathLike)):
        samples = _from_path(Path(data), infos, preprocessing)
    elif isinstance(data, Mapping):
        samples = _from_arrays(data, infos, "data")
    elif isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], tuple):
        x, y = data
        samples = _from_arrays(x if isinstance(x, Mapping) else {"x": x}, infos, "data", y)
    elif is_array_like(data) or _has_slices(data):
        samples = _from_arrays({"x": data}, infos, "data")
    elif isinstance(data, Iterable) or (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        samples = _from_iterable(data, infos)
    else:
        raise DataError(
            f"samples cannot be made of {type(data).__name__}",
            where="data",
            hint="give (x, y), x, the path of an npz file or image folder, or an iterable of (x, y)",
        )
    if classes is not None:
        check_labels(samples, classes)
    return samples


def check_labels(samples: Samples, classes: int) -> None:
    """Raises DataError if an integer label is not one of the model's ``classes``."""
    labels = samples.labels
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        return
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"labels must be from 0 to {classes - 1}, the label of sample {first[0]} is {labels[first]} "
            f"({int(wrong.sum())} such labels)",
            where=samples.where,
            hint="do the labels start at 1, or belong to another model?",
        )


class _Rows:
    """One input of other samples as a source, for a model that takes another shape or type."""

    def __init__(self, samples: Samples, name: str) -> None:
        if name not in samples.names:
            raise DataError(f"the model needs the input {name!r}, the samples have {list(samples.names)}")
        self._samples, self._name = samples, name

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, indices: Any) -> Array:
        return self._samples.subset(indices).batch(0, len(indices))[self._name]


def _from_path(path: Path, infos: tuple[TensorInfo, ...], preprocessing: Preprocessing | None) -> Samples:
    if path.is_dir():
        if len(infos) != 1:
            raise DataError(f"images fit a model of one input, this one has {len(infos)}", where=str(path))
        return open_images(path, infos[0], preprocessing)
    if not path.is_file():
        raise DataError("no such file or folder", where=str(path))
    if path.suffix == ".npz":
        return _from_arrays(NpzFile(path), infos, str(path))
    if path.suffix == ".npy":
        return _from_arrays({"x": open_npy(path)}, infos, str(path))
    raise DataError(
        f"the file type {path.suffix or 'without suffix'!r} is not known",
        where=str(path),
        hint="give an .npz file with arrays x and y, an .npy file, or a folder of images",
    )


def _from_arrays(
    arrays: Mapping[str, Any], infos: tuple[TensorInfo, ...], where: str, labels: object = None
) -> Samples:
    names = [info.name for info in infos]
    if all(name in arrays for name in names):
        keys = {name: name for name in names}
    elif len(names) == 1 and "x" in arrays:
        keys = {names[0]: "x"}
    else:
        wanted = "x, or " + names[0] if len(names) == 1 else ", ".join(names)
        raise DataError(
            f"expected arrays named {wanted} (after the model's inputs), found {', '.join(arrays) or 'none'}",
            where=where,
            hint="save them with numpy.savez(file, x=..., y=...)",
        )
    label_key = next((key for key in _LABEL_KEYS if key in arrays and key not in keys.values()), None)
    unread: DataError | None = None
    if labels is None and label_key is not None:
        try:
            labels = arrays[label_key]
        except DataError as error:  # raised when labels are read, which not every metric does
            unread = error

    def readers(prefix: str) -> list[InputReader]:
        found = []
        for info in infos:
            key = prefix + keys[info.name] if len(infos) > 1 or not prefix else "calib"
            place = f"{where}[{key}]" if where != "data" else key
            found.append(InputReader(info, _source(arrays[key], place), place))
        return found

    calibration = None
    calib_keys = ["calib"] if len(infos) == 1 else [f"calib_{key}" for key in keys.values()]
    if all(key in arrays and key not in keys.values() for key in calib_keys):
        calibration = Samples(readers("calib_"), where=f"{where}[calib]")
    parts = readers("")
    own = None if labels is None else as_labels(labels, len(parts[0].source), where)
    return Samples(parts, own if unread is None else unread, where=where, calibration=calibration)


def _source(value: Any, where: str) -> Source:
    if isinstance(value, (list, tuple)) or hasattr(value, "detach"):
        value = as_array(value, where)
    if isinstance(value, np.ndarray):
        array = as_array(value, where)
        if array.ndim == 0:
            raise DataError("holds a single number, not samples", where=where)
        return ArraySource(array)
    if is_array_like(value) or _has_slices(value):
        return SliceSource(value, where)
    raise DataError(
        f"samples must be an array, or an object with len() and slices, found {type(value).__name__}",
        where=where,
    )


def _has_slices(value: object) -> bool:
    """Whether ``value[0:1]`` is an array, so that it can be read in slices instead of sample by sample."""
    if isinstance(value, (list, tuple, str, bytes)):
        return False
    if not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        return False
    try:
        return is_array_like(value[0:1])
    except Exception:  # any exception of another library's class means that it has no slices
        return False


def _from_iterable(data: Any, infos: tuple[TensorInfo, ...]) -> Samples:
    # An object with only len() and items, such as a torch Dataset, need not end with IndexError.
    items = data if isinstance(data, Iterable) else (data[i] for i in range(len(data)))
    spools = [Spool(info.shape[1:], element_type(info.dtype), "data") for info in infos]
    labels: list[Any] = []
    labelled = False
    for number, item in enumerate(items):
        where = f"data, item {number}"
        feeds, label = _parse_item(item, infos, where)
        counts = set()
        for info, spool in zip(infos, spools, strict=True):
            rows = feeds[info.name]
            checked = InputReader(info, ArraySource(rows), where).read(np.arange(len(rows)))
            spool.append(checked)
            counts.add(len(rows))
        if len(counts) != 1:
            raise DataError(f"the inputs hold different numbers of samples: {sorted(counts)}", where=where)
        if number > 0 and (label is not None) != labelled:
            raise DataError("either every item or no item may have a label", where=where)
        if label is not None:
            labelled = True
            labels += label
    readers = [InputReader(info, ArraySource(spool.array()), "data") for info, spool in zip(infos, spools, strict=True)]
    own = as_labels(labels, len(readers[0].source), "data") if labelled else None
    return Samples(readers, own, where="data")


def _parse_item(item: Any, infos: tuple[TensorInfo, ...], where: str) -> tuple[dict[str, Array], list[Any] | None]:
    """One item of an iterable -> rows [m, ...] per input, m labels or None; m = 1 for one sample."""
    x, y = item, None
    if isinstance(item, (tuple, list)) and 1 <= len(item) <= 2:
        x, y = item[0], (item[1] if len(item) == 2 else None)
    if isinstance(x, Mapping):
        key = next((k for k in _LABEL_KEYS if k in x and all(k != info.name for info in infos)), None)
        y = x[key] if y is None and key is not None else y
        missing = [info.name for info in infos if info.name not in x]
    else:
        missing = [info.name for info in infos[1:]]
        x = {infos[0].name: x}
    if missing:
        raise DataError(
            f"no value for the model's input {missing[0]!r}",
            where=where,
            hint="give (mapping from input name to array, label)",
        )
    arrays = {info.name: as_array(x[info.name], where) for info in infos}
    labels = None
    if all(arrays[info.name].ndim == len(info.shape) - 1 for info in infos):
        arrays = {name: array[None] for name, array in arrays.items()}
        labels = None if y is None else [y]
    elif any(arrays[info.name].ndim != len(info.shape) for info in infos):
        name = next(i for i in infos if arrays[i.name].ndim != len(i.shape))
        raise DataError(
            f"input {name.name!r} of the model takes samples of shape {list(name.shape[1:])} or batches "
            f"of them, found an array of shape {list(arrays[name.name].shape)}",
            where=where,
            hint="an iterable gives (x, y) pairs; two whole arrays belong in a tuple: data=(x, y)",
        )
    elif y is not None:
        count = len(arrays[infos[0].name])
        single = _is_number(y) or (count == 1 and isinstance(y, (str, bytes, Mapping)))
        labels = [y] * count if single else list(as_labels(y, count, where))
    return arrays, labels


def _is_number(value: Any) -> bool:
    """Whether it is a single number, which in a batch applies to every sample."""
    return isinstance(value, (bool, int, float, np.generic)) or (is_array_like(value) and len(value.shape) == 0)
