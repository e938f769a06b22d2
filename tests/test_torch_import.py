"""PyTorch modules: exported in evaluation mode, named after submodules, same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_normalize import run

import hago
from hago.errors import MissingExtraError, ModelError
from hago.model.torch_import import from_torch

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
nn = torch.nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.GELU(approximate="tanh")
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 16), nn.Hardswish(), nn.Dropout(), nn.Linear(16, 10))

    def forward(self, image: Any) -> Any:
        x = self.act(self.bn(self.conv(image)))
        x = self.norm(x.flatten(2).transpose(1, 2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def module() -> Any:
    torch.manual_seed(0)
    block = Block()
    block.bn.running_mean.normal_()
    block.bn.running_var.uniform_(0.5, 2)
    return block


@pytest.fixture(scope="module")
def model(module: Any) -> Any:
    module.train()
    return from_torch(module, torch.randn(1, 3, 4, 4), batch=3)


def test_outputs_are_those_of_the_module_in_evaluation(module: Any, model: Any) -> None:
    assert module.training and module.bn.training, "the module must be left as it was"
    x = np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32)
    module.eval()
    with torch.no_grad():
        wanted = module(torch.tensor(x)).numpy()
    module.train()
    (got,) = run(model.proto, {model.inputs[0].name: x})
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert (model.source, model.batch, model.inputs[0].name) == ("Block", 3, "image")


def test_layers_are_called_like_submodules(model: Any) -> None:
    names = {la.name: la for la in model.layers}
    assert names["conv"].kind == "conv" and names["conv"].weight_shape == (8, 3, 3, 3)
    assert names["head.0"].kind == names["head.3"].kind == "fully_connected"
    assert names["norm"].op_type == "LayerNormalization"
    assert {"Gelu", "HardSwish"} <= {la.op_type for la in model.layers}
    assert "BatchNormalization" not in {la.op_type for la in model.layers}
    assert not any(p.key.startswith("pkg.") for n in model.source_proto.graph.node for p in n.metadata_props)


def test_names_and_keyword_inputs() -> None:
    class Two(nn.Module):
        def forward(self, a: Any, b: Any) -> Any:
            return a * 2 + b

    model = from_torch(Two(), {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}, batch=4)
    assert {t.name: t.shape for t in model.inputs} == {"a": (4, 3), "b": (4, 3)}
    model = from_torch(Two(), (torch.randn(2, 3), torch.randn(1, 3)), input_names=["left", "right"])
    assert {t.name: t.shape for t in model.inputs} == {"left": (1, 3), "right": (1, 3)}


def test_a_module_with_a_fixed_batch_keeps_it() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.reshape(2, 6) + 1

    assert from_torch(Fixed(), torch.randn(2, 3, 2)).batch == 2


def test_what_cannot_be_exported() -> None:
    class Python(nn.Module):
        def forward(self, x: Any) -> Any:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ModelError, match=r"Python: PyTorch could not export it"):
        from_torch(Python(), torch.randn(2, 3))
    with pytest.raises(ModelError, match=r"takes a torch\.nn.Module, not int"):
        from_torch(3, torch.randn(2))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="must be a tensor, a tuple of tensors or a mapping, not float"):
        from_torch(nn.ReLU(), 1.0)


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "torch" else find(n, *a))
    with pytest.raises(MissingExtraError, match=r"'torch'[\s\S]*pip install 'hago\[torch\]'"):
        from_torch(nn.ReLU(), torch.randn(2))


class Pair(nn.Module):
    def forward(self, a: Any, b: Any) -> Any:
        return {"sum": a + b, "parts": (a * 2, [b.relu()])}


class Last(nn.Module):
    """Its batch, so that the example's is kept."""

    def __init__(self, dtype: Any = torch.float32) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3).to(dtype)

    def forward(self, x: Any) -> Any:
        return self.linear(x)


class Noise(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + torch.nn.functional.avg_pool1d(x, 3, 1, 1) * (2.0 if self.training else 1.0)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(3, 2, divisor_override=5), nn.AvgPool3d(2, divisor_override=3)])
def test_what_the_exporter_drops_is_an_error(pool: Any) -> None:
    x = torch.randn(1, 2, *[6] * (3 if isinstance(pool, nn.AvgPool3d) else 2))
    with pytest.raises(ModelError, match=r"is not that of the module: on the example inputs they differ by up to"):
        from_torch(pool, x)


def test_the_import_is_that_of_evaluation_mode_whatever_the_mode() -> None:
    module = Noise().train()
    x = torch.randn(2, 3, 8)
    (got,) = run(from_torch(module, x, batch=2).proto, {"x": x.numpy()})
    np.testing.assert_allclose(got, module.eval()(x).numpy(), rtol=1e-5, atol=1e-6)


def test_outputs_in_dictionaries_and_tuples() -> None:
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    got = run(from_torch(Pair(), {"b": b, "a": a}, batch=2).proto, {"a": a.numpy(), "b": b.numpy()})
    for found, wanted in zip(got, (a + b, a * 2, b.relu()), strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)


def test_inputs_that_are_views_or_half() -> None:
    module = Last()
    view = torch.randn(4, 2).t()
    (got,) = run(from_torch(module, view, batch=2).proto, {"x": np.ascontiguousarray(view.numpy())})
    np.testing.assert_allclose(got, module(view).detach().numpy(), rtol=1e-5, atol=1e-6)
    half = from_torch(Last(torch.float16), torch.randn(2, 4).half())
    assert half.inputs[0].dtype == half.outputs[0].dtype == "float16"  # computed in float32 all the same


def test_a_module_that_fails_on_its_example() -> None:
    with pytest.raises(ModelError, match="Last: the module fails on its example inputs"):
        from_torch(Last(), torch.randn(2, 5))


def test_differences_are_named() -> None:
    from hago.model.torch_check import _difference

    x = np.float32([1, 2, np.nan])
    assert _difference(x, x * np.float32(1.0001), 1e-3) is None
    assert "differ by up to 0.5" in str(_difference(x, x + np.float32(0.5), 1e-3))
    assert "infinite or NaN" in str(_difference(x, np.float32([1, 2, 3]), 1e-3))
    assert "its shape is" in str(_difference(x, x[:2], 1e-3))
    integers = np.arange(100)
    assert _difference(integers, np.where(integers == 3, 0, integers), 1e-3) is None
    assert "99 of 100 values differ" in str(_difference(integers, np.zeros(100, np.int64), 1e-3))


def test_a_torch_module_is_tuned_too(kernels_folder: Path) -> None:
    torch.manual_seed(0)
    x, _ = tiny.samples()
    module = nn.Sequential(nn.Conv2d(2, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 3)).eval()
    with pytest.raises(ModelError, match="from_torch"):
        hago.compile(module)
    model = hago.from_torch(module, torch.zeros(1, 2, 8, 8))
    with torch.no_grad():
        labels = module(torch.from_numpy(x)).argmax(1).numpy()
    result = hago.tune(model, data=(x, labels), max_drop=1.0, trials=1, threads=1, cache=kernels_folder)
    assert result.float.accuracy == 1.0
    assert result.search.trials == 1
