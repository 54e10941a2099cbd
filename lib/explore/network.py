"""A network, trained at a scale or the reader's own, and the images to choose from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lib import cache, compute, config, data, zoo
from lib.attacks.goal import device_of, predictions
from lib.data import splits
from lib.experiments import lcs_decisions
from lib.lancet.backdoors.attack import FOLDER, of_network
from lib.lancet.backdoors.attack import Attack as Backdoor
from lib.slicing.profiling import CODEC, NeuronProfile, profile

IMAGES = 1000
"""Test images to choose from, the first of the set, class by class in turn; fewer where it has fewer."""

KINDS = RIGHT, WRONG, OWN = "classified correctly", "classified wrongly", "your own"
"""Which images are offered."""

MINE = -1
"""Position of the reader's own image."""

PROFILED = 100
"""Training images a class, at most, behind the mean values that slices compare with. NNSlicer takes 1,000."""

NETWORKS = ("nnslicer-resnet10", "resnet18-b128", "resnet18-b128-adversarial", "alexnet-b128")
"""Networks that can be sliced and located in, where a scale has them."""


BATCH = 250  # images classified at a time


class ExploreError(ValueError):
    """A network, image, layer or strength that does not exist here; the message says which do."""


@dataclass(frozen=True, eq=False)
class Network:
    """A network and the images to choose from.

    Attributes:
        scale, name, seed: as in `zoo.get`; the seed is also that of attacks that draw.
        model: in evaluation mode, input in [0, 1].
        weights: SHA-256 of its weights.
        test: the whole test set.
        index: int64 (N,), positions in it of the images to choose from, classes in turn.
        predicted: int64 (N,), the class that the network gives to each of them.
        backdoor: trigger and target, where the network was trained with one.
        own: an image of the reader's, float32 (C, H, W) in [0, 1], and its class.
    """

    scale: str
    name: str
    seed: int
    model: nn.Module
    weights: str
    test: data.ImageSet
    index: Tensor
    predicted: Tensor
    backdoor: Backdoor | None = None
    own: tuple[Tensor, int] | None = None

    @property
    def right(self) -> Tensor:
        """Whether the network classifies each image to choose from correctly, bool (N,)."""
        return self.predicted == self.test.labels[self.index]

    def position(self, image: int) -> int:
        """Position in the test set of the image with a number from 0, of those that the network classifies correctly.

        Raises: ExploreError where there is none.
        """
        found = self.index[self.right]
        if not 0 <= image < len(found):
            raise ExploreError(f"image {image}: a number from 0 to {len(found) - 1}, the images to choose from")
        return int(found[image])

    def positions(self, label: int, kind: str = RIGHT) -> list[int]:
        """Positions of the images of a class to choose from, of one of `KINDS`."""
        if kind == OWN:
            return [MINE] if self.own and self.own[1] == label else []
        chosen = (self.test.labels[self.index] == label) & (self.right == (kind == RIGHT))
        return self.index[chosen].tolist()

    def image(self, position: int) -> tuple[Tensor, int]:
        """An image, float32 (C, H, W) in [0, 1] on the CPU, and its class."""
        if position == MINE and self.own:
            return self.own
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
    recipes = config.load(scale).networks
    known = [name for name in NETWORKS if name in recipes]
    if not known:
        raise ExploreError(f"config/{scale}.yaml has none of the networks {', '.join(NETWORKS)}: add one of them")
    known += [name for name, recipe in recipes.items() if _poisoned(recipe)]
    return [name for name in known if name == known[0] or on_disk(name, scale, seed)]


def on_disk(name: str, scale: str, seed: int) -> bool:
    """Whether weights of that name are there, of any recipe; no data are read, unlike by `zoo.kept`."""
    shipped = config.results_dir(scale) / "networks" / f"{name}-seed{seed}.safetensors"
    made = (config.cache_dir(scale) / "networks").glob(f"{name}-seed{seed}-*/weights.safetensors")
    return shipped.exists() or any(made)


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
    model, recipe = zoo.get(name, scale, seed), config.load(scale).recipe(name)
    backdoor = of_network(name, scale, seed) if _poisoned(recipe) else None
    return of_model(model, zoo.card(name, scale, seed)["weights"], recipe.data, scale, name, seed, backdoor)


def of_model(
    model: nn.Module, weights: str, images: str, scale: str, name: str, seed: int = 0, backdoor: Backdoor | None = None
) -> Network:
    """Any network with the test images of a data set; what it takes them for is kept in the cache.

    Args:
        model: in evaluation mode, from images of the set in [0, 1] to logits of its classes.
        weights: SHA-256 of its weights.
        images: name of the data set.
        scale, name, seed, backdoor: as `Network` has them.
    """
    test = data.load(images, "test")
    index = torch.from_numpy(splits.stratified(test.labels.numpy(), min(IMAGES, len(test)), seed=0))
    key, folder = {"weights": weights, "images": test.fingerprint, "count": len(index)}, config.cache_dir(scale)
    predicted = cache.get("explore", key, lambda: predicted_of(model, test, index).tolist(), folder=folder / "explore")
    return Network(scale, name, seed, model, weights, test, index, torch.tensor(predicted), backdoor)


def predicted_of(model: nn.Module, images: data.ImageSet, index: Tensor) -> Tensor:
    """The class that a network gives to images of a set, int64 (N,)."""
    with compute.evaluation(model), torch.no_grad():
        return torch.cat([predictions(model, images.float(index=rows)) for rows in index.split(BATCH)])


def _poisoned(recipe: config.Recipe) -> bool:
    return any(plug["use"].startswith(FOLDER) for plug in recipe.prepare)


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
