"""What slices do tell: similarity and activity, and forests on them within one attack and across attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import cache, config, data, evaluations, slicing, store, zoo
from lib.detectors import LID, BinaryForest, KernelDensity, Mahalanobis, choose_bandwidth
from lib.progress import bar
from lib.slicing import detection
from lib.slicing.study import evaluation
from lib.slicing.study.detection_inputs import (
    MEMORY,
    VERSION,
    Given,
    attack_names,
    forward,
    given,
    images_key,
    last_linear,
    settings,
    test_inputs,
    training_inputs,
)

SLICE_KEYS = ("means_per_class", "fit_per_class", "signal_images", "signal_clean", "signal_reference", "noise")
SIGNAL_KEYS = (*SLICE_KEYS, "signal_fpr", "signal_trees")
Scores = Mapping[str, np.ndarray]


def signals(scale: str, seed: int) -> pd.DataFrame:
    """How well similarity, activity, forests on both, and the yardsticks tell each attack's inputs from clean ones.

    Thresholds come from clean images of the validation part; what is reported is of the test part alone.

    Args:
        scale, seed: of the network.
    Returns: one row a detector, what it was trained on, and an attack: detector, trained_on ("clean", an attack, "all
        attacks", or "other families": all but the attack's own family), attack ("noise_8": clean images with random
        signs of 8/255, still classified correctly), auroc, recall, fpr, precision, f1, n (adversarials).
    """
    chosen = settings(scale)
    key = {name: chosen[name] for name in SIGNAL_KEYS} | images_key(scale)
    return evaluations.kept(
        "nnslicer-signals", chosen["network"], scale, seed, key, lambda: _signals(scale, seed), VERSION
    )


# --- whole slices, reduced to a few numbers a layer


@lru_cache(maxsize=1)
def signal_inputs(scale: str, seed: int) -> dict[str, Given]:
    """The inputs whose whole slices are taken: clean, each attack's, and the noise controls'."""
    chosen, inputs = settings(scale), test_inputs(scale, seed)
    clean = inputs["clean"].take(np.arange(min(chosen["signal_clean"], len(inputs["clean"]))))
    found = {"clean": clean}
    for name in attack_names(scale):
        part = inputs[name].take(np.isin(inputs[name].index, clean.index))
        found[name] = part.take(np.arange(min(chosen["signal_images"], len(part))))
    model, some = evaluation.network_of(scale, seed), clean.take(np.arange(min(chosen["signal_images"], len(clean))))
    for size in chosen["noise"]:
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, some.images.shape, generator=generator) * 2 - 1
        noisy = given(model, (some.images + signs * size / 255).clamp(0, 1), some.index, some.labels)
        found[f"noise_{size:g}"] = noisy.take(noisy.predicted == noisy.labels)
    return found


def fit_inputs(scale: str, seed: int) -> tuple[Given, Given]:
    """Clean training images for the mean slices, and others for the detectors fitted on clean inputs alone."""
    chosen, clean = settings(scale), training_inputs(scale, seed)
    turn = pd.Series(clean.labels).groupby(clean.labels).cumcount().to_numpy()
    first, both = chosen["means_per_class"], chosen["means_per_class"] + chosen["fit_per_class"]
    return clean.take(turn < first), clean.take((turn >= first) & (turn < both))


@lru_cache(maxsize=1)
def class_means(scale: str, seed: int) -> detection.ClassMeans:
    """Mean slices of the classes, whole network."""
    clean, _ = fit_inputs(scale, seed)
    means = detection.ClassMeans(len(data.load(settings(scale)["data"], "test").classes))
    start = 0
    for part in _slices(clean.images, scale, seed):
        means.add({layer: value.numpy() for layer, value in part.synapses.items()}, clean.labels[start:][: len(part)])
        start += len(part)
    return means


def describe(images: Tensor, scale: str, seed: int) -> pd.DataFrame:
    """Similarity and activity of the whole slices of images (N, C, H, W), as `detection.describe` gives them."""
    means, parts = class_means(scale, seed), []
    for part in _slices(images, scale, seed):
        synapses = {layer: value.numpy() for layer, value in part.synapses.items()}
        neurons = {layer: part.neurons[layer].numpy() for layer in synapses}
        parts.append(detection.describe(synapses, neurons, part.predicted.numpy(), means))
    return pd.concat(parts, ignore_index=True)


def _slices(images: Tensor, scale: str, seed: int) -> Any:
    model = evaluation.network_of(scale, seed)
    rule = slicing.NNSlicer(evaluation.profile_of(scale, seed), reference=settings(scale)["signal_reference"])
    return slicing.slices_by_chunk(model, images, rule, memory=MEMORY)


def described(name: str, scale: str, seed: int) -> pd.DataFrame:
    """`describe` of the inputs of `signal_inputs` by name, or of "fit", the clean training ones; kept in the cache."""
    chosen = settings(scale)
    inputs = fit_inputs(scale, seed)[1] if name == "fit" else signal_inputs(scale, seed)[name]

    def make() -> dict[str, Any]:
        frame = describe(inputs.images, scale, seed) if len(inputs) else pd.DataFrame()
        return {"columns": list(frame), "rows": frame.round(9).to_numpy().tolist()}

    key = {
        "version": VERSION,
        "weights": zoo.card(chosen["network"], scale, seed)["weights"],
        "seed": seed,
        "inputs": name,
        "index": store.fingerprint(inputs.index.tolist()),  # sets made anew elsewhere may hold other images
        **{name: chosen[name] for name in SLICE_KEYS},
        **images_key(scale),
    }
    found = cache.get("detection", key, make, folder=config.cache_dir(scale) / "slices")
    return pd.DataFrame(found["rows"], columns=found["columns"])


# --- detectors


class Detectors:
    """The detectors fitted for one network: on clean training images, and forests on the fit part of the test images.

    Args:
        scale, seed: of the network.
    """

    def __init__(self, scale: str, seed: int) -> None:
        self.scale, self.seed, self.trees = scale, seed, settings(scale)["signal_trees"]
        self.model: nn.Module = evaluation.network_of(scale, seed)
        self.inputs = signal_inputs(scale, seed)
        self.clean = self.inputs["clean"]
        self.parts = detection.split_images(self.clean.index, self.clean.labels)
        self.frames = {
            name: described(name, scale, seed) for name, part in bar(self.inputs.items(), desc="slices") if len(part)
        }
        self.attacks = [name for name in attack_names(scale) if len(self.inputs[name])]
        self._fit_on_clean()

    def _fit_on_clean(self) -> None:
        frame, (_, fit) = described("fit", self.scale, self.seed), fit_inputs(self.scale, self.seed)
        self.distances: dict[str, Callable[[pd.DataFrame], np.ndarray]] = {}
        groups = {"activity": detection.ACTIVITY, "similarity and activity": detection.SIMILARITY + detection.ACTIVITY}
        for name, measures in groups.items():
            values = detection.columns_of(frame, measures)
            middle, spread = values.mean(0), values.std(0)
            usable = spread > 0
            fitted = Mahalanobis(0.05).fit((values - middle)[:, usable] / spread[usable], fit.predicted)
            self.distances[name] = _standardised(fitted, measures, middle, spread, usable)
        self.layer = last_linear(self.model)
        clean = training_inputs(self.scale, self.seed)
        features = forward(self.model, clean.images, layer=self.layer)
        self.mahalanobis = Mahalanobis(0.01).fit(features, clean.predicted)
        first, second = (slice(start, min(len(clean), 4000), 2) for start in (0, 1))
        bandwidth = choose_bandwidth(features[first], clean.predicted[first], features[second], clean.predicted[second])
        self.density = KernelDensity(bandwidth).fit(features, clean.predicted)
        self.lid = LID(min(20, len(clean) // 5), seed=self.seed).fit({self.layer: features})

    def on_clean(self, inputs: Given, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Scores of the detectors that have seen clean inputs only."""
        features = forward(self.model, inputs.images, layer=self.layer)
        return {
            "max-softmax": inputs.doubt,
            "similarity": 1 - detection.columns_of(frame, ("similarity",)).mean(1),
            **{name: distance(frame) for name, distance in self.distances.items()},
            "Mahalanobis, last layer": self.mahalanobis.score(features),
            "kernel density, last layer": self.density.score(features, inputs.predicted),
            "LID, last layer": self.lid.score({self.layer: features}),
        }

    def as_inputs(self, name: str) -> detection.Inputs:
        """What a forest sees of the inputs of a name."""
        return detection.Inputs(self.inputs[name].index, forest_features(self.frames[name]))

    def forests(self, train_on: Mapping[str, Sequence[str]]) -> dict[str, BinaryForest]:
        """Forests on similarity and activity, by what they have seen."""
        attacked = {name: self.as_inputs(name) for name in self.attacks}
        return detection.forests(self.as_inputs("clean"), attacked, self.parts, train_on, self.seed, self.trees)

    def all_scores(self, forest: BinaryForest) -> dict[str, np.ndarray]:
        """A forest's scores of all inputs, by name: asked once, as each question has a cost of its own."""
        scores = forest.score(np.concatenate([forest_features(frame) for frame in self.frames.values()]))
        ends = np.cumsum([len(frame) for frame in self.frames.values()])
        return dict(zip(self.frames, np.split(scores, ends[:-1]), strict=True))

    def part(self, name: str, part: str) -> np.ndarray:
        """Which inputs of a name belong to a part of the images, bool (N,)."""
        return np.isin(self.inputs[name].index, self.parts[part])


def forest_features(frame: pd.DataFrame) -> np.ndarray:
    """Similarity and activity of every layer, float64 (N, F)."""
    return detection.columns_of(frame, detection.SIMILARITY + detection.ACTIVITY)


def family(attack: str) -> str:
    """Attacks that differ in strength or norm only are one family: fgsm_2 and fgsm_8, deepfool_l2 and deepfool_linf."""
    return attack.partition("_")[0]


@lru_cache(maxsize=1)
def detectors_of(scale: str, seed: int) -> Detectors:
    """The fitted detectors, once a process."""
    return Detectors(scale, seed)


def _signals(scale: str, seed: int) -> pd.DataFrame:
    fitted, fpr = detectors_of(scale, seed), settings(scale)["signal_fpr"]
    rows: list[dict[str, Any]] = []
    clean = {part: fitted.part("clean", part) for part in ("validation", "test")}
    tested = {name: fitted.part(name, "test") for name in fitted.frames if name != "clean"}
    tested = {name: part for name, part in tested.items() if part.any()}

    def report(detector: str, trained_on: str, scores: Scores, names: Sequence[str]) -> None:
        for name in names:
            found = detection.reading(
                scores[name][tested[name]], scores["clean"][clean["test"]], scores["clean"][clean["validation"]], fpr
            )
            rows.append({"detector": detector, "trained_on": trained_on, "attack": name, **found})

    by_name = {name: fitted.on_clean(fitted.inputs[name], frame) for name, frame in fitted.frames.items()}
    for detector in by_name["clean"]:
        report(detector, "clean", {name: scores[detector] for name, scores in by_name.items()}, list(tested))
    attacks = [name for name in fitted.attacks if name in tested]
    train_on = {name: [name] for name in attacks} | {"all attacks": attacks}
    without = {kind: [name for name in attacks if family(name) != kind] for kind in {family(name) for name in attacks}}
    without = {kind: names for kind, names in sorted(without.items()) if names}
    for trained_on, forest in bar(fitted.forests(train_on).items(), desc="forests"):
        report("forest", trained_on, fitted.all_scores(forest), list(tested))
    for kind, forest in fitted.forests(without).items():
        names = [name for name in attacks if family(name) == kind]
        report("forest", "other families", fitted.all_scores(forest), names)
    return pd.DataFrame(rows)


def _standardised(
    fitted: Mahalanobis, measures: Sequence[str], middle: np.ndarray, spread: np.ndarray, usable: np.ndarray
) -> Callable[[pd.DataFrame], np.ndarray]:
    return lambda frame: fitted.score((detection.columns_of(frame, measures) - middle)[:, usable] / spread[usable])
