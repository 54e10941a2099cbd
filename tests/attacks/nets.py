"""A network trained in seconds, and linear ones whose attacks can be worked out by hand."""

from dataclasses import dataclass

import foolbox
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from lib import data
from lib.models import Normalise

LOW, CONTRAST = 0.4, 0.2  # digits in [0.4, 0.6]: perturbations of a few 255ths are then large ones


@dataclass(frozen=True)
class Trained:
    """A network and images (24, 1, 14, 14) in [0, 1] that it classifies as their labels."""

    model: nn.Module
    images: Tensor
    labels: Tensor


def train() -> Trained:
    """Two convolutions on real digits of half the size and low contrast."""
    images, labels = _digits("train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            Normalise((LOW + 0.13 * CONTRAST,), (0.25 * CONTRAST,)),
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 16, 10),
        )
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(4):
            for rows in torch.randperm(len(images)).split(100):
                optimiser.zero_grad()
                cross_entropy(model(images[rows]), labels[rows]).backward()
                optimiser.step()
    optimiser.zero_grad()
    model.eval()
    images, labels = _digits("test")
    with torch.no_grad():
        right = (model(images[:100]).argmax(dim=1) == labels[:100]).nonzero()[:24, 0]
    return Trained(model, images[right], labels[right])


def _digits(split: str) -> tuple[Tensor, Tensor]:
    digits = data.load("mnist5k", split)
    digits = digits.stratified(len(digits), seed=0)
    return LOW + CONTRAST * avg_pool2d(digits.float(), 2), digits.labels


def linear(weight: Tensor, shape: tuple[int, int, int], bias: Tensor | None = None) -> nn.Module:
    """Logits W x + b of images of that shape; weight (classes, C H W)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    assert weight.shape[1] == shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), layer).eval()


def target(model: nn.Module) -> foolbox.PyTorchModel:
    """The network as Foolbox takes it."""
    return foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")


def generator(seed: int = 0) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator().manual_seed(seed)
