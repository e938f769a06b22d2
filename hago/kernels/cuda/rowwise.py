"""Threads that compute one result together: what softmax, norms and reductions share.

A tensor is seen as [outer, n, inner]. Each of its outer * inner *rows* of n elements, ``inner`` apart, belongs to a
team of threads. With inner = 1 the threads of a team are neighbours and read up to 16 bytes each; they meet by
exchanges within a warp, and warps in shared memory. Else neighbouring threads have neighbouring rows, and meet in
shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from ..common.calls import item_bytes
from ..common.flat import Expr, Flat
from ..common.math import named
from ..common.reductions import Combine
from .families import Gpu
from .grid import THREADS, barrier, blocks
from .words import read

_WARP = 32
_WIDEST = 16  # bytes of one load
_LARGEST = 8  # bytes of an element
_KEPT = 32
"""Elements of a row that a thread keeps in registers."""
_FEW = 128
"""Threads of a block whose rows meet in shared memory."""
_MOST_ACROSS = 16
"""Threads of a team that meets in shared memory alone."""
_BUSY = 512
"""Threads of a multiprocessor that hide the time which memory takes."""

Terms = Callable[["Piece"], Sequence[Expr]]
"""Values that a thread makes of its elements of a piece."""


@dataclass(frozen=True)
class Division:
    """[outer, n, inner] for teams of ``size`` threads, ``teams`` a block; a thread reads ``lanes`` neighbours."""

    outer: int
    n: int
    inner: int
    lanes: int
    size: int
    teams: int

    @property
    def rows(self) -> int:
        """How many results there are."""
        return self.outer * self.inner

    @property
    def steps(self) -> int:
        """Pieces of a row."""
        return -(-self.n // (self.size * self.lanes))

    @property
    def kept(self) -> bool:
        """Whether threads keep their elements of a row in registers."""
        return self.steps * self.lanes <= _KEPT

    @property
    def meets_in_memory(self) -> bool:
        """Whether a team meets in shared memory."""
        return self.size > (_WARP if self.inner == 1 else 1)


def divide(gpu: Gpu, outer: int, n: int, inner: int, dtype: str | None) -> Division:
    """As many threads for each row as it takes to keep the GPU busy; without ``dtype``, one element is one read."""
    rows, busy = outer * inner, gpu.multiprocessors * _BUSY
    if inner > 1:
        most = min(_power_of_two(n), _MOST_ACROSS)
        size = min(most, _power_of_two(-(-busy // rows)))
        return Division(outer, n, inner, 1, size, _FEW // size)
    lanes = _WIDEST // item_bytes(dtype) if dtype else 1
    while n % lanes:
        lanes //= 2
    size = min(_power_of_two(-(-n // lanes)), THREADS)
    if size > _WARP and n <= _WARP * _KEPT and rows * _WARP >= busy:
        size = _WARP
    threads = max(size, min(THREADS, _power_of_two(rows * size)), _WARP)
    return Division(outer, n, inner, lanes, size, threads // size)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


@dataclass(frozen=True)
class Piece:
    """A thread's neighbours within a row: their first place in it, and where that lies in the tensor.

    ``inside`` tells whether the row has them (None: always); else they stand for its last ones.
    """

    step: Expr
    place: Expr
    at: Expr
    inside: Expr | None

    def only(self, value: Expr, instead: Expr) -> Expr:
        """``value`` inside of the row."""
        return value if self.inside is None else T.Select(self.inside, value, instead)

    @contextmanager
    def within(self) -> Iterator[None]:
        """Statements for those threads whose elements the row has."""
        if self.inside is None:
            yield
        else:
            with T.If(self.inside), T.Then():
                yield


class Team:
    """The team that a thread belongs to; all threads of a block must come to its methods together."""

    def __init__(self, d: Division, block: Expr, thread: Expr, meetings: int) -> None:
        """``meetings`` counts the values that teams combine."""
        self.d, self._thread = d, thread
        if d.inner == 1:
            self._rank, self._team = T.bind(thread % d.size), T.bind(thread // d.size)
        else:
            self._rank, self._team = T.bind(thread // d.teams), T.bind(thread % d.teams)
        row = block * d.teams + self._team
        self._exists = None if d.rows % d.teams == 0 else T.bind(row < d.rows)
        self.row = T.bind(row if self._exists is None else T.min(row, d.rows - 1))
        self._base = T.bind(self.row // d.inner * (d.n * d.inner) + self.row % d.inner)
        self._slots = d.size * d.teams // (_WARP if d.inner == 1 else 1)
        self._shared_bytes = meetings * self._slots * _LARGEST if d.meets_in_memory else 0
        self._met = 0
        if self._shared_bytes:
            self._shared = T.alloc_buffer((self._shared_bytes,), "uint8", scope="shared.dyn", align=16)

    def along(self, body: Callable[[Piece], None]) -> None:
        """Calls ``body`` for each of this thread's pieces of the row: in a loop, unless they are kept."""
        if self.d.kept:
            for step in range(self.d.steps):
                body(self._piece(step))
        else:
            with T.serial(0, self.d.steps) as step:
                body(self._piece(step))

    def _piece(self, step: Expr) -> Piece:
        d = self.d
        place = T.bind((step * d.size + self._rank) * d.lanes)
        if d.n % (d.size * d.lanes) == 0:
            return Piece(step, place, T.bind(self._base + place * d.inner), None)
        last = T.bind(T.min(place, d.n - d.lanes))
        return Piece(step, last, T.bind(self._base + last * d.inner), T.bind(place < d.n))

    def values(self, source: Flat) -> Terms:
        """The elements of a piece, read once if they are kept."""
        return self.held(lambda piece: read(source, piece.at, self.d.lanes))

    def held(self, terms: Terms) -> Terms:
        """The same values, computed once if they are kept."""
        found: dict[int, Sequence[Expr]] = {}

        def look(piece: Piece) -> Sequence[Expr]:
            if not self.d.kept:
                return terms(piece)
            if piece.step not in found:
                found[piece.step] = terms(piece)
            return found[piece.step]

        return look

    def total(self, terms: Terms, combine: Combine, start: Expr, dtype: str) -> Expr:
        """All terms of the row, combined."""
        held = local(dtype, start)

        def add(piece: Piece) -> None:
            for value in terms(piece):
                T.buffer_store(held, combine(held[0], piece.only(value, start)), [0])

        self.along(add)
        (found,) = self.across([named(held[0])], lambda a, b: [combine(a[0], b[0])])
        return found

    def across(
        self, values: Sequence[Expr], combine: Callable[[Sequence[Expr], Sequence[Expr]], Sequence[Expr]]
    ) -> Sequence[Expr]:
        """What the threads of the team bring, combined; each gets the result."""
        d = self.d
        if d.inner == 1:
            mask = min(d.size, _WARP) // 2
            while mask:
                others = [named(T.call_extern(v.ty.dtype, "hago::exchange", v, T.int32(mask))) for v in values]
                values = [named(value) for value in combine(values, others)]
                mask //= 2
        return self._meet(values, combine) if d.meets_in_memory else values

    def _meet(self, values: Sequence[Expr], combine: Any) -> Sequence[Expr]:
        """In shared memory, each time in a part of its own: there is no wait for those who still read the last one."""
        d = self.d
        per_warp = d.inner == 1
        slots = [self._slot(str(value.ty.dtype)) for value in values]
        if per_warp:
            with T.If(self._thread % _WARP == 0), T.Then():
                for value, (shared, first) in zip(values, slots, strict=True):
                    T.buffer_store(shared, value, [first + self._thread // _WARP])
        else:
            for value, (shared, first) in zip(values, slots, strict=True):
                T.buffer_store(shared, value, [first + self._thread])
        barrier()
        count = d.size // _WARP if per_warp else d.size

        def brought(i: int) -> list[Expr]:
            at = self._team * count + i if per_warp else i * d.teams + self._team
            return [named(shared[first + at]) for shared, first in slots]

        found: Sequence[Expr] = brought(0)
        for i in range(1, count):
            found = [named(value) for value in combine(found, brought(i))]
        return found

    def _slot(self, dtype: str) -> tuple[Any, int]:
        """Shared memory as elements of a type, and the first one of a part that was not used before."""
        size = item_bytes(dtype)
        elements = T.decl_buffer((self._shared_bytes // size,), dtype, data=self._shared.data, scope="shared.dyn")
        self._met += 1
        return elements, (self._met - 1) * self._slots * _LARGEST // size

    @contextmanager
    def first(self) -> Iterator[None]:
        """Statements for one thread of the team."""
        mine = self._rank == 0
        with T.If(mine if self._exists is None else T.And(mine, self._exists)), T.Then():
            yield

    @contextmanager
    def owned(self, piece: Piece) -> Iterator[None]:
        """Statements for those threads whose elements of a piece exist."""
        if self._exists is None:
            with piece.within():
                yield
        else:
            with T.If(self._exists), T.Then(), piece.within():
                yield


def local(dtype: str, start: Expr) -> Any:
    """A register that changes."""
    held = T.alloc_buffer((1,), dtype, scope="local")
    T.buffer_store(held, start, [0])
    return held


@contextmanager
def teams(d: Division, meetings: int) -> Iterator[Team]:
    """Launches the teams; yields the one of this thread. ``meetings`` counts the values that teams combine."""
    with blocks(-(-d.rows // d.teams), d.size * d.teams) as (block, thread):
        yield Team(d, block, thread, meetings)
