"""What is looked at: a trained network of the scale, and test images that it gets right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import attacks, compute, config, data, zoo
from lib.dynamic.study import decision_inputs
from lib.explore.errors import ExploreError
from lib.slicing.graph import SlicingError
from lib.slicing.profiling import NeuronProfile, profile

IMAGES = 60
"""Test images to choose from: the first that the network gets right, class by class in turn."""

PROFILED = 100
"""Training images a class, at most, behind the mean values that slices compare with. NNSlicer takes 1,000."""

NETWORKS = ("nnslicer-resnet10", "resnet18-b128", "resnet18-b128-adversarial", "alexnet-b128")
"""Networks that slices and blame are shown of, where a scale has them."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network and the test images to choose from.

    Attributes:
        scale, name, seed: of the network, as in `zoo.get`.
        model: in evaluation mode, input in [0, 1].
        test: the whole test set.
        index: int64 (N,), positions in it of the images to choose from, classes in turn.
    """

    scale: str
    name: str
    seed: int
    model: nn.Module
    test: data.ImageSet
    index: Tensor

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""
        return self.test.classes

    def of_class(self, label: int) -> list[int]:
        """Those of `index` that are of a class."""
        return self.index[self.test.labels[self.index] == label].tolist()

    def position(self, image: int) -> int:
        """Position in the test set of the image with a number from 0. Raises: ExploreError where there is none."""
        if not 0 <= image < len(self.index):
            raise ExploreError(f"image {image}: a number from 0 to {len(self.index) - 1}, the images to choose from")
        return int(self.index[image])

    def picture(self, position: int) -> tuple[Tensor, int]:
        """An image of the test set, float32 (C, H, W) in [0, 1] on the CPU, and its class."""
        return self.test.float(index=[position])[0], int(self.test.labels[position])

    def peer(self, position: int) -> int | None:
        """Position of another image of the same class that the network gets right; None where there is none."""
        others = [other for other in self.of_class(int(self.test.labels[position])) if other != position]
        return others[0] if others else None


def networks(scale: str, seed: int = 0) -> list[str]:
    """The networks that slices and blame can be shown of now: those trained, or come with the package.

    Args:
        scale: smoke, cpu or paper.
        seed: of the networks.
    Returns: names; the first of `NETWORKS` stands here in any case, and is trained when it is asked for.
    """
    known = [name for name in NETWORKS if name in config.load(scale).networks]
    if not known:
        raise ExploreError(f"config/{scale}.yaml has none of the networks {', '.join(NETWORKS)}: add one of them")
    return [name for name in known if name == known[0] or zoo.kept(name, scale, seed)]


def deciders(scale: str, seed: int = 0) -> list[str]:
    """Networks with layerwise channel selection that are there now, the standardised form first; none where none is."""
    found = [name for name in decision_inputs.networks(scale) if zoo.kept(name, scale, seed)]
    return sorted(found, key=lambda name: ("resnet" not in name, "standardised" not in name))


def subject_of(scale: str, name: str, seed: int = 0) -> Subject:
    """A network of the scale and the images to choose from.

    Args:
        scale: smoke, cpu or paper.
        name: of the network; it is trained where it is not there yet.
        seed: of the network.
    Raises: ConfigError for a network that the scale does not have; DataError where the data are missing.
    """
    model = zoo.get(name, scale, seed)
    test = data.load(config.load(scale).recipe(name).data, "test")
    weights = zoo.card(name, scale, seed)["weights"]
    index = attacks.candidates(model, test, IMAGES, config.cache_dir(scale), weights)
    return Subject(scale, name, seed, model, test, index)


def profile_of(chosen: Subject) -> NeuronProfile:
    """The mean values that the network's slices compare with, kept in the cache.

    Args:
        chosen: of which the network is taken; up to `PROFILED` correctly classified training images a class.
    """
    limit = config.load(chosen.scale).study.get("nnslicer", {}).get("profile_per_class", PROFILED)
    count = min(int(limit), PROFILED)
    weights = zoo.card(chosen.name, chosen.scale, chosen.seed)["weights"].removeprefix("sha256:")[:16]
    path = config.cache_dir(chosen.scale) / "explore" / f"{chosen.name}-{weights}-{count}.safetensors"
    device = compute.device(config.load(chosen.scale).compute.device)
    if path.exists():
        try:
            return NeuronProfile.load(path).to(device)
        except SlicingError:
            path.unlink(missing_ok=True)  # damaged: made anew
    train = data.load(chosen.test.name, "train")
    train = train.stratified(min(len(train), 2 * count * len(train.classes)), seed=0)
    made = profile(chosen.model, train.images, train.labels, len(train.classes), count)
    made.save(path)
    return made


def probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Softmax of a network's logits.

    Args:
        model: left as it is, mode included.
        images: float (N, C, H, W) in [0, 1], on any device.
    Returns: float32 (N, classes) on the CPU.
    """
    on = next(model.parameters(), torch.empty(0)).device
    with compute.evaluation(model), torch.no_grad():
        return model(images.to(on)).float().softmax(1).cpu()
