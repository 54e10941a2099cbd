"""Tiny nets, images and configurations for the tests of training, the zoo and what reads the configuration."""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lib.config import Recipe
from lib.data import ImageSet
from lib.training import Hook

TINY = {
    "arch": "digits-cnn",
    "arch_args": {"width": 2},
    "data": "mnist5k",
    "train_limit": 60,
    "epochs": 3,
    "batch": 20,
    "learning_rate": 0.05,
}


def images(count: int = 40, shape: tuple[int, int, int] = (3, 8, 8), classes: int = 4, seed: int = 0) -> ImageSet:
    """Random uint8 images whose label can be learnt: the brighter the image, the higher its class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    noise = torch.randint(0, 256 // classes, (count, *shape), generator=generator)
    pixels = (noise + (labels * (256 // classes))[:, None, None, None]).to(torch.uint8)
    return ImageSet(pixels, labels, tuple(map(str, range(classes))), "random", "train")


def recipe(**changes: Any) -> Recipe:
    """A short float32 training in the contiguous format; `changes` on top."""
    settings: dict[str, Any] = {
        "arch": "none",
        "data": "random",
        "epochs": 3,
        "batch": 10,
        "precision": "float32",
        "channels_last": False,
        **changes,
    }
    return Recipe(**settings)


def net(dropout: float = 0.0, seed: int = 0, width: int = 4) -> nn.Module:
    """Convolution, batch normalisation, dropout, linear; for images of `images`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(16 * width, 4),
        )


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a network holds."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name].cpu(), other[name].cpu()) for name in one)


def generator(seed: int = 0) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator().manual_seed(seed)


class Killed(Exception):
    """Stands for the end of the process."""


class Kill(Hook):
    """Raises after that many steps."""

    def __init__(self, after: int | None = None) -> None:
        self.after = after

    def step(self, run) -> None:
        if run.step == self.after:
            raise Killed


class Diary(Hook):
    """Notes every call."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def begin(self, run):
        self.notes.append(f"{self.name} begin {run.step}/{run.total_steps} of {run.steps_per_epoch}")

    def images(self, run, images, labels):
        self.notes.append(f"{self.name} images {len(images)}")
        return images + 1  # the next hook, and the network, see it

    def loss(self, run, loss, logits, labels):
        self.notes.append(f"{self.name} loss {run.step}")
        return 2 * loss

    def step(self, run):
        self.notes.append(f"{self.name} step {run.step}")

    def end(self, run):
        self.notes.append(f"{self.name} end {run.epoch}")


def whole(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """A history without what two runs cannot share."""
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in history]


def write_config(folder: Path, **scales: Any) -> None:
    """Write <folder>/<scale>.yaml: a mapping as YAML, a string as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for scale, content in scales.items():
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        (folder / f"{scale}.yaml").write_text(text)


def places(monkeypatch: Any, folder: Path) -> None:
    """Configuration, cache and results below one folder."""
    for name in ("config", "cache", "results"):
        monkeypatch.setenv(f"NEURONS_{name.upper()}", str(folder / name))
