"""Three disjoint parts: calibration finds ranges, search chooses, test measures the accuracy.

The best of many candidates looks better than it is on the samples that chose it, so the search never sees
the test part. Samples are compared by content; equal samples of one set always share a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, StorageError
from ..files import hash_bytes
from .samples import Samples
from .sources import Indices

PARTS = ("calibration", "search", "test")
# Of one set: the calibration part, unless 15 % is more than ranges need; then halves.
CALIBRATION_SHARE = 0.15
CALIBRATION_MOST = 128
# Larger sets are read from their source each time, not from a copy.
KEEP_BYTES = 4 << 30


@dataclass(frozen=True)
class SplitRecord:
    """How samples were divided, so that a resumed search can check that the division and the data are the same.

    ``sizes`` counts the samples of each part; ``hashes`` are SHA-256 over each part's sample digests in
    order; ``fractions`` are the requested shares, None for the defaults. ``given`` names the parts
    that the user gave; the others were drawn with ``seed``. ``duplicates`` counts samples that equal an
    earlier one of their set. ``left_out`` counts the samples of each part that a time budget leaves no room for;
    ``sizes`` counts the others, ``hashes`` are over all.
    """

    seed: int
    sizes: Mapping[str, int]
    hashes: Mapping[str, str]
    fractions: tuple[float, float, float] | None
    given: tuple[str, ...]
    stratified: bool
    duplicates: int
    left_out: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        maps = {name: dict(getattr(self, name)) for name in ("sizes", "hashes", "left_out")}
        return asdict(self) | maps

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SplitRecord:
        """The inverse of to_dict. Raises DataError if keys are missing."""
        try:
            fractions = data["fractions"]
            return cls(
                seed=int(data["seed"]),
                sizes={part: int(data["sizes"][part]) for part in PARTS},
                hashes={part: str(data["hashes"][part]) for part in PARTS},
                fractions=None if fractions is None else tuple(float(f) for f in fractions),  # type: ignore[arg-type]
                given=tuple(str(part) for part in data["given"]),
                stratified=bool(data["stratified"]),
                duplicates=int(data["duplicates"]),
                left_out={str(part): int(count) for part, count in data.get("left_out", {}).items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"is not a record of a split: {error!r}") from error


@dataclass(frozen=True)
class DataParts:
    """The three parts, which share no sample, and the record of how they were made."""

    calibration: Samples
    search: Samples
    test: Samples
    split: SplitRecord

    def limited(self, name: str, count: int, seed: int) -> DataParts:
        """The same with ``count`` samples of one part, drawn by ``seed``."""
        part = getattr(self, name)
        if count >= len(part):
            return self
        sizes = {**self.split.sizes, name: count}
        left_out = {**self.split.left_out, name: self.split.left_out.get(name, 0) + len(part) - count}
        return replace(
            self, **{name: drawn(part, count, seed)}, split=replace(self.split, sizes=sizes, left_out=left_out)
        )


def drawn(samples: Samples, count: int, seed: int) -> Samples:
    """``count`` of the samples, in their order."""
    chosen = samples.subset(np.sort(np.random.default_rng(seed).permutation(len(samples))[:count]))
    chosen.calibration = samples.calibration
    return chosen


def split_samples(
    samples: Samples,
    calibration: Samples | None = None,
    *,
    test: Samples | None = None,
    seed: int = 0,
    fractions: Sequence[float] | None = None,
) -> DataParts:
    """Splits ``samples`` into the parts that are not given.

    ``calibration`` (else ``samples.calibration``, which an npz file may hold) and ``test`` are used whole.
    ``fractions`` are shares for (calibration, search, test), scaled to sum to one over the parts that are
    drawn; by default calibration takes 15 %, at most 128 samples, and search and test halve the rest.
    If labels are integer classes, every class is spread evenly over the parts.

    Comparing reads every sample, so samples that are slow to read (images, computed arrays) and not large
    are kept: see Samples.spooled. Raises DataError if given parts share samples, or there are too few
    samples.
    """
    calibration = samples.calibration if calibration is None else calibration
    shares = _shares(fractions)
    samples = _kept(samples)
    given = {"calibration": calibration, "test": test}
    parts: dict[str, Samples] = {name: _kept(part) for name, part in given.items() if part is not None}
    drawn = [name for name in PARTS if name not in parts]
    digests = samples.digests()
    groups = _groups(digests)
    named = {"the samples": samples, **{f"the {name} part": part for name, part in parts.items()}}
    _refuse_overlap(named)
    if len(groups) < len(drawn):
        raise DataError(
            f"{len(drawn)} parts ({', '.join(drawn)}) need at least {len(drawn)} different samples, "
            f"found {len(groups)}",
            where=samples.where,
            hint="give more samples, or separate calibration samples",
        )
    strata = _classes(samples)
    if len(drawn) == 1:
        parts[drawn[0]] = samples
    else:
        targets = _targets(len(samples), drawn, shares)
        chosen = _divide(groups, strata, targets, np.random.default_rng(seed))
        for name, indices in zip(drawn, chosen, strict=True):
            parts[name] = samples.subset(indices)
    record = SplitRecord(
        seed=seed,
        sizes={name: len(parts[name]) for name in PARTS},
        hashes={name: hash_bytes(*parts[name].digests()) for name in PARTS},
        fractions=shares,
        given=tuple(name for name in PARTS if name not in drawn),
        stratified=strata is not None and len(drawn) > 1,
        duplicates=sum(len(part) - len(set(part.digests())) for part in named.values()),
    )
    return DataParts(parts["calibration"], parts["search"], parts["test"], record)


def _kept(samples: Samples) -> Samples:
    """The samples, fast to read from now on, unless that takes too much space."""
    if len(samples) * samples.row_bytes > KEEP_BYTES:
        return samples
    try:
        return samples.spooled()
    except StorageError:
        return samples  # instead they are read again each time


def _shares(fractions: Sequence[float] | None) -> tuple[float, float, float] | None:
    if fractions is None:
        return None
    values = tuple(float(f) for f in fractions)
    if len(values) != 3 or not all(np.isfinite(f) and f > 0 for f in values):
        raise DataError(
            f"fractions must be three positive numbers for {', '.join(PARTS)}, found {list(fractions)}",
            hint="such as (0.2, 0.4, 0.4)",
        )
    return (values[0], values[1], values[2])


def _targets(total: int, drawn: Sequence[str], shares: tuple[float, float, float] | None) -> list[int]:
    """The number of samples of each drawn part, at least one."""
    if shares is not None:
        wanted = [shares[PARTS.index(name)] for name in drawn]
        bounds = np.rint(np.cumsum(wanted) / sum(wanted) * total).astype(int)
        sizes = np.diff(bounds, prepend=0).tolist()
    else:
        first = min(CALIBRATION_MOST, round(CALIBRATION_SHARE * total)) if "calibration" in drawn else 0
        first = max(1, first) if "calibration" in drawn else 0
        halves = len(drawn) - ("calibration" in drawn)
        rest = total - first
        sizes = [first] * ("calibration" in drawn) + [(rest + i) // halves for i in range(halves - 1, -1, -1)]
    for i, size in enumerate(sizes):
        if size == 0:
            sizes[int(np.argmax(sizes))] -= 1
            sizes[i] = 1
    return sizes


def _groups(digests: Sequence[bytes]) -> list[Indices]:
    """Indices of equal samples, one group per different sample, in order of appearance."""
    found: dict[bytes, list[int]] = {}
    for i, digest in enumerate(digests):
        found.setdefault(digest, []).append(i)
    return [np.array(indices, np.int64) for indices in found.values()]


def _classes(samples: Samples) -> npt.NDArray[Any] | None:
    """Integer class of each sample [n], or None if there are no labels or they are of another kind."""
    labels = samples.own_labels
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "biu":
        return None
    return labels


def _divide(
    groups: Sequence[Indices],
    strata: npt.NDArray[Any] | None,
    targets: Sequence[int],
    rng: np.random.Generator,
) -> list[Indices]:
    """Deals groups to parts, class by class and in random order within, each to the part that lags most.

    So every class is spread proportionally, to about one sample, and sizes are exact if there are no duplicates.
    """
    order = rng.permutation(len(groups))
    if strata is not None:
        first = np.array([group[0] for group in groups])
        order = order[np.argsort(strata[first[order]], kind="stable")]
    wanted = np.asarray(targets, np.float64)
    share, got, dealt = wanted / wanted.sum(), np.zeros(len(wanted)), 0
    parts: list[list[Indices]] = [[] for _ in targets]
    left = len(order)
    for i in order:
        dealt += len(groups[i])
        lag = share * dealt - got
        lag[got >= wanted] = -np.inf
        # Large groups of duplicates must not leave a part empty.
        empty = [p for p, part in enumerate(parts) if not part]
        part = int(np.argmax(lag)) if left > len(empty) else empty[0]
        parts[part].append(groups[i])
        got[part] += len(groups[i])
        left -= 1
    return [np.sort(np.concatenate(part)) for part in parts]


def _refuse_overlap(named: Mapping[str, Samples]) -> None:
    items = list(named.items())
    for a, (name, part) in enumerate(items):
        places = {digest: i for i, digest in reversed(list(enumerate(part.digests())))}
        for other_name, other in items[a + 1 :]:
            shared = [(places[d], i) for i, d in enumerate(other.digests()) if d in places]
            if shared:
                first = ", ".join(f"{i} = {j}" for i, j in shared[:5])
                raise DataError(
                    f"{name} ({part.where}) and {other_name} ({other.where}) share {len(shared)} "
                    f"sample{'s' if len(shared) > 1 else ''}; indices of the first: {first}",
                    hint="remove them from one of the two: what is tuned on a sample cannot be judged by it",
                )
