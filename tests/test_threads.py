"""One network in several threads, and in processes that fork: right values, no hang, no crash."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hago
from hago.compiler.cache import KernelCache
from hago.errors import BuildError, MeasureError
from hago.runtime.threads import check_threads, default_threads
from hago.spec import resolve_hw

if not resolve_hw("auto").kernels_available:
    pytest.skip("there are no kernels for this machine", allow_module_level=True)

ROWS, SIZE = 64, 96
RNG = np.random.default_rng(0)
WEIGHTS = [RNG.integers(-4, 5, (SIZE, SIZE)).astype(np.float32) for _ in range(2)]
SAMPLES = RNG.integers(-4, 5, (24, ROWS, SIZE)).astype(np.float32)


def product(weights: np.ndarray) -> onnx.ModelProto:
    """y = max(x @ weights, 0), in whole numbers that float32 holds exactly; large enough for several threads."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])],
        "product",
        [info("x", TensorProto.FLOAT, [ROWS, SIZE])],
        [info("y", TensorProto.FLOAT, [ROWS, SIZE])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def expected(x: np.ndarray, weights: np.ndarray = WEIGHTS[0]) -> np.ndarray:
    return np.maximum(x.astype(np.int64) @ weights.astype(np.int64), 0)


@pytest.fixture(scope="module", params=[1, 2])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


# --- threads -------------------------------------------------------------------------------------


def test_threads_may_share_a_network(cache: KernelCache, threads: int) -> None:
    net = hago.compile(product(WEIGHTS[0]), threads=threads, cache=cache)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: net(SAMPLES[i % len(SAMPLES)])[0], range(400)))
    # Kept until now without a copy: no later call has written over them.
    for i, output in enumerate(found):
        assert np.array_equal(output, expected(SAMPLES[i % len(SAMPLES)]))


def test_several_networks_run_in_several_threads(cache: KernelCache, threads: int) -> None:
    nets = [hago.compile(product(weights), threads=threads, cache=cache) for weights in WEIGHTS]

    def work(i: int) -> bool:
        which = i % 2
        right = expected(SAMPLES[i], WEIGHTS[which])
        return all(np.array_equal(nets[which](SAMPLES[i])[0], right) for _ in range(30))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(24)))


def test_kernels_are_timed_beside_calls(cache: KernelCache, threads: int) -> None:
    net = hago.compile(product(WEIGHTS[0]), threads=threads, cache=cache)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(lambda i=i: net(SAMPLES[i])[0]) for i in range(24)]
        times = pool.submit(net.layer_times)
        assert all(seconds > 0 for seconds in times.result().values())
        assert all(np.array_equal(call.result(), expected(x)) for call, x in zip(calls, SAMPLES, strict=True))


def test_networks_of_one_process_keep_their_numbers_of_threads(cache: KernelCache) -> None:
    nets = {n: hago.compile(product(WEIGHTS[0]), threads=n, cache=cache) for n in (3, 1, 2)}
    for n in (2, 3, 1, 3, 2):
        assert nets[n].threads == n
        assert np.array_equal(nets[n](SAMPLES[n])[0], expected(SAMPLES[n]))


# --- forks ---------------------------------------------------------------------------------------

_FORKING = """
import multiprocessing, os, sys, threading, time
sys.path.insert(0, {tests!r})
import numpy as np
import hago
from test_threads import SAMPLES, WEIGHTS, expected, product

net = hago.compile(product(WEIGHTS[0]), threads={threads}, cache={cache!r})

def right(i=0):
    return np.array_equal(net(SAMPLES[i])[0], expected(SAMPLES[i]))

def forked(work):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os._exit(0 if work() else 9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def ends_as_usual():  # runs what the end of a process runs, also that of its pool
    child = os.fork()
    if not child:
        sys.exit(0 if right() else 9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def in_a_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found == [True]

def beside_calls():
    stop = threading.Event()
    def call():
        while not stop.is_set():
            right(1)
    thread = threading.Thread(target=call)
    thread.start()
    good = all(forked(lambda: right(i)) for i in range(5))
    stop.set()
    thread.join()
    return good

{before}
for way, what in {ways!r}.items():
    print(f"{{way}}:", eval(what), right(), flush=True)
"""
_BEFORE = {"awake": "assert right()", "asleep": "assert right(); time.sleep(2)", "no call": ""}


_WAYS = {
    "multiprocessing": "all(multiprocessing.get_context('fork').Pool(2).map(right, range(6)))",
    "twice": "forked(lambda: right() and forked(right) and forked(lambda: forked(right)))",
    "from a thread": "in_a_thread(lambda: right() and forked(right))",
    "from a fresh thread": "in_a_thread(right) and in_a_thread(lambda: forked(right))",
    "threads of its own": "forked(lambda: in_a_thread(right) and right())",
    "beside calls": "beside_calls()",
    "ends as usual": "ends_as_usual()",
}


@pytest.mark.parametrize(
    ("threads", "before"),
    [
        (2, "asleep"),
        pytest.param(2, "awake", marks=pytest.mark.slow),
        (2, "no call"),
        pytest.param(1, "asleep", marks=pytest.mark.slow),
    ],
)
def test_a_forked_process_computes_and_ends(cache: KernelCache, threads: int, before: str) -> None:
    code = _FORKING.format(
        tests=str(Path(__file__).parent), threads=threads, cache=str(cache.root), before=_BEFORE[before], ways=_WAYS
    )
    # The time only ends what hangs.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines() == [f"{way}: True True" for way in _WAYS], done.stdout + done.stderr


# --- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_network_is_not_pickled(cache: KernelCache, copied: Callable[[Any], Any]) -> None:
    net = hago.compile(product(WEIGHTS[0]), threads=1, cache=cache)
    for holder in (net, [net], net.run):
        if copied is copy.copy and holder is not net:
            continue  # a new list of the same network is fine
        with pytest.raises(BuildError, match=r"cannot be pickled or copied.*\n.*save.*hago\.load"):
            copied(holder)
    assert np.array_equal(net(SAMPLES[0])[0], expected(SAMPLES[0]))


# --- numbers of threads --------------------------------------------------------------------------


@pytest.mark.parametrize("given", [1, 2, 1024, np.int64(3), np.uint8(2), np.array(4)])
def test_whole_numbers_of_threads(given: Any) -> None:
    assert check_threads(given) == int(given)
    assert type(check_threads(given)) is int


def test_no_number_of_threads_is_the_default() -> None:
    assert check_threads(None) == default_threads() >= 1


@pytest.mark.parametrize(
    "given", [0, -1, 1025, 10**30, True, np.True_, 2.0, np.float32(2), float("nan"), "2", "all", [2], np.array([2, 3])]
)
def test_other_numbers_of_threads_are_refused(cache: KernelCache, given: Any) -> None:
    with pytest.raises(MeasureError, match="threads must be a whole number from 1 to 1024, not "):
        hago.compile(product(WEIGHTS[0]), threads=given, cache=cache)
