"""Samples from every source, the errors of bad ones, and the split into parts that share nothing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hago import data as data_module
from hago.data import Preprocessing, Samples, SplitRecord, make_samples, sources, split_samples
from hago.data import npz as npz_module
from hago.data import split as split_module
from hago.errors import DataError, MissingExtraError, StorageError
from hago.tensor import TensorInfo

IMAGE = (TensorInfo("image", "float32", (1, 3, 4, 5)),)
VECTOR = (TensorInfo("v", "float32", (8, 6)),)
TWO = (TensorInfo("ids", "int64", (1, 7)), TensorInfo("mask", "bool", (1, 7)))


class Lazy:
    """Rows that exist only when asked for, by slices alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.most, self.rows = array, 0, 0

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> np.ndarray:
        if not isinstance(key, slice):
            raise TypeError("slices only")
        part = self.array[key]
        self.most = max(self.most, len(part))
        self.rows += len(part)
        return part


class Dataset:
    """Sample by sample, as torch.utils.data.Dataset, which need not end by IndexError."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.x[i % len(self.x)], int(self.y[i % len(self.x)])


def images(n: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, 4, 5)).astype(np.float32), rng.integers(0, 3, n)


def check(samples: Samples, x: np.ndarray, y: np.ndarray | None, name: str = "image") -> None:
    assert len(samples) == len(x)
    npt.assert_array_equal(samples.batch(0, len(x))[name], x)
    npt.assert_array_equal(np.concatenate([b[name] for b in samples.batches(3)]), x)
    order = np.array([len(x) - 1, 0, 1, 2, 0])
    npt.assert_array_equal(samples.subset(order).batch(0, 5)[name], x[order])
    batch = samples.batch(1, 3)[name]
    assert batch.dtype == x.dtype and batch.flags.c_contiguous
    if y is None:
        assert samples.labels is None
    else:
        npt.assert_array_equal(samples.labels, y)
        npt.assert_array_equal(samples.subset(order).labels, y[order])


# Sources


def sources_of(x: np.ndarray, y: np.ndarray, folder: Path) -> Iterator[tuple[str, object]]:
    np.savez(folder / "plain.npz", x=x, y=y)
    np.savez_compressed(folder / "small.npz", image=x, y=y)
    np.savez(folder / "fortran.npz", x=np.asfortranarray(x), y=y)
    yield "pair", (x, y)
    yield "float64", (x.astype(np.float64), y.tolist())
    yield "nested lists", (x.tolist(), y)
    yield "columns of labels", (x, y[:, None])
    yield "mapping", {"image": x, "y": y}
    yield "mapping and labels", ({"image": x}, y)
    yield "lazy", (Lazy(x), y)
    yield "stored npz", folder / "plain.npz"
    yield "compressed npz", str(folder / "small.npz")
    yield "fortran order", folder / "fortran.npz"
    yield "list of pairs", [(a, b) for a, b in zip(x, y, strict=True)]
    yield "tuple of pairs", tuple((a, b) for a, b in zip(x, y, strict=True))
    yield "generator of pairs", ((a, int(b)) for a, b in zip(x, y, strict=True))
    yield "generator of batches", ((x[i : i + 4], y[i : i + 4]) for i in range(0, len(x), 4))
    yield "lists, as a DataLoader gives", ([x[i : i + 4], y[i : i + 4]] for i in range(0, len(x), 4))
    yield "mappings", ({"image": a, "y": b} for a, b in zip(x, y, strict=True))
    yield "dataset", Dataset(x, y)


def test_every_source_gives_the_same_samples(tmp_path: Path) -> None:
    x, y = images()
    for what, data in sources_of(x, y, tmp_path):
        try:
            check(make_samples(data, IMAGE), x, y)
        except AssertionError as error:
            raise AssertionError(what) from error


def test_unlabelled_sources(tmp_path: Path) -> None:
    x, _ = images()
    np.save(tmp_path / "x.npy", x)
    for data in (x, Lazy(x), (x, None), tmp_path / "x.npy", iter(x), [x[:5], x[5:]], {"image": x}):
        check(make_samples(data, IMAGE), x, None)


def test_several_inputs_and_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(0, 99, (5, 7)).astype(np.int32), rng.random((5, 7)) > 0.5
    np.savez(tmp_path / "d.npz", ids=ids, mask=mask, y=np.arange(5), calib_ids=ids[:2] + 1, calib_mask=mask[:2])
    samples = make_samples(tmp_path / "d.npz", TWO)
    assert samples.names == ("ids", "mask")
    batch = samples.batch(1, 4)
    npt.assert_array_equal(batch["ids"], ids[1:4])
    assert batch["ids"].dtype == np.int64 and batch["mask"].dtype == bool
    assert samples.calibration is not None and len(samples.calibration) == 2
    items = ({"ids": i, "mask": m} for i, m in zip(ids, mask, strict=True))
    npt.assert_array_equal(make_samples(items, TWO).batch(0, 5)["mask"], mask)


def test_lazy_rows_are_read_a_batch_at_a_time() -> None:
    x, _ = images(100)
    lazy = Lazy(x)
    samples = make_samples(lazy, IMAGE)
    assert sum(len(batch["image"]) for batch in samples.batches(7)) == 100
    assert lazy.most == 7


def test_a_split_reads_small_slow_sets_once_and_large_ones_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(30)
    for keep_bytes, free_bytes, again in ((1 << 30, 0, 0), (100, 0, 5), (1 << 30, 1 << 60, 5)):
        monkeypatch.setattr(split_module, "KEEP_BYTES", keep_bytes)
        monkeypatch.setattr(sources, "_KEEP_FREE_BYTES", free_bytes)
        monkeypatch.setattr(Samples.spooled, "__defaults__", (0,))
        lazy = Lazy(x)
        parts = split_samples(make_samples((lazy, y), IMAGE))
        lazy.rows = 0
        npt.assert_array_equal(parts.test.batch(0, 5)["image"], x[parts.test.indices[:5]])
        assert lazy.rows == again


def test_a_stored_npz_is_mapped_not_read(tmp_path: Path) -> None:
    x, y = images()
    np.savez(tmp_path / "d.npz", x=x, y=y)
    file = npz_module.NpzFile(tmp_path / "d.npz")
    assert isinstance(file["x"], np.memmap)
    npt.assert_array_equal(file["x"], x)


def test_a_large_compressed_npz_goes_through_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images()
    np.savez_compressed(tmp_path / "d.npz", x=x, y=y)
    monkeypatch.setattr(npz_module, "MEMORY_BYTES", 100)
    assert isinstance(npz_module.NpzFile(tmp_path / "d.npz")["x"], np.memmap)
    check(make_samples(tmp_path / "d.npz", IMAGE), x, y)


def test_spool_beyond_memory_uses_a_file_and_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = images(20)
    spool = sources.Spool(x.shape[1:], x.dtype, "data", memory_bytes=x.nbytes // 3)
    for row in x:
        spool.append(row[None])
    assert isinstance(spool.array(), np.memmap)
    npt.assert_array_equal(spool.array(), x)
    monkeypatch.setattr(sources, "_KEEP_FREE_BYTES", 1 << 60)
    with pytest.raises(StorageError, match="do not fit"):
        sources.Spool(x.shape[1:], x.dtype, "data", memory_bytes=0).append(x)


def test_spooled_samples_are_the_same_and_read_once() -> None:
    x, y = images(12)
    lazy = Lazy(x.astype(np.float64))
    samples = make_samples((lazy, y), IMAGE).subset(np.arange(11, 1, -1))
    spooled = samples.spooled()
    check(spooled, x[11:1:-1], y[11:1:-1])
    assert spooled.digests() == samples.digests()
    in_memory = make_samples((x, y), IMAGE)
    assert in_memory.spooled() is in_memory


# Refusals


def refuse(data: object, infos: tuple[TensorInfo, ...], *words: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        samples = make_samples(data, infos, **options)
        samples.batch(0, len(samples))
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_values_that_are_not_finite_are_named() -> None:
    x, y = images(50)
    x[7, 2, 1, 3] = np.nan
    refuse((x, y), IMAGE, "sample 7", "(2, 1, 3)", "not a finite number")
    samples = make_samples((x, y), IMAGE).subset([3, 9, 7])
    with pytest.raises(DataError, match="sample 7"):
        samples.batch(2, 3)
    x[7] = np.inf
    refuse(Lazy(x), IMAGE, "sample 7")
    wide = images(3)[0].astype(np.float64)
    wide[1, 0, 0, 0] = 1e300
    refuse(wide, IMAGE, "sample 1", "does not fit into float32")


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((3, 4, 5), np.float32, ["[3, 4, 5]", "x[None]"]),
        ((2, 4, 5, 3), np.float32, ["[3, 4, 5]", "found [4, 5, 3]", "transpose(0, 3, 1, 2)"]),
        ((2, 3, 4, 6), np.float32, ["[3, 4, 5]", "found [3, 4, 6]"]),
        ((2, 3, 4, 5), np.uint8, ["takes float32, found uint8", "astype"]),
        ((2, 3, 4, 5), np.int64, ["takes float32, found int64"]),
        ((0, 3, 4, 5), np.float32, ["no samples"]),
    ],
)
def test_wrong_shapes_and_types_say_expected_and_found(shape: tuple[int, ...], dtype: Any, words: list[str]) -> None:
    refuse(np.zeros(shape, dtype), IMAGE, *words)


def test_missing_channel_axis_is_recognised() -> None:
    infos = (TensorInfo("x", "float32", (1, 1, 8, 8)),)
    refuse(np.zeros((4, 8, 8), np.float32), infos, "channel axis", "x[:, None]")


def test_integers_that_do_not_fit_are_refused() -> None:
    infos = (TensorInfo("pixels", "uint8", (1, 4)),)
    npt.assert_array_equal(make_samples(np.full((2, 4), 255), infos).batch(0, 2)["pixels"], np.full((2, 4), 255))
    refuse(np.array([[0, 1, 2, 3], [4, 256, 6, 7]]), infos, "sample 1", "does not fit into uint8")
    refuse(np.zeros((2, 4)), infos, "takes uint8, found float64")
    refuse(np.zeros((2, 4)), (TensorInfo("s", "str", (1, 4)),), "numbers")


def test_labels_must_be_as_many_and_classes() -> None:
    x, y = images(6)
    refuse((x, y[:5]), IMAGE, "6 samples", "5")
    refuse((x, 3), IMAGE, "labels")
    refuse((x, np.array([0, 1, 2, 3, 9, 2])), IMAGE, "from 0 to 3", "sample 4", "is 9", classes=4)
    refuse((x, np.array([0, 1, 2, -1, 1, 2])), IMAGE, "sample 3", "is -1", classes=4)
    refuse((x, {"boxes": y, "classes": y}), IMAGE, "6 samples", "list of mappings")
    refuse((x, (y, y)), IMAGE, "6 samples", "list(zip(boxes, classes))")
    make_samples((x, np.array([0, 1, 2, 3, 3, 2])), IMAGE, classes=4)


class Text(str):
    """A text that numpy could take apart."""


OBJECTS: dict[str, list[Any]] = {
    "boxes, as many as there are": [np.full((k % 3, 4), k, np.float32) for k in range(20)],
    "texts": [f"spoken {k}" for k in range(20)],
    "own texts": [Text(k) for k in range(20)],
    "ragged lists": [list(range(k % 4)) for k in range(20)],
    "mappings": [{"boxes": np.zeros((k % 3, 4)), "ids": {k}} for k in range(20)],
    "sets and None": [None if k % 2 else {k} for k in range(20)],
    "pairs": [(np.zeros((k % 3, 4)), "name") for k in range(20)],
}


@pytest.mark.parametrize("labels", OBJECTS.values(), ids=OBJECTS.keys())
def test_labels_of_any_kind_are_kept_as_they_are(labels: list[Any]) -> None:
    x, _ = images(20)
    as_array = np.empty(20, object)
    for i, label in enumerate(labels):
        as_array[i] = label
    batches = ((x[i : i + 4], labels[i : i + 4]) for i in range(0, 20, 4))
    for data in ((x, labels), (x, tuple(labels)), (x, as_array), list(zip(x, labels, strict=True)), batches):
        if isinstance(data, list) and labels[1] is None:
            continue  # an item without a label among others is refused
        samples = make_samples(data, IMAGE)
        assert isinstance(samples.labels, list) and samples.has_labels
        assert all(a is b for a, b in zip(samples.labels, labels, strict=True))
        picked = samples.subset([3, 0, 3]).labels
        assert picked is not None and all(a is labels[i] for a, i in zip(picked, (3, 0, 3), strict=True))
        first, second = (split_samples(samples, seed=4) for _ in range(2))
        assert first.split == second.split and not first.split.stratified
        for name in ("calibration", "search", "test"):
            part = getattr(first, name)
            assert part.labels is not None
            assert all(a is labels[i] for a, i in zip(part.labels, part.indices, strict=True))


def test_labels_that_numbers_can_hold_are_arrays(tmp_path: Path) -> None:
    x, _ = images(6)
    nan = np.array([0, 1, np.nan, 1, 1, 1])
    npt.assert_array_equal(make_samples((x, nan), IMAGE).labels, nan)  # a metric may know what it means
    boxes = make_samples((x, [np.ones((2, 4))] * 6), IMAGE).labels
    assert isinstance(boxes, np.ndarray) and boxes.shape == (6, 2, 4)
    texts = np.array([f"text {i}" for i in range(6)])
    np.savez(tmp_path / "texts.npz", x=x, y=texts)
    np.savez_compressed(tmp_path / "packed.npz", x=x, y=texts)
    for data in ((x, texts), tmp_path / "texts.npz", tmp_path / "packed.npz"):
        npt.assert_array_equal(make_samples(data, IMAGE).labels, texts)


def test_pickled_labels_are_refused_where_they_are_read(tmp_path: Path) -> None:
    x, _ = images(6)
    np.savez(tmp_path / "boxes.npz", x=x, y=np.array([{"box": 1}] * 6, dtype=object))
    samples = make_samples(tmp_path / "boxes.npz", IMAGE)
    parts = split_samples(samples)
    for part in (samples, samples.spooled(), samples.subset([0]), parts.search, make_samples(samples, IMAGE)):
        assert part.has_labels and len(part.batch(0, 1)) == 1
        with pytest.raises(DataError, match=r"boxes.npz\[y\](.|\n)*pickle(.|\n)*Python"):
            _ = part.labels


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    x, y = images()
    np.savez(tmp_path / "ok.npz", x=x, y=y)
    whole = (tmp_path / "ok.npz").read_bytes()
    for cut in (0, 10, 300, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:cut])
        refuse(tmp_path / "cut.npz", IMAGE, "cut.npz", "not a whole npz")
    np.savez_compressed(tmp_path / "bad.npz", x=x, y=y)
    broken = bytearray((tmp_path / "bad.npz").read_bytes())
    broken[400:420] = bytes(20)
    (tmp_path / "bad.npz").write_bytes(broken)
    refuse(tmp_path / "bad.npz", IMAGE, "bad.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([x[0], None], dtype=object), y=y[:2])
    refuse(tmp_path / "objects.npz", IMAGE, "objects.npz[x]", "pickle")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    refuse(tmp_path / "objects.npy", IMAGE, "pickle")
    np.savez(tmp_path / "names.npz", images=x, targets=y)
    refuse(tmp_path / "names.npz", IMAGE, "expected arrays named x, or image", "found images, targets")
    (tmp_path / "data.pkl").write_bytes(b"anything")
    refuse(tmp_path / "data.pkl", IMAGE, "'.pkl' is not known", ".npz")
    refuse(tmp_path / "none.npz", IMAGE, "no such file")
    (tmp_path / "text.npy").write_text("hello")
    refuse(tmp_path / "text.npy", IMAGE, "text.npy")


def test_a_header_that_announces_more_than_is_there(tmp_path: Path) -> None:
    x, _ = images(4)
    np.save(tmp_path / "x.npy", x)
    member = (tmp_path / "x.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("x.npy", member[:-16])
    refuse(tmp_path / "short.npz", IMAGE, "short.npz[x]", "not a whole")
    (tmp_path / "x.npy").write_bytes(member[:-16])
    refuse(tmp_path / "x.npy", IMAGE, "not a whole")


def test_things_that_are_no_samples() -> None:
    x, y = images(4)
    refuse(7, IMAGE, "int")
    refuse(None, IMAGE, "NoneType")
    refuse([], IMAGE, "no samples")
    refuse(["a", "b"], IMAGE, "item 0")
    refuse([(x[0], 1), (x[1], None)], IMAGE, "item 1", "label")
    refuse([(x[0], None), (x[1], 1)], IMAGE, "item 1", "label")
    refuse([(x[0], 1), (x[1][:, :2], 1)], IMAGE, "item 1", "found [3, 2, 5]")
    refuse([x, y], IMAGE, "item 1", "data=(x, y)")
    refuse([(x, y[:2])], IMAGE, "labels, found 2")
    refuse(x, TWO, "ids, mask")
    refuse([(x, y)], TWO, "'mask'")
    refuse(np.array([None, 1]), IMAGE, "objects")
    refuse(x, (TensorInfo("s", "float32", ()),), "scalar")
    with pytest.raises(DataError, match="subset"):
        make_samples(x, IMAGE).subset([4])


def test_samples_of_one_model_serve_another_of_the_same_inputs() -> None:
    x, y = images()
    samples = make_samples((x, y), IMAGE)
    assert make_samples(samples, IMAGE) is samples
    other = make_samples(samples, (TensorInfo("image", "float64", (4, 3, 4, 5)),))
    check(other, x.astype(np.float64), y)
    refuse(samples, (TensorInfo("other", "float32", (1, 3, 4, 5)),), "other")


# Folders of images


def save_image(path: Path, array: np.ndarray) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(array).save(path)


def pixels(seed: int, height: int = 4, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_class_folders_with_a_description(tmp_path: Path) -> None:
    arrays = [pixels(i) for i in range(4)]
    for i, name in enumerate(["cat/a.png", "cat/b.png", "dog/a.png", "eel/z.png"]):
        save_image(tmp_path / name, arrays[i])
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"")
    (tmp_path / "preprocess.yaml").write_text("mean: [0.1, 0.2, 0.3]\nstd: [0.5, 0.5, 0.25]\n")
    samples = make_samples(tmp_path, IMAGE)
    npt.assert_array_equal(samples.labels, [0, 0, 1, 2])
    wanted = (np.stack(arrays) / 255.0 - [0.1, 0.2, 0.3]) / [0.5, 0.5, 0.25]
    npt.assert_allclose(samples.batch(0, 4)["image"], wanted.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_labels_csv_numbers_layout_and_colour(tmp_path: Path) -> None:
    save_image(tmp_path / "one.png", pixels(1))
    save_image(tmp_path / "two.png", pixels(2))
    (tmp_path / "labels.csv").write_text("file,label\ntwo.png,12\none.png,3\n")
    infos = (TensorInfo("image", "uint8", (1, 4, 5, 3)),)
    samples = make_samples(tmp_path, infos, preprocessing=Preprocessing(scale=1, layout="nhwc", colour="bgr"))
    npt.assert_array_equal(samples.labels, [12, 3])
    npt.assert_array_equal(samples.batch(0, 2)["image"], np.stack([pixels(2), pixels(1)])[..., ::-1])
    gray = make_samples(
        tmp_path, (TensorInfo("image", "float32", (1, 1, 4, 5)),), preprocessing=Preprocessing(colour="gray")
    )
    luma = pixels(2) @ [0.299, 0.587, 0.114] / 255
    npt.assert_allclose(gray.batch(0, 1)["image"][0, 0], luma, atol=1 / 255)


def test_resize_and_crop_as_torchvision(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    array = pixels(0, height=30, width=47)
    save_image(tmp_path / "a.png", array)
    infos = (TensorInfo("image", "float32", (1, 3, 8, 8)),)
    preprocessing = Preprocessing(resize=10, center_crop=8)
    found = make_samples(tmp_path, infos, preprocessing=preprocessing).batch(0, 1)["image"][0]
    resized = image.fromarray(array).resize((15, 10), image.Resampling.BILINEAR)
    left = round((15 - 8) / 2)
    wanted = np.asarray(resized)[1:9, left : left + 8].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    npt.assert_array_equal(found, wanted)
    exact = make_samples(tmp_path, infos, preprocessing=Preprocessing(resize=(8, 8)))
    assert exact.batch(0, 1)["image"].shape == (1, 3, 8, 8)


def test_numbered_class_folders_keep_their_numbers(tmp_path: Path) -> None:
    for name in ("2", "10", "0"):
        save_image(tmp_path / name / "a.png", pixels(int(name)))
    samples = make_samples(tmp_path, IMAGE, preprocessing=Preprocessing())
    npt.assert_array_equal(samples.labels, [0, 10, 2])


def test_image_folders_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    save_image(folder / "a.png", pixels(0))
    refuse(folder, IMAGE, "preprocessing", "preprocess.yaml")
    (folder / "preprocess.yaml").write_text("rezise: 8\n")
    refuse(folder, IMAGE, "preprocess.yaml", "rezise", "resize")
    (folder / "preprocess.yaml").write_text("mean: [1, 2]\n")
    refuse(folder, IMAGE, "mean must have 1 or 3")
    (folder / "preprocess.yaml").write_text("!!python/object/apply:os.system ['true']\n")
    refuse(folder, IMAGE, "is not allowed")
    (folder / "preprocess.yaml").write_text("{}")
    save_image(folder / "b.png", pixels(0, height=9))
    refuse(folder, IMAGE, "different shapes", "resize")
    refuse(folder, IMAGE, "larger than the image", preprocessing=Preprocessing(center_crop=20))
    (folder / "b.png").write_bytes(b"not an image")
    refuse(folder, IMAGE, "b.png", "cannot be decoded")
    (folder / "labels.csv").write_text("c.png,1\n")
    refuse(folder, IMAGE, "labels.csv", "line 1", "c.png")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", IMAGE, "no images found", preprocessing=Preprocessing())
    (folder / "labels.csv").write_text("a.png,1\n")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"hago\[images\]"):
        make_samples(folder, IMAGE)


# The split


def vectors(n: int, seed: int = 0, classes: int = 4) -> Samples:
    rng = np.random.default_rng(seed)
    return make_samples((rng.standard_normal((n, 6)).astype(np.float32), rng.integers(0, classes, n)), VECTOR)


@settings(max_examples=40)
@given(
    n=st.integers(3, 300),
    copies=st.integers(1, 4),
    seed=st.integers(0, 5),
    shares=st.one_of(st.none(), st.tuples(*[st.floats(0.05, 1.0)] * 3)),
    labelled=st.booleans(),
)
def test_parts_are_disjoint_complete_and_repeatable(
    n: int, copies: int, seed: int, shares: tuple[float, float, float] | None, labelled: bool
) -> None:
    rng = np.random.default_rng(seed)
    distinct = rng.standard_normal((n, 6)).astype(np.float32)
    x = distinct[rng.permutation(np.concatenate([np.arange(n), rng.integers(0, n, n * (copies - 1))]))]
    y = rng.integers(0, 4, len(x)) if labelled else None
    parts = split_samples(make_samples((x, y), VECTOR), seed=seed, fractions=shares)
    pieces = [parts.calibration, parts.search, parts.test]
    assert sorted(np.concatenate([p.indices for p in pieces])) == list(range(len(x)))
    contents = [set(p.digests()) for p in pieces]
    assert not (contents[0] & contents[1] or contents[0] & contents[2] or contents[1] & contents[2])
    assert parts.split.duplicates == len(x) - n
    assert parts.split.sizes == {
        name: len(part) for name, part in zip(("calibration", "search", "test"), pieces, strict=True)
    }
    again = split_samples(make_samples((x.copy(), y), VECTOR), seed=seed, fractions=shares)
    assert again.split == parts.split
    record = json.loads(json.dumps(parts.split.to_dict()))
    assert SplitRecord.from_dict(record) == parts.split
    if copies == 1 and shares is None:
        first = max(1, min(128, round(0.15 * n)))
        assert len(pieces[0]) == first and 0 <= len(pieces[1]) - len(pieces[2]) + 1 <= 2


def test_seeds_give_different_parts() -> None:
    samples = vectors(100)
    assert split_samples(samples, seed=1).split.hashes != split_samples(samples, seed=2).split.hashes


def test_classes_are_spread_evenly() -> None:
    samples = vectors(900, classes=9)
    parts = split_samples(samples, fractions=(0.2, 0.4, 0.4))
    assert parts.split.stratified and samples.labels is not None
    total = np.bincount(samples.labels, minlength=9)
    for part, share in ((parts.calibration, 0.2), (parts.search, 0.4), (parts.test, 0.4)):
        assert part.labels is not None
        assert np.abs(np.bincount(part.labels, minlength=9) - share * total).max() <= 2


def test_given_parts_are_kept_whole() -> None:
    samples, calibration, test = vectors(60), vectors(9, seed=1), vectors(20, seed=2)
    parts = split_samples(samples, calibration)
    assert parts.calibration is calibration and len(parts.search) == len(parts.test) == 30
    parts = split_samples(samples, calibration, test=test)
    assert parts.search is samples and parts.test is test
    assert parts.split.given == ("calibration", "test")
    parts = split_samples(samples, test=test)
    assert parts.split.sizes == {"calibration": 9, "search": 51, "test": 20}


def test_calibration_arrays_of_a_file_are_used(tmp_path: Path) -> None:
    x, y = images(12)
    np.savez(tmp_path / "d.npz", x=x[:8], y=y[:8], calib=x[8:])
    parts = split_samples(make_samples(tmp_path / "d.npz", IMAGE))
    npt.assert_array_equal(parts.calibration.batch(0, 4)["image"], x[8:])
    assert parts.split.sizes == {"calibration": 4, "search": 4, "test": 4}


def test_shared_samples_are_an_error_that_counts_them() -> None:
    x, y = images(20)
    samples = make_samples((x, y), IMAGE)
    other = images(6, seed=1)[0]
    other[4], other[2] = x[17], x[3]
    calibration = make_samples(Lazy(other.astype(np.float64)), IMAGE)
    with pytest.raises(DataError) as caught:
        split_samples(samples, calibration)
    assert "share 2 samples" in str(caught.value)
    assert "3 = 2" in str(caught.value) and "17 = 4" in str(caught.value)
    with pytest.raises(DataError, match=r"calibration part.*test part.*share 6"):
        split_samples(make_samples(images(5, seed=9), IMAGE), calibration, test=calibration)


def test_too_few_samples_and_bad_fractions() -> None:
    x = np.zeros((5, 6), np.float32)
    with pytest.raises(DataError, match=r"3 parts .* found 1"):
        split_samples(make_samples(x, VECTOR))
    for fractions in ((0.5, 0.5), (1, 0, 1), (1, float("nan"), 1)):
        with pytest.raises(DataError, match="fractions"):
            split_samples(vectors(9), fractions=fractions)
    with pytest.raises(DataError, match="record of a split"):
        SplitRecord.from_dict({"seed": 0})


def test_the_public_names_are_there() -> None:
    assert set(data_module.__all__) >= {"Samples", "DataParts", "make_samples", "split_samples"}


@pytest.mark.shared_models
def test_real_sets_share_nothing_with_their_calibration(shared_models: Path, load_bundle: ModuleType) -> None:
    bundle = load_bundle.load(str(shared_models / "kws_dscnn"))
    infos = (TensorInfo("input", "float32", (1, *bundle["x"][0:1].shape[1:])),)
    samples = make_samples((bundle["x"], bundle["y"]), infos)
    parts = split_samples(samples, make_samples(bundle["calib"], infos))
    assert sum(parts.split.sizes.values()) == len(bundle["x"]) + len(bundle["calib"])
    npt.assert_array_equal(parts.test.batch(0, 3)["input"][0], bundle["x"][parts.test.indices[:1]][0])
