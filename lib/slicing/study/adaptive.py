"""An attack that knows the detector, and how well each detector still does against it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import data, evaluations
from lib.attacks import SUITE
from lib.detectors import auroc
from lib.progress import bar
from lib.slicing import adaptive as attack
from lib.slicing import detection
from lib.slicing.study.detection_inputs import (
    VERSION,
    Given,
    fitted,
    forward,
    given,
    images_key,
    settings,
    training_inputs,
    vectors,
)
from lib.slicing.study.signals import SIGNAL_KEYS, Detectors, describe, detectors_of, forest_features

ADAPTIVE_KEYS = ("adaptive_images", "adaptive_epsilon", "adaptive_steps", "adaptive_weights", "adaptive_attack")
RULE = "tree, the paper's rule"
ANEW = "forest, trained anew"


def adaptive(scale: str, seed: int) -> pd.DataFrame:
    """Detection of an attack that knows the detector, by the weight of its surrogate.

    Args:
        scale, seed: of the network.
    Returns: one row an aim ("mean", "guide"), weight and detector: aim, weight, detector, auroc, recall, fpr, n
        (adversarials of the test part), success (share of images attacked that are adversarial), distance (mean
        surrogate of the adversarials). "forest, trained anew" has seen adversarials of the same attack and weight.
    """
    chosen = settings(scale)
    key = {name: chosen[name] for name in (*SIGNAL_KEYS, *ADAPTIVE_KEYS)} | images_key(scale)
    return evaluations.kept(
        "nnslicer-adaptive", chosen["network"], scale, seed, key, lambda: _adaptive(scale, seed), VERSION
    )


def sliced_layers(model: nn.Module) -> list[str]:
    """Convolutions and fully connected layers but the first, which the image itself enters."""
    kinds = (nn.Conv2d, nn.Linear)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)][1:]


def _adaptive(scale: str, seed: int) -> pd.DataFrame:
    chosen, known = settings(scale), detectors_of(scale, seed)
    model, layers = known.model, sliced_layers(known.model)
    clean = training_inputs(scale, seed)
    classes = len(data.load(chosen["data"], "test").classes)
    usual = attack.activations(model, clean.images, torch.from_numpy(clean.labels), classes, layers)
    # As many images of the test part as of the fit part, whose adversarials train a forest anew.
    half = chosen["adaptive_images"] // 2
    places = [np.flatnonzero(known.part("clean", part))[:half] for part in ("fit", "test")]
    start = known.clean.take(np.concatenate(places))
    logits = forward(model, start.images)
    logits[np.arange(len(start)), start.labels] = -np.inf
    targets = torch.from_numpy(logits.argmax(1))
    guides = _guides(known, clean, start, targets.numpy())
    aims = {"mean": usual.towards_means(targets), "guide": attack.towards_guides(model, guides, layers)}
    watch = _Watch(scale, seed)
    rows: list[dict[str, Any]] = []
    unaware: list[dict[str, Any]] | None = None
    for name, aim in aims.items():
        for weight in bar(chosen["adaptive_weights"], desc=f"adaptive, {name}"):
            found = unaware if not weight else None
            if found is None:
                made = attack.adaptive_pgd(
                    model,
                    start.images,
                    torch.from_numpy(start.labels),
                    targets,
                    aim,
                    usual.spreads,
                    float(weight),
                    chosen["adaptive_epsilon"] / 255,
                    chosen["adaptive_steps"],
                    seed=seed,
                )
                found = watch.rows(start, made)
            unaware = unaware if weight else found  # without a weight the aim plays no part
            rows += [{"aim": name, "weight": float(weight), **row} for row in found]
    return pd.DataFrame(rows)


def _guides(known: Detectors, clean: Given, start: Given, targets: np.ndarray) -> Tensor:
    """For each image the training image of its target class that is nearest in the penultimate features."""
    here = forward(known.model, start.images, layer=known.layer)
    there = forward(known.model, clean.images, layer=known.layer)
    found = np.empty(len(start), int)
    for target in np.unique(targets):
        members, among = np.flatnonzero(targets == target), np.flatnonzero(clean.labels == target)
        distances = ((here[members, None] - there[among][None]) ** 2).sum(-1)
        found[members] = among[distances.argmin(1)]
    return clean.images[torch.from_numpy(found)]


class _Watch:
    """Every detector, with its scores of clean images, ready for one adaptive attack after another.

    Args:
        scale, seed: of the network.
    """

    def __init__(self, scale: str, seed: int) -> None:
        self.scale, self.seed, self.fpr = scale, seed, settings(scale)["signal_fpr"]
        self.known = detectors_of(scale, seed)
        seen = settings(scale)["adaptive_attack"]
        shown = {
            f"forest, trained on {SUITE[seen].label}": [seen],
            "forest, trained on all attacks": self.known.attacks,
        }
        self.forests = self.known.forests(shown if seen in self.known.attacks else {})
        self.validation, self.test = (self.known.part("clean", part) for part in ("validation", "test"))
        self.settled = self._scores(self.known.clean, self.known.frames["clean"])
        self.rule = fitted("nnslicer", "tree", settings(scale)["tree_seeds"][0], scale, seed)
        self.vectors = vectors("nnslicer", scale, seed)
        clean = self.known.clean.take(self.test)
        self.clean_flags = self.rule.flags(self.vectors(clean.images), clean.predicted)

    def _scores(self, inputs: Given, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        shown = forest_features(frame)
        return self.known.on_clean(inputs, frame) | {name: one.score(shown) for name, one in self.forests.items()}

    def rows(self, start: Given, made: tuple[Tensor, Tensor, Tensor]) -> list[dict[str, Any]]:
        """Each detector on the adversarials of the test part: detector, auroc, recall, fpr, n, success, distance.

        Args:
            start: the images attacked.
            made: from `adaptive_pgd`.
        """
        images, success, distance = made
        hit = success.numpy()
        found = given(self.known.model, images[success], start.index[hit], start.labels[hit])
        still = found.predicted != found.labels
        found = found.take(still)
        in_test = np.isin(found.index, self.known.parts["test"])
        if not in_test.any():
            return []
        about = {"success": float(hit.mean()), "distance": float(distance[success].numpy()[still].mean())}
        frame = describe(found.images, self.scale, self.seed)
        scores, settled = self._scores(found, frame), dict(self.settled)
        mine = {"adaptive": detection.Inputs(found.index, forest_features(frame))}
        anew = detection.forests(
            self.known.as_inputs("clean"), mine, self.known.parts, {ANEW: ["adaptive"]}, self.seed, self.known.trees
        )
        for name, forest in anew.items():
            scores[name] = forest.score(forest_features(frame))
            settled[name] = forest.score(forest_features(self.known.frames["clean"]))
        rows = [
            detection.reading(values[in_test], settled[name][self.test], settled[name][self.validation], self.fpr)
            | {"detector": name, **about}
            for name, values in scores.items()
        ]
        return [*rows, {**self._by_the_rule(found.take(in_test)), "detector": RULE, **about}]

    def _by_the_rule(self, found: Given) -> dict[str, Any]:
        flags = self.rule.flags(self.vectors(found.images), found.predicted)
        both = np.concatenate([self.clean_flags, flags])
        area = auroc(both.astype(float), np.repeat([False, True], [len(self.clean_flags), len(flags)]))
        return {"auroc": area, "recall": float(flags.mean()), "fpr": float(self.clean_flags.mean()), "n": len(flags)}
