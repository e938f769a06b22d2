"""Trains the example: a small residual network on scikit-learn's handwritten digits.

    pip install 'hago[torch]' scikit-learn
    python examples/digits/train.py

Writes model.onnx and samples.npz next to this file (the repository already contains both). The images have
8 by 8 pixels of 0..16, and the network enlarges them to 32 by 32. Of the 1,797 digits 697 train the network;
the other 1,100 are the samples, so that Hago measures nothing that was seen in training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
TRAINING = 697


class Block(nn.Module):
    """Two 3x3 convolutions around a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(x + self.second_norm(self.second(y)))


class Separable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, as in MobileNet."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self.depthwise_norm(self.depthwise(x)))
        return functional.relu6(self.pointwise_norm(self.pointwise(x)))


class Digits(nn.Module):
    """[N, 1, 8, 8] pixels of 0..16 -> [N, 10] scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(32)
        self.block1 = Block(32)
        self.down1 = Separable(32, 48)
        self.block2 = Block(48)
        self.down2 = Separable(48, 64)
        self.block3 = Block(64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate(x / 16, scale_factor=4.0, mode="nearest")
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = self.block2(self.down1(self.block1(x)))
        x = self.block3(self.down2(x))
        return self.head(x.mean((2, 3)))


def shifted(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Augmentation: each image moved by up to one pixel in each direction, with noise, since 697 digits are few."""
    padded = functional.pad(x, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(x), 2), generator=generator)
    moved = [padded[i, :, r : r + 8, c : c + 8] for i, (r, c) in enumerate(moves.tolist())]
    return torch.stack(moved) + 0.6 * torch.randn(x.shape, generator=generator)


def train(x: np.ndarray, y: np.ndarray, epochs: int = 60) -> Digits:
    """Trains on x [n, 1, 8, 8], y [n]; reproducible on one machine."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = Digits()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    batches = -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * batches)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(shifted(inputs[index], generator)), labels[index])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(index)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total / len(x):.4f}")
    return network.eval()


def main() -> None:
    digits = load_digits()
    x = digits.images.astype(np.float32)[:, None]
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    training, samples = order[:TRAINING], order[TRAINING:]
    network = train(x[training], y[training])
    with torch.no_grad():
        scores = network(torch.from_numpy(x[samples])).numpy()
    print(f"top-1 on the {len(samples)} samples: {(scores.argmax(1) == y[samples]).mean():.4f}")
    np.savez_compressed(HERE / "samples.npz", x=x[samples], y=y[samples])
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 8, 8),),
        str(HERE / "model.onnx"),
        input_names=["image"],
        output_names=["scores"],
        dynamic_shapes={"x": {0: "batch"}},
        external_data=False,
    )
    strip(HERE / "model.onnx")


def strip(path: Path) -> None:
    """Removes the exporter's metadata, which contains paths of the training machine."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for item in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    onnx.save(model, path)


if __name__ == "__main__":
    main()
