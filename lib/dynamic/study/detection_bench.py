"""Clean images, adversarials and noise of one network, split in two, and the detectors fitted on the first half."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import data
from lib.data import ImageSet, splits
from lib.detectors import (
    LID,
    BinaryForest,
    KernelDensity,
    LayerRegression,
    Mahalanobis,
    MaxSoftmax,
    auroc,
    auroc_interval,
    choose_bandwidth,
)
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.dynamic.study.decision_inputs import (
    Seen,
    attack_key,
    attacked,
    data_of,
    images_of,
    network_of,
    noise_like,
    see,
    settings,
    untrained_feature,
)
from lib.models.resnet import PaddedShortcut

CLEAN, NOISE = "clean", "noise:"  # kinds of inputs: clean, an attack, noise of the size of an attack's perturbations
ON_CLEAN = "clean images"  # what a detector without adversarials was fitted on
DECISIONS, UNTRAINED, PENULTIMATE = "decision feature", "decision feature, untrained units", "penultimate features"
NOISE_SHOWN = "decision feature, noise shown"  # fitted on clean images and noise on one side
PAIRS = ("adversarial against clean", "noise against clean", "adversarial against noise")
Scorer = Callable[[Seen], np.ndarray]
_OF_FIT = ("detection_images", "detection_fit", "detection_trees", "detection_attacks")


@dataclass(frozen=True, eq=False)
class Material:
    """What another method's detector is given.

    Attributes:
        network: with decision units; its masks change from image to image.
        static: an ordinary network, its masks fixed to the row that most clean images take, folded into the weights:
            what can be traced or sliced.
        train: training images.
        images: kind of inputs -> (N, C, H, W) in [0, 1].
    """

    network: LayerwiseChannelSelection
    static: nn.Module
    train: ImageSet
    images: Mapping[str, Tensor]


def folded(network: LayerwiseChannelSelection, masks: Mapping[str, Tensor]) -> nn.Module:
    """An ordinary network that computes what the one with units does under fixed masks.

    Args:
        network: in evaluation mode.
        masks: layer -> (C_out,).
    Returns: a copy of the wrapped network; a mask multiplies weight and bias of the normalisation that it follows, and
        a shortcut padded with zeros is a 1x1 convolution with ones for its weights, which graph readers know.
    """
    plain = network.plain()
    for name, shortcut in list(plain.named_modules()):
        if isinstance(shortcut, PaddedShortcut):
            width = plain.get_submodule(name.rpartition(".")[0]).get_submodule("conv1").in_channels
            plain.set_submodule(name, _as_convolution(shortcut, int(width)).to(network.device))  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in network.layers:
            for parameter in plain.get_submodule(network.wires[layer].norm).parameters():  # weight and bias
                parameter.mul_(masks[layer].to(parameter))
    return plain.eval()


def _as_convolution(shortcut: PaddedShortcut, inputs: int) -> nn.Conv2d:
    made = nn.Conv2d(inputs, shortcut.before + inputs + shortcut.after, 1, shortcut.stride, bias=False)
    with torch.no_grad():
        made.weight.zero_()
        made.weight[shortcut.before : shortcut.before + inputs, :, 0, 0] = torch.eye(inputs)
    return made


class Bench:
    """What one network makes of clean images, adversarials and noise, and the detectors fitted on the first half.

    Args:
        scale, seed, name: of the network.

    Attributes:
        network: the network.
        attacks: those with a success in both halves.
        images, seen, index: kind of inputs -> images, what the network makes of them, positions in the test set.
        halves: "fit", "test" -> positions in the test set.
    Raises: DynamicError where no attack has two successes in both halves.
    """

    def __init__(self, scale: str, seed: int, name: str) -> None:
        self.scale, self.seed, self.name, self.chosen = scale, seed, name, settings(scale)
        self.network = network_of(scale, seed, name)
        index, sets = attacked(scale, seed, name, self.chosen["detection_attacks"], self.chosen["detection_images"])
        test = data.load(data_of(scale, name), "test")
        self.images: dict[str, Tensor] = {CLEAN: test.float(index=index)}
        self.index: dict[str, np.ndarray] = {CLEAN: index.numpy()}
        fit, rest = splits.partition(test.labels[index].numpy(), 0.5, seed=seed)
        self.halves = {"fit": index.numpy()[fit], "test": index.numpy()[rest]}
        for attack, made in sets.items():
            self.images[attack], self.index[attack] = made.images, made.index.numpy()
            noisy = noise_like(test.float(index=made.index), made.images, seed)
            still = (see(self.network, noisy).predicted == made.labels).numpy()
            if still.any():
                self.images[NOISE + attack] = noisy[torch.from_numpy(still)]
                self.index[NOISE + attack] = made.index.numpy()[still]
        self.seen = {kind: see(self.network, images) for kind, images in self.images.items()}
        self.attacks = self._usable(list(sets))

    def _usable(self, attacks: Sequence[str]) -> list[str]:
        found = [attack for attack in attacks if min(self.part(attack, half).sum() for half in self.halves) >= 2]
        if not found:
            raise DynamicError(
                f"no attack has two successes on {self.name} in both halves of the images: attack more images"
            )
        return found

    def first(self, count: int) -> Bench:
        """The same of the first images attacked only, with all that was made of them."""
        some, made = self.index[CLEAN][:count], copy.copy(self)
        rows = {kind: np.isin(index, some) for kind, index in self.index.items()}
        rows = {kind: mask for kind, mask in rows.items() if mask.any()}
        made.images = {kind: self.images[kind][torch.from_numpy(mask)] for kind, mask in rows.items()}
        made.index = {kind: self.index[kind][mask] for kind, mask in rows.items()}
        made.seen = {kind: self.seen[kind].take(mask) for kind, mask in rows.items()}
        made.attacks = made._usable([attack for attack in self.attacks if attack in rows])
        return made

    def part(self, kind: str, half: str) -> np.ndarray:
        """Which inputs of a kind are of a half's images, bool (N,)."""
        return np.isin(self.index[kind], self.halves[half])

    def half(self, kind: str, half: str) -> Seen:
        """What the network makes of the inputs of a kind in a half."""
        return self.seen[kind].take(self.part(kind, half))

    def material(self) -> Material:
        """What another method's detector is given."""
        train = data.load(data_of(self.scale, self.name), "train")
        usual = self.network.frequencies(self.images[CLEAN])
        top = {layer: self.network.unit(layer).masks[usual[layer].argmax()] for layer in self.network.layers}
        return Material(self.network, folded(self.network, top), train, self.images)

    # Detectors

    @cached_property
    def train(self) -> tuple[Seen, np.ndarray]:
        """Clean training images that the network classifies correctly, and their classes."""
        images = images_of(self.scale, self.name, "train", self.chosen["detection_fit"])
        seen = see(self.network, images)
        right = (seen.predicted == images.labels).numpy()
        return seen.take(right), images.labels.numpy()[right]

    def on_clean(self) -> dict[str, Scorer]:
        """Detectors that see clean images only, on logits and penultimate features."""
        seen, labels = self.train
        features = seen.penultimate.numpy()
        mahalanobis = Mahalanobis(0.01).fit(features, labels)
        bandwidth = choose_bandwidth(features[::2], labels[::2], features[1::2], labels[1::2])
        density = KernelDensity(bandwidth).fit(features, labels)
        known = set(labels.tolist())

        def dense(found: Seen) -> np.ndarray:
            # A class without a clean image has no density: as rare as can be.
            predicted = found.predicted.numpy()
            there = np.isin(predicted, list(known))
            scores = np.full(len(predicted), np.inf)
            if there.any():
                scores[there] = density.score(found.penultimate.numpy()[there], predicted[there])
            return np.nan_to_num(scores, posinf=1e300)

        return {
            "max-softmax": lambda found: MaxSoftmax().score(found.logits),
            "Mahalanobis, last layer": lambda found: mahalanobis.score(found.penultimate.numpy()),
            "kernel density": dense,
        }

    @cached_property
    def _by_layer(self) -> tuple[LID, dict[str, Mahalanobis]]:
        """LID and Mahalanobis at every layer, on clean training images."""
        seen, labels = self.train
        layers = _layers(seen)
        lid = LID(min(20, len(labels) // 5), batch=min(500, len(labels)), seed=self.seed).fit(layers)
        return lid, {layer: Mahalanobis(0.01).fit(values, labels) for layer, values in layers.items()}

    def on_attack(self, attack: str) -> dict[str, Scorer]:
        """Detectors fitted on the first half's clean images and an attack's adversarials of it."""
        clean, adversarial = self.half(CLEAN, "fit"), self.half(attack, "fit")
        made = self.fitted(clean, adversarial)
        noise = NOISE + attack
        if noise in self.seen and self.part(noise, "fit").any():
            normal = np.concatenate([clean.feature.numpy(), self.half(noise, "fit").feature.numpy()])
            forest = self.forest(normal, adversarial.feature.numpy())
            if forest is not None:
                made[NOISE_SHOWN] = lambda seen: forest.score(seen.feature.numpy())
        return made

    def fitted(self, clean: Seen, adversarial: Seen) -> dict[str, Scorer]:
        """Detectors fitted on inputs of both kinds: forests, and LID and Mahalanobis regressed over the layers."""
        made: dict[str, Scorer] = {}
        views = {
            DECISIONS: lambda seen: seen.feature.numpy(),
            UNTRAINED: lambda seen: untrained_feature(self.network, seen.pooled, self.seed).numpy(),
            PENULTIMATE: lambda seen: seen.penultimate.numpy(),
        }
        for detector, view in views.items():
            forest = self.forest(view(clean), view(adversarial))
            if forest is not None:
                made[detector] = lambda seen, forest=forest, view=view: forest.score(view(seen))  # type: ignore[misc]
        lid, distances = self._by_layer

        def dimensions(seen: Seen) -> np.ndarray:
            return lid.dimensions(_layers(seen))

        def nearest(seen: Seen) -> np.ndarray:
            layers = _layers(seen)
            return np.stack([one.score(layers[layer]) for layer, one in distances.items()], 1)

        for detector, measure in {"LID": dimensions, "Mahalanobis": nearest}.items():
            regression = LayerRegression().fit(measure(clean), measure(adversarial))
            made[detector] = lambda seen, r=regression, measure=measure: r.score(measure(seen))  # type: ignore[misc]
        return made

    def forest(self, clean: np.ndarray, adversarial: np.ndarray) -> BinaryForest | None:
        """A forest on features of both kinds, classes weighing the same; None with fewer than two of a kind."""
        if min(len(clean), len(adversarial)) < 2:
            return None
        trees = self.chosen["detection_trees"]
        return BinaryForest(self.seed, trees, class_weight="balanced", min_samples_leaf=2).fit(clean, adversarial)

    # Results

    def rows(self, detector: str, trained_on: str, scores: Scorer | Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """A detector on the second half: one row an attack and pair.

        Args:
            scores: of what the network makes of inputs, or of all inputs by kind.
        """

        def of(kind: str) -> np.ndarray:
            if kind not in self.seen or not self.part(kind, "test").any():
                return np.empty(0)
            if callable(scores):
                return scores(self.half(kind, "test"))
            return scores[kind][self.part(kind, "test")]

        clean = of(CLEAN)
        found = []
        for attack in self.attacks:
            adversarial, noise = of(attack), of(NOISE + attack)
            for pair, more, less in zip(PAIRS, (adversarial, noise, adversarial), (clean, clean, noise), strict=True):
                if min(len(more), len(less)) >= 2:
                    told = {"detector": detector, "trained_on": trained_on, "attack": attack, "pair": pair}
                    found.append({**told, **area(more, less)})
        return found


def area(more: np.ndarray, less: np.ndarray) -> dict[str, Any]:
    """Area under the ROC curve of scores of two kinds: auroc, low, high, n, n_other."""
    scores, truth = np.concatenate([more, less]), np.repeat([True, False], [len(more), len(less)])
    low, high = auroc_interval(scores, truth)
    return {"auroc": auroc(scores, truth), "low": low, "high": high, "n": len(more), "n_other": len(less)}


def _layers(seen: Seen) -> dict[str, np.ndarray]:
    """What detectors over layers look at: the pooled input of every unit, and the penultimate features."""
    return {layer: values.numpy() for layer, values in seen.pooled.items()} | {"last": seen.penultimate.numpy()}


@lru_cache(maxsize=1)
def bench_of(scale: str, seed: int, name: str) -> Bench:
    """The bench of one network, once a process."""
    return Bench(scale, seed, name)


def fit_key(scale: str, name: str, attacks: Sequence[str] | None = None) -> dict[str, Any]:
    """What the detectors of a network depend on beside its weights."""
    chosen = settings(scale)
    return {
        **{word: chosen[word] for word in _OF_FIT},
        "train": images_of(scale, name, "train", chosen["detection_fit"]).fingerprint,
        "attacks": attack_key(scale, attacks or chosen["detection_attacks"]),
    }
