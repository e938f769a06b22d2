"""Other engines on the same network: PyTorch eager, as CUDA graphs and compiled; ONNX Runtime where it is installed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bundle import Notes
from turns import Contender

_WARM_UP = 3


def torch_on(device: str) -> Any:
    """PyTorch, if it is installed and has this device; else None."""
    try:
        import torch
    except ImportError:
        return None
    if device == "cuda" and not torch.cuda.is_available():
        return None
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch


def freed(torch: Any) -> None:
    """Gives back memory of networks that are not used any more."""
    gc.collect()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def eager(torch: Any, device: str, graph: Mapping[str, Any], batch: int, notes: Notes) -> Iterator[Contender]:
    """PyTorch as it is, in float32 and float16."""
    for name, dtype in _dtypes(torch):
        run = _network(torch, device, graph, batch, dtype)
        yield Contender(f"torch {name} eager", _timer(torch, device, run))


def graphs(torch: Any, device: str, graph: Mapping[str, Any], batch: int, notes: Notes) -> Iterator[Contender]:
    """PyTorch's kernels, recorded as one CUDA graph."""
    for name, dtype in _dtypes(torch):
        run = _network(torch, device, graph, batch, dtype)
        if device == "cuda":
            run = _recorded(torch, run)
        yield Contender(f"torch {name} graph", _timer(torch, device, run))


def compiled(torch: Any, device: str, graph: Mapping[str, Any], batch: int, notes: Notes) -> Iterator[Contender]:
    """What torch.compile makes of it in float16, with CUDA graphs."""
    began = time.monotonic()
    torch._dynamo.reset()
    module, inputs = _module(torch, device, graph, batch, torch.float16)
    function = torch.compile(module, mode="reduce-overhead", dynamic=False)
    for _ in range(_WARM_UP):
        function(*inputs)
    notes.put(round(time.monotonic() - began, 1), "compile_seconds", f"{len(graph['nodes'])} nodes b{batch}")
    yield Contender("torch float16 compiled", _timer(torch, device, lambda: function(*inputs)))


def onnx_runtime(torch: Any, device: str, graph: Mapping[str, Any], batch: int, notes: Notes) -> Iterator[Contender]:
    """ONNX Runtime's CUDA and TensorRT providers, in float32."""
    try:
        import onnx_network
        import onnxruntime
    except ImportError as error:
        notes.put(f"{error.name} is not installed", "errors", "onnxruntime")
        return
    wanted = {"cuda": ("CUDA", "Tensorrt"), "cpu": ("CPU",)}[device]
    for provider in wanted:
        if f"{provider}ExecutionProvider" in onnxruntime.get_available_providers():
            yield Contender(f"onnxruntime float32 {provider}", onnx_network.timer(graph, batch, provider, device))


def _dtypes(torch: Any) -> list[tuple[str, Any]]:
    return [("float32", torch.float32), ("float16", torch.float16)]


def _module(torch: Any, device: str, graph: Mapping[str, Any], batch: int, dtype: Any) -> tuple[Any, list[Any]]:
    """The network, and inputs, channels last as PyTorch likes them."""
    from torch_network import TorchNetwork

    def placed(value: Any) -> Any:
        moved = value.to(device, dtype) if value.is_floating_point() else value.to(device)
        return moved.contiguous(memory_format=torch.channels_last) if moved.dim() == 4 else moved

    module = TorchNetwork(graph).eval().to(device, dtype).to(memory_format=torch.channels_last)
    generator, inputs = torch.Generator().manual_seed(1), []
    for name in graph["inputs"]:
        about = graph["shapes"][name]
        shape = [batch, *about["shape"][1:]]
        whole = about["dtype"].startswith("int")
        inputs.append(placed(torch.zeros(shape).long() if whole else torch.randn(shape, generator=generator)))
    return module, inputs


def _network(torch: Any, device: str, graph: Mapping[str, Any], batch: int, dtype: Any) -> Callable[[], Any]:
    module, inputs = _module(torch, device, graph, batch, dtype)
    return lambda: module(*inputs)


def _recorded(torch: Any, run: Callable[[], Any]) -> Callable[[], Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()

    def replay(kept: Any = kept) -> None:  # the outputs' memory lives as long as the graph
        graph.replay()

    return replay


def _timer(torch: Any, device: str, run: Callable[[], Any]) -> Callable[[int], float]:
    """Seconds of n calls between two events; on the processor, by its clock."""

    def by_clock(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            run()
        return time.perf_counter() - began

    def by_events(count: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    return by_events if device == "cuda" else by_clock
