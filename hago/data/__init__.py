"""Samples from what a user has: arrays, files, folders of images, iterables.

samples = make_samples((x, y), model.inputs)
parts = split_samples(samples, seed=0)      # calibration, search, test
"""

from .images import Preprocessing
from .make import make_samples
from .samples import Samples
from .split import DataParts, SplitRecord, split_samples

__all__ = ["DataParts", "Preprocessing", "Samples", "SplitRecord", "make_samples", "split_samples"]
