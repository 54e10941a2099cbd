"""Detectors of adversarials beside each other on one network: fitted on one half of the images, tried on the other.

An image's adversarials and its noisy copy go where it goes. Clean and adversarial images are those that the network
classifies correctly when clean; an attack that failed on an image leaves no adversarial of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.data import splits
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
from lib.dynamic.lcs.features import Seen, see, untrained_feature
from lib.experiments.lcs import LcsRun, Row

CLEAN, NOISE = "clean", "noise:"  # kinds of inputs: clean, an attack, noise of the size of an attack's perturbations
ON_CLEAN = "clean images"  # what a detector without adversarials was fitted on
DECISIONS, UNTRAINED, PENULTIMATE = "decision feature", "decision feature, untrained units", "penultimate features"
NOISE_SHOWN = "decision feature, noise shown"  # fitted on clean images and noise on one side
PAIRS = ("adversarial against clean", "noise against clean", "adversarial against noise")
Scorer = Callable[[Seen], np.ndarray]


class Bench:
    """What one network makes of clean images, adversarials and noise, and the detectors fitted on the first half.

    Args:
        run: of an experiment's seed.
        name: of the network.
        attacks: tried.
        images: attacked that are looked at.
        fit_images: clean training images that detectors are fitted on.
        trees: of a forest.

    Attributes:
        network: the network.
        attacks: those with two successes or more in both halves.
        images, seen, index: kind of inputs -> images, what the network makes of them, positions in the test set.
        halves: "fit", "test" -> positions in the test set.
    Raises: DynamicError where no attack has two successes in both halves.
    """

    def __init__(
        self, run: LcsRun[Any], name: str, attacks: Sequence[str], images: int, fit_images: int, trees: int
    ) -> None:
        self.name, self.seed, self.trees = name, run.seed, trees
        self.network = run.lcs(name)
        self.training = run.images("train", fit_images)
        index, sets = run.attacked(name, attacks, images)
        test = run.images("test")
        self.images: dict[str, Tensor] = {CLEAN: test.float(index=index)}
        self.index: dict[str, np.ndarray] = {CLEAN: index.numpy()}
        fit, rest = splits.partition(test.labels[index].numpy(), 0.5, seed=self.seed)
        self.halves = {"fit": index.numpy()[fit], "test": index.numpy()[rest]}
        for attack, made in sets.items():
            self.images[attack], self.index[attack] = made.images, made.index.numpy()
            noisy = noise_like(test.float(index=made.index), made.images, self.seed)
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

    # Detectors

    @cached_property
    def train(self) -> tuple[Seen, np.ndarray]:
        """Clean training images that the network classifies correctly, and their classes."""
        seen = see(self.network, self.training)
        right = (seen.predicted == self.training.labels).numpy()
        return seen.take(right), self.training.labels.numpy()[right]

    def on_clean(self) -> dict[str, Scorer]:
        """Detectors that see clean images only, on logits and penultimate features."""
        seen, labels = self.train
        features = seen.penultimate.numpy()
        mahalanobis = Mahalanobis(0.01).fit(features, labels)
        known = np.isin(labels[1::2], labels[::2])  # of so few images, a class may be in one half only
        bandwidth = choose_bandwidth(features[::2], labels[::2], features[1::2][known], labels[1::2][known])
        density = KernelDensity(bandwidth).fit(features, labels)

        def dense(found: Seen) -> np.ndarray:
            # A class without a clean image has no density: as rare as can be.
            predicted = found.predicted.numpy()
            there = np.isin(predicted, labels)
            scores = np.full(len(predicted), np.inf)
            if there.any():
                scores[there] = density.score(found.penultimate.numpy()[there], predicted[there])
            return np.nan_to_num(scores, posinf=1e300)

        return {
            "max-softmax": lambda found: MaxSoftmax().score(found.logits),
            "Mahalanobis, last layer": lambda found: mahalanobis.score(found.penultimate.numpy()),
            "kernel density": dense,
        }

    def on_attack(self, attack: str) -> dict[str, Scorer]:
        """Detectors fitted on the first half's clean images and an attack's adversarials of it: forests, and LID and
        Mahalanobis regressed over the layers, as in their papers."""
        clean, adversarial = self.half(CLEAN, "fit"), self.half(attack, "fit")
        made: dict[str, Scorer] = {}
        views: dict[str, Scorer] = {
            DECISIONS: lambda seen: seen.feature.numpy(),
            UNTRAINED: lambda seen: untrained_feature(self.network, seen.pooled, self.seed).numpy(),
            PENULTIMATE: lambda seen: seen.penultimate.numpy(),
        }
        for detector, view in views.items():
            forest = self.forest(view(clean), view(adversarial))
            made[detector] = lambda seen, forest=forest, view=view: forest.score(view(seen))  # type: ignore[misc]
        for detector, measure in self._by_layer.items():
            regression = LayerRegression().fit(measure(clean), measure(adversarial))
            made[detector] = lambda seen, r=regression, measure=measure: r.score(measure(seen))  # type: ignore[misc]
        noise = NOISE + attack
        if noise in self.seen and self.part(noise, "fit").any():
            normal = np.concatenate([clean.feature.numpy(), self.half(noise, "fit").feature.numpy()])
            shown = self.forest(normal, adversarial.feature.numpy())
            made[NOISE_SHOWN] = lambda seen: shown.score(seen.feature.numpy())
        return made

    @cached_property
    def _by_layer(self) -> dict[str, Scorer]:
        """LID and Mahalanobis at every layer, (N, layers) of inputs, on clean training images."""
        seen, labels = self.train
        layers = _layers(seen)
        lid = LID(min(20, len(labels) // 5), batch=min(500, len(labels)), seed=self.seed).fit(layers)
        distances = {layer: Mahalanobis(0.01).fit(values, labels) for layer, values in layers.items()}

        def nearest(found: Seen) -> np.ndarray:
            layers = _layers(found)
            return np.stack([one.score(layers[layer]) for layer, one in distances.items()], 1)

        return {"LID": lambda found: lid.dimensions(_layers(found)), "Mahalanobis": nearest}

    def forest(self, clean: np.ndarray, adversarial: np.ndarray) -> BinaryForest:
        """A forest on features (N, F) of both kinds, which weigh the same."""
        made = BinaryForest(self.seed, self.trees, class_weight="balanced", min_samples_leaf=2)
        return made.fit(clean, adversarial)

    # Results

    def rows(self, detector: str, trained_on: str, scores: Scorer | Mapping[str, np.ndarray]) -> Iterator[Row]:
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
        for attack in self.attacks:
            adversarial, noise = of(attack), of(NOISE + attack)
            for pair, more, less in zip(PAIRS, (adversarial, noise, adversarial), (clean, clean, noise), strict=True):
                if min(len(more), len(less)) >= 2:
                    at = {"detector": detector, "trained_on": trained_on, "attack": attack, "pair": pair}
                    yield {**at, **area(more, less)}


def area(more: np.ndarray, less: np.ndarray) -> Row:
    """Area under the ROC curve of scores of two kinds: auroc, low, high, n, n_other."""
    scores, truth = np.concatenate([more, less]), np.repeat([True, False], [len(more), len(less)])
    low, high = auroc_interval(scores, truth)
    return {"auroc": auroc(scores, truth), "low": low, "high": high, "n": len(more), "n_other": len(less)}


def noise_like(clean: Tensor, adversarial: Tensor, seed: int = 0) -> Tensor:
    """Clean images with random signs added, as far from them in L2 norm as the adversarial ones are.

    Args:
        clean, adversarial: (N, C, H, W) in [0, 1].
        seed: of the signs.
    Returns: (N, C, H, W) in [0, 1]; the signs' size makes up for what the cut to [0, 1] takes off.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, clean.shape, generator=generator) * 2.0 - 1
    wanted = (adversarial - clean).flatten(1).norm(dim=1)
    size = wanted / clean[0].numel() ** 0.5
    for _ in range(10):  # a fixed point: each round brings the norm after the cut nearer to the one wanted
        noisy = (clean + signs * size[:, None, None, None]).clamp(0, 1)
        size = size * wanted / (noisy - clean).flatten(1).norm(dim=1).clamp_min(1e-12)
    return noisy


def _layers(seen: Seen) -> dict[str, np.ndarray]:
    """What detectors over layers look at: the pooled input of every unit, and the penultimate features."""
    return {layer: values.numpy() for layer, values in seen.pooled.items()} | {"last": seen.penultimate.numpy()}
