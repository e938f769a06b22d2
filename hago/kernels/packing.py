"""Packed weights are remembered: the candidates of one search share most of them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import numpy as np

_LIMIT_BYTES = 1 << 29
_packed: OrderedDict[Hashable, np.ndarray] = OrderedDict()
_lock = Lock()


def remembered(source: np.ndarray, how: Hashable, pack: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``pack(source)``; for equal contents and equal ``how`` always the same array object.

    The least recently used arrays are forgotten when all together exceed half a gigabyte.
    """
    source = np.ascontiguousarray(source)
    digest = hashlib.blake2b(source.data if source.size else b"", digest_size=16).digest()
    key = (digest, source.shape, source.dtype.str, how)
    with _lock:
        if key in _packed:
            _packed.move_to_end(key)
            return _packed[key]
    result = pack(source)
    result.setflags(write=False)
    with _lock:
        _packed[key] = result
        while sum(array.nbytes for array in _packed.values()) > _LIMIT_BYTES and len(_packed) > 1:
            _packed.popitem(last=False)
    return result
