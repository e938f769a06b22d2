"""A folder of images as samples, decoded when read and preprocessed as a file describes.

    preprocess.yaml (or .json), in the folder:

        resize: 256            # the shorter side; [height, width] sets both exactly
        center_crop: 224
        scale: 255             # divide pixels by this, then (x - mean) / std per channel
        mean: [0.485, 0.456, 0.406]
        std: [0.229, 0.224, 0.225]
        layout: nchw
        colour: rgb

Labels come from ``labels.csv`` (columns ``file,label``) or from the class sub-folders.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..documents import read_document
from ..errors import DataError, MissingExtraError, faults_of_others, reason_of
from ..tensor import TensorInfo
from .samples import InputReader, Samples, element_type
from .sources import Array, Indices

_NAMES = ("preprocess.yaml", "preprocess.yml", "preprocess.json")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
_EXAMPLE = "resize: 256, center_crop: 224, scale: 255, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"

Pixels = Annotated[int, Field(gt=0)]
Size = Pixels | tuple[Pixels, Pixels]


class Preprocessing(BaseModel):
    """How an image becomes a model input: resize, crop, divide by ``scale``, ``(x - mean) / std``, lay out.

    ``resize``: an integer is the length of the shorter side (the other follows, rounded down), a pair
    (height, width) is exact. ``center_crop`` then cuts out the middle. ``scale`` 255 brings pixels to
    [0, 1]; ``mean`` and ``std`` (per channel, in the order of ``colour``) apply after it. A description
    without them and with ``scale: 1`` gives integers, for models that take uint8.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Size | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    center_crop: Size | None = None
    scale: float = Field(default=255.0, gt=0, allow_inf_nan=False)
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    layout: Literal["nchw", "nhwc"] = "nchw"
    colour: Literal["rgb", "bgr", "gray"] = "rgb"

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Preprocessing:
        channels = 1 if self.colour == "gray" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, channels):
                raise ValueError(f"{name} must have 1 or {channels} values, found {len(values)}")
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Preprocessing:
        """Reads a YAML or JSON file. Raises DataError that names the wrong key and the reason."""
        document = read_document(path, error=DataError, hint=f"like {_EXAMPLE}")
        try:
            return cls.model_validate(document.data)
        except ValidationError as error:
            first = error.errors()[0]
            known = ", ".join(cls.model_fields)
            text = first["msg"].removeprefix("Value error, ")
            raise DataError(text, where=document.where(first["loc"][:1]), hint=f"keys: {known}") from error

    def apply(self, image: Any) -> Array:
        """A PIL image -> float32 [C, H, W] or [H, W, C]; uint8 if the description gives integers."""
        mode = "L" if self.colour == "gray" else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        image = self._cropped(self._resized(image))
        pixels = np.asarray(image)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        pixels = pixels[..., ::-1] if self.colour == "bgr" else pixels
        if self.scale != 1 or self.mean or self.std:
            pixels = pixels.astype(np.float32) / np.float32(self.scale)
            if self.mean:
                pixels = pixels - np.asarray(self.mean, np.float32)
            if self.std:
                pixels = pixels / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if self.layout == "nchw" else pixels)

    def _resized(self, image: Any) -> Any:
        from PIL import Image

        if self.resize is None:
            return image
        width, height = image.size
        if isinstance(self.resize, int):
            shorter = min(width, height)
            size = (width * self.resize // shorter, height * self.resize // shorter)
        else:
            size = (self.resize[1], self.resize[0])
        if size == image.size:
            return image
        return image.resize(size, getattr(Image.Resampling, self.interpolation.upper()))

    def _cropped(self, image: Any) -> Any:
        if self.center_crop is None:
            return image
        crop = self.center_crop
        height, width = (crop, crop) if isinstance(crop, int) else crop
        if image.size[0] < width or image.size[1] < height:
            raise DataError(
                f"a crop of {height} x {width} is larger than the image of {image.size[1]} x {image.size[0]}",
                hint="resize to at least the crop: resize must not be smaller than center_crop",
            )
        # Rounded as in torchvision, on whose crops most models were trained.
        left, top = round((image.size[0] - width) / 2), round((image.size[1] - height) / 2)
        return image.crop((left, top, left + width, top + height))


class ImageSource:
    """Image files, decoded and preprocessed when read."""

    def __init__(self, files: Sequence[Path], preprocessing: Preprocessing, dtype: np.dtype[Any]) -> None:
        try:
            import PIL  # noqa: F401 - fail before a long run, not during it
        except ImportError:
            raise MissingExtraError("pillow", "images", "reading images") from None
        self.files, self.preprocessing = tuple(files), preprocessing
        # Integer pixels are exact in any type; using the model's type avoids an error of uint8 against float32.
        self._dtype = dtype

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Indices) -> Array:
        rows = [self._decode(self.files[i]) for i in indices]
        sizes = sorted({row.shape for row in rows})
        if len(sizes) > 1:
            raise DataError(
                f"images come out in different shapes: {sizes[0]} and {sizes[1]}",
                where=str(self.files[indices[0]].parent),
                hint="set resize: [height, width], or resize and center_crop, in preprocess.yaml",
            )
        return np.stack(rows)

    def _decode(self, file: Path) -> Array:
        from PIL import Image

        hint = "replace or remove it"
        damaged = faults_of_others(lambda why: DataError(f"cannot be decoded: {why}", where=str(file), hint=hint))
        try:
            with damaged, Image.open(file) as image:
                image.load()
                pixels = self.preprocessing.apply(image)
        except DataError as error:
            raise error if error.where else DataError(error.what, where=str(file), hint=error.hint) from error
        return pixels.astype(self._dtype) if pixels.dtype == np.uint8 else pixels


def open_images(
    folder: str | os.PathLike[str], info: TensorInfo, preprocessing: Preprocessing | None = None
) -> Samples:
    """The images of ``folder`` as samples for one input; ``preprocessing`` overrides the folder's own.

    Raises DataError (no preprocessing, no images, bad labels) and MissingExtraError (Pillow).
    """
    root = Path(folder)
    preprocessing = _preprocessing(root) if preprocessing is None else preprocessing
    files, labels = _files(root)
    reader = InputReader(info, ImageSource(files, preprocessing, element_type(info.dtype)), str(root))
    return Samples([reader], labels, where=str(root))


def first_image_shape(folder: str | os.PathLike[str]) -> tuple[int, ...]:
    """The shape of one sample, from the first image and the folder's preprocessing. Raises as `open_images`."""
    root = Path(folder)
    files, _ = _files(root)
    return ImageSource(files[:1], _preprocessing(root), np.dtype(np.float32)).read(np.zeros(1, np.int64)).shape[1:]


def _files(root: Path) -> tuple[list[Path], Array | None]:
    return _from_csv(root) if (root / "labels.csv").is_file() else _from_folders(root)


def _preprocessing(root: Path) -> Preprocessing:
    found = [root / name for name in _NAMES if (root / name).is_file()]
    if not found:
        raise DataError(
            "a folder of images needs the preprocessing that its model was trained with",
            where=str(root),
            hint=f"put a file preprocess.yaml there, such as: {{{_EXAMPLE}}}",
        )
    return Preprocessing.load(found[0])


def _from_folders(root: Path) -> tuple[list[Path], Array | None]:
    """Class sub-folders, numbered in the order of their names, or by their names if these are numbers.

    The images of a folder without sub-folders are unlabelled.
    """
    classes = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    groups = [(folder, _images(folder)) for folder in classes]
    if not any(files for _, files in groups):
        files = _images(root)
        if not files:
            raise DataError(
                "no images found", where=str(root), hint=f"files must end in {', '.join(sorted(_SUFFIXES))}"
            )
        return files, None
    empty = [folder.name for folder, files in groups if not files]
    if empty:
        raise DataError(f"the class folder {empty[0]!r} holds no images", where=str(root), hint="fill or remove it")
    names = [folder.name for folder, _ in groups]
    numbers = _class_numbers(names)
    pairs = [(file, numbers[folder.name]) for folder, files in groups for file in files]
    return [file for file, _ in pairs], np.array([label for _, label in pairs], np.int64)


def _from_csv(root: Path) -> tuple[list[Path], Array]:
    where = str(root / "labels.csv")
    try:
        with (root / "labels.csv").open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot be read: {reason_of(error)}", where=where) from error
    if rows and [cell.strip().lower() for cell in rows[0][1]] == ["file", "label"]:
        rows = rows[1:]
    files, texts = [], []
    for number, row in rows:
        if len(row) != 2:
            raise DataError(f"line {number}: expected file,label, found {','.join(row)[:80]!r}", where=where)
        path = root / row[0].strip()
        if not _is_file(path):
            raise DataError(f"line {number}: no such file: {row[0].strip()[:200]!r}", where=where)
        files.append(path)
        texts.append(row[1].strip())
    if not files:
        raise DataError("names no images", where=where, hint="one line per image: file,label")
    numbers = _class_numbers(texts)
    return files, np.array([numbers[text] for text in texts], np.int64)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # not a valid file name
        return False


def _class_numbers(names: Sequence[str]) -> dict[str, int]:
    """Class names -> labels: their value if all are integers, else their rank in sorted order."""
    distinct = sorted(set(names))
    if all(name.isascii() and name.isdecimal() and len(name) < 19 for name in distinct):
        return {name: int(name) for name in distinct}
    return {name: rank for rank, name in enumerate(distinct)}


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
