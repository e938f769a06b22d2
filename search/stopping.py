"""When to end a search for lack of progress: a plateau of the front."""

from __future__ import annotations

import math
from collections.abc import Sequence


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume that the points dominate (all coordinates minimised) within the reference point, of any dimension.

    Computed in slices along the last coordinate, down to two dimensions: the area under a staircase.
    """
    if len(reference) == 1:
        return max(0.0, reference[0] - min((point[0] for point in points), default=reference[0]))
    if len(reference) == 2:
        area, edge = 0.0, reference[1]
        for x, y in sorted((point[0], point[1]) for point in points):
            if x < reference[0] and y < edge:
                area += (reference[0] - x) * (edge - y)
                edge = y
        return area
    inside = sorted((point for point in points if point[-1] < reference[-1]), key=lambda point: point[-1])
    tops = [*(point[-1] for point in inside[1:]), reference[-1]]
    volume = 0.0
    for i, (point, top) in enumerate(zip(inside, tops, strict=False)):
        if top > point[-1]:
            volume += (top - point[-1]) * hypervolume([p[:-1] for p in inside[: i + 1]], reference[:-1])
    return volume


def trials_without_gain(points: Sequence[Sequence[float]], reference: Sequence[float], tolerance: float = 5e-3) -> int:
    """How many of the last points in a row added no more than ``tolerance`` of the box to the front."""
    floor = [min(0.0, *(point[axis] for point in points), 0.0) for axis in range(len(reference))]
    box = math.prod(most - least for most, least in zip(reference, floor, strict=True))
    best, last_gain = 0.0, 0
    front: list[Sequence[float]] = []
    for i, point in enumerate(points, start=1):
        if any(all(a <= b for a, b in zip(other, point, strict=True)) for other in front):
            continue  # it adds nothing
        front = [other for other in front if not all(a <= b for a, b in zip(point, other, strict=True))] + [point]
        volume = hypervolume(front, reference)
        if volume > best + tolerance * box:
            best, last_gain = volume, i
    return len(points) - last_gain
