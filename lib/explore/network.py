"""A trained network of a scale, and the test images to choose from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib import attacks, cache, compute, config, data, zoo
from lib.attacks.goal import device_of
from lib.experiments import lcs_decisions
from lib.slicing.profiling import CODEC, NeuronProfile, profile

IMAGES = 60
"""Test images to choose from: the first that the network classifies correctly, class by class in turn."""

PROFILED = 100
"""Training images a class, at most, behind the mean values that slices compare with. NNSlicer takes 1,000."""

NETWORKS = ("nnslicer-resnet10", "resnet18-b128", "resnet18-b128-adversarial", "alexnet-b128")
"""Networks that can be sliced and located in, where a scale has them."""


class ExploreError(ValueError):
    """A network, image, layer or strength that does not exist here; the message says which do."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network and the test images to choose from.

    Attributes:
        scale, name, seed: as in `zoo.get`; the seed is also that of attacks that draw.
        model: in evaluation mode, input in [0, 1].
        weights: SHA-256 of its weights.
        test: the whole test set.
        index: int64 (N,), positions in it of the images to choose from, classes in turn.
    """

    scale: str
    name: str
    seed: int
    model: nn.Module
    weights: str
    test: data.ImageSet
    index: Tensor

    def position(self, image: int) -> int:
        """Position in the test set of the image with a number from 0. Raises: ExploreError where there is none."""
        if not 0 <= image < len(self.index):
            raise ExploreError(f"image {image}: a number from 0 to {len(self.index) - 1}, the images to choose from")
        return int(self.index[image])

    def positions(self, label: int) -> list[int]:
        """Positions in the test set of the images of a class to choose from."""
        return self.index[self.test.labels[self.index] == label].tolist()

    def image(self, position: int) -> tuple[Tensor, int]:
        """An image of the test set, float32 (C, H, W) in [0, 1] on the CPU, and its class."""
        return self.test.float(index=[position])[0], int(self.test.labels[position])

    def probabilities(self, images: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """The softmax of the logits.

        Args:
            images: float (N, C, H, W) in [0, 1], on any device.
            parameters: some to take in place of the network's own, by dotted name; the network stays as it is.
        Returns: float32 (N, classes) on the CPU.
        """
        with compute.evaluation(self.model), torch.no_grad():
            logits = functional_call(self.model, dict(parameters or {}), (images.to(device_of(self.model)),))
        return logits.float().softmax(1).cpu()


def networks(scale: str, seed: int = 0) -> list[str]:
    """The networks that can be chosen now: those trained, or shipped with the package.

    Args:
        scale: smoke, cpu, gpu or paper.
        seed: of the networks.
    Returns: names; the first of `NETWORKS` is there in any case, and is trained when it is asked for.
    Raises: ExploreError for a scale that has none.
    """
    known = [name for name in NETWORKS if name in config.load(scale).networks]
    if not known:
        raise ExploreError(f"config/{scale}.yaml has none of the networks {', '.join(NETWORKS)}: add one of them")
    return [name for name in known if name == known[0] or zoo.kept(name, scale, seed)]


def dynamic_networks(scale: str, seed: int = 0) -> list[str]:
    """Trained networks with layerwise channel selection, the standardised form first; none where none is trained."""
    found = [name for name in lcs_decisions.Settings.of(scale).networks if zoo.kept(name, scale, seed)]
    return sorted(found, key=lambda name: ("resnet" not in name, "standardised" not in name))


@lru_cache(maxsize=8)
def load(scale: str = "smoke", name: str | None = None, seed: int = 0) -> Network:
    """A network of a scale and the images to choose from; trained where it is not there yet.

    Args:
        scale: smoke, cpu, gpu or paper.
        name: of the network; None: the first of `networks`.
        seed: of the network, and of attacks that draw.
    Raises: ConfigError for a network that the scale does not have; DataError where the data are missing.
    """
    compute.deterministic()
    name = name or networks(scale, seed)[0]
    model = zoo.get(name, scale, seed)
    test = data.load(config.load(scale).recipe(name).data, "test")
    weights = zoo.card(name, scale, seed)["weights"]
    index = attacks.candidates(model, test, IMAGES, config.cache_dir(scale), weights)
    return Network(scale, name, seed, model, weights, test, index)


@lru_cache(maxsize=4)
def profile_of(network: Network) -> NeuronProfile:
    """The mean values that the network's slices compare with, kept in the cache.

    Args:
        network: profiled on up to `PROFILED` correctly classified training images a class of its data set.
    """
    asked = config.load(network.scale).study.get("nnslicer", {}).get("profile_per_class", PROFILED)
    count = min(int(asked), PROFILED)
    weights = network.weights.removeprefix("sha256:")[:16]

    def make() -> NeuronProfile:
        train = data.load(network.test.name, "train")
        train = train.stratified(min(len(train), 2 * count * len(train.classes)), seed=0)
        return profile(network.model, train.images, train.labels, len(train.classes), count)

    folder, name = config.cache_dir(network.scale), f"{network.name}-{weights}-{count}"
    kept = cache.get("explore", {"weights": weights, "count": count}, make, CODEC, folder=folder, name=name)
    return kept.to(device_of(network.model))
