"""What the studies of general defects share: their settings, their network, and the inputs that it gets wrong.

The test set is parted in two halves, class by class. On the first, errors are located and repairs made and chosen;
the second is only ever reported on. M_test1 and M_test2 are what the network gets wrong in each.

Source: AI-Lancet, section on the set-up of general defects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import config, data, evaluations, zoo
from lib.compute import evaluation
from lib.data import ImageSet, splits
from lib.lancet.errors import LancetError
from lib.lancet.measures import predictions
from lib.lancet.study import settings as shared

DEFAULTS: dict[str, Any] = {
    "defect_seeds": None,
    "defect_network": "nnslicer-resnet10",
    "defect_test_images": None,
    "defect_pretrained": [],
    "defect_pretrained_options": {},
    "defect_layers": None,
    "defect_pairs": 200,
    "defect_share": 0.1,
    "defect_copies": 4,
    "defect_similar": 5000,
    "defect_old": 1000,
    "defect_epochs": 10,
    "defect_batch": 64,
    "defect_rates": [1e-4, 1e-3, 1e-2],
    "defect_reference_seed": 1,
    "companion_images": 200,
    "companion_steps": 150,
    "explained_images": 100,
    "explained_blurs": [1, 2, 4, 8],
    "explained_pictures": 4,
    "visualisation_steps": 256,
}
"""Settings that a scale may leave out.

defect_seeds: of these three studies (None: those of study.lancet); defect_network: a clean network of the scale;
defect_test_images: how many of its test set are parted (None: all); defect_pretrained: networks of
`pretrained.NETWORKS` beside it; defect_pretrained_options: what is other for them, among pairs, steps, epochs, ...;
defect_layers: how many of their last layers are looked at (None: all); defect_pairs: wrong inputs that votes come
from; defect_share: most of a layer's weights that are tuned, those with the most votes; defect_copies: transforms of
each pair's input in N_e; defect_similar: most samples in N_e by similar error-inducing neurons; defect_old: samples
N_o; defect_rates: learning rates, of which each method's is chosen on the first half; defect_reference_seed: of a
network of the same recipe to compare with; companion_images, explained_images: wrong inputs behind those figures;
explained_blurs: sigmas in pixels of a 32-pixel side; explained_pictures: classes that are visualised.
"""


@dataclass(frozen=True, eq=False)
class Half:
    """Half of the test set as a network sees it.

    Attributes:
        images: the half.
        predicted: int64 (N,).
        wrong: bool (N,).
    """

    images: ImageSet
    predicted: Tensor
    wrong: Tensor

    @property
    def accuracy(self) -> float:
        """Share that the network gets right."""
        return 1 - self.wrong.float().mean().item()

    def places(self, count: int | None = None) -> Tensor:
        """Where the first `count` wrong inputs are, the classes taking turns (None: all), int64 (n,).

        Raises: LancetError where the network makes no error.
        """
        places = torch.nonzero(self.wrong).flatten()
        if not len(places):
            raise LancetError(
                f"the network makes no error on the {len(self.images):,} images of {self.images.name} it was given: "
                "there is nothing to locate, and it is left as it is"
            )
        if count is not None and count < len(places):
            places = places[torch.from_numpy(splits.stratified(self.images.labels[places].numpy(), count, 0))]
        return places

    def misclassified(self, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The wrong inputs at `places`.

        Returns: images float32 (n, C, H, W), true labels (n,), what the network takes them for (n,).
        Raises: LancetError where the network makes no error.
        """
        places = self.places(count)
        return self.images.float(index=places), self.images.labels[places], self.predicted[places]

    def right(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` inputs that it gets right, the classes taking turns: images and labels."""
        places = torch.nonzero(~self.wrong).flatten()
        if count < len(places):
            places = places[torch.from_numpy(splits.stratified(self.images.labels[places].numpy(), count, 0))]
        return self.images.float(index=places), self.images.labels[places]


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this study, with `DEFAULTS` for what it leaves out."""
    return {**DEFAULTS, **config.flat(scale, "lancet")}


def seeds_of(scale: str, seeds: Sequence[int] | int | None = None) -> list[int]:
    """The seeds given, else those of these three studies."""
    return shared.seeds_of(scale, "defects", seeds)


def seeds_for(scale: str, seed: int) -> list[int]:
    """The seeds of these studies that a node of the graph computes."""
    return shared.seeds_for(scale, "defects", seed)


def network_of(scale: str, seed: int) -> nn.Module:
    """The study's network, in evaluation mode."""
    return zoo.get(settings(scale)["defect_network"], scale, seed)


def data_of(scale: str) -> str:
    """Name of the data set of the study's network."""
    return config.load(scale).recipe(settings(scale)["defect_network"]).data


@lru_cache(maxsize=4)
def halves_of(name: str, count: int | None) -> tuple[ImageSet, ImageSet]:
    """test1 and test2: two halves of a test set, the same for every network.

    Args:
        name: of the data set.
        count: how many test images are parted; None: all.
    """
    test = data.load(name, "test")
    test = test if count is None or count >= len(test) else test.stratified(count, seed=0)
    return halved(test)


def halved(
    images: ImageSet, share: float = 0.5, names: tuple[str, str] = ("test1", "test2")
) -> tuple[ImageSet, ImageSet]:
    """Two parts of a set, class by class; where classes have one image each, image by image.

    Args:
        share: of the second part.
        names: of the parts.
    """
    labels = images.labels.numpy()
    if np.bincount(labels).max() < 2:
        order, cut = np.random.RandomState(0).permutation(len(labels)), round(len(labels) * (1 - share))
        first, second = np.sort(order[:cut]), np.sort(order[cut:])
    else:
        first, second = splits.partition(labels, share)
    return images.part(first, names[0]), images.part(second, names[1])


def half_of(model: nn.Module, images: ImageSet) -> Half:
    """A half with what a network makes of it."""
    predicted = predictions(model, images)
    return Half(images, predicted, predicted != images.labels)


def logits_of(model: nn.Module, images: ImageSet | Tensor, batch: int = 256) -> Tensor:
    """Logits, float32 (N, classes) on the CPU; images in [0, 1] or an image set, read a batch at a time."""
    like = next(model.parameters(), torch.empty(0))
    found = []
    with evaluation(model), torch.no_grad():
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            x = images.float(like.device, part) if isinstance(images, ImageSet) else images[part].to(like.device)
            found.append(model(x).float().cpu())
    return torch.cat(found)


def write(
    item: str,
    scale: str,
    seeds: Sequence[int],
    numbers: Sequence[Any],
    figure: Any,
    described: Callable[[str], dict[str, Any]],
    fingerprints: Mapping[str, str],
    table: pd.DataFrame,
    drawn: Sequence[pd.DataFrame] = (),
) -> None:
    """Write the record of an item that rests on the study's network and its wrong inputs.

    Args:
        item, scale, seeds, numbers, figure, fingerprints, table, drawn: as `evaluations.write` takes them.
        described: a scale's settings by the words that describe them, but for data set and seeds.
    """
    used, full = ({"data set": data_of(name), **described(name)} for name in (scale, "paper"))
    full = {"seeds": seeds_of("paper"), **full}
    network = settings(scale)["defect_network"]
    evaluations.write(item, scale, seeds, [network], numbers, figure, used, full, fingerprints, table, drawn=drawn)
