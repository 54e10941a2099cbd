"""The inputs of the detection study: clean training and test images, adversarials, and their features by method.

All of it is made anew from networks and adversarial sets that are cached, once a process; what the study finds is kept
by `evaluate_detection`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from lib import attacks, config, data, slicing
from lib.attacks import sets
from lib.data import splits
from lib.detectors import MaxSoftmax, TreeRule
from lib.progress import bar
from lib.slicing.adaptive import watching
from lib.slicing.scores import feature_map
from lib.slicing.study import evaluation

VERSION = 1  # raise it when a change in the detection study's code changes its numbers
MEMORY = 2**28  # bytes that a chunk of slices may take before it is made sparse, or a few numbers

DEFAULTS: dict[str, Any] = {
    "detection_per_class": 1000,  # clean training images a class for the tree
    "tree_seeds": [3, 0, 1, 2, 4],  # the first is the paper's
    "forest_trees": 100,
    "means_per_class": 100,  # clean training images a class for the mean slices
    "fit_per_class": 50,  # others, for the detectors that see clean inputs only
    "signal_images": 300,  # adversarials an attack whose whole slices are taken
    "signal_clean": 1000,  # clean test images whose whole slices are taken
    "signal_reference": "dataset",  # mean that whole slices are taken with, also "predicted"
    "signal_fpr": 0.05,  # clean images that may be flagged in validation
    "signal_trees": 300,
    "noise": [4, 8],  # random signs, in 255ths: perturbed, not adversarial
    "adaptive_images": 200,
    "adaptive_epsilon": 8,  # in 255ths
    "adaptive_steps": 40,
    "adaptive_weights": [0, 0.01, 0.1, 1, 10],
    "adaptive_attack": "rpgd_8",  # what the forest has seen that the adaptive attack must pass
}
"""Settings of `study.nnslicer` that a scale may leave out."""

METHODS: Mapping[str, tuple[str, str]] = {
    "nnslicer": ("nnslicer", "predicted"),
    "nnslicer-dataset": ("nnslicer", "dataset"),
    "effective-path": ("effective-path", "none"),
    "feature-map": ("feature-map", "none"),
}
"""Name -> method and reference for the mean ("predicted": the released code; "dataset": the paper's text)."""


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of the study, with `DEFAULTS` for what it leaves out."""
    return {**DEFAULTS, **evaluation.settings(scale)}


def attack_names(scale: str) -> list[str]:
    """The attacks of a scale's suite, in the paper's order; all where the scale does not say."""
    asked = " ".join(config.load(scale).attacks.get("suite", attacks.SUITE)).split()  # an entry may name several
    return [name for name in attacks.SUITE if name in asked]


@dataclass(frozen=True, eq=False)
class Given:
    """Inputs with what the network makes of them, in float64 as slicing sees them.

    Attributes:
        images: float32 (N, C, H, W) in [0, 1].
        index: (N,) positions in the test set (or the training set) of the images they were made of.
        labels: (N,) true classes.
        predicted: (N,) the network's answers.
        doubt: (N,) scores of max-softmax.
    """

    images: Tensor
    index: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    doubt: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def take(self, chosen: Any) -> Given:
        """Some of them, by positions or a mask."""
        chosen = np.asarray(chosen)
        picked = self.images[torch.from_numpy(chosen)]
        return Given(picked, self.index[chosen], self.labels[chosen], self.predicted[chosen], self.doubt[chosen])


def given(model: nn.Module, images: Tensor, index: Any, labels: Any) -> Given:
    """Inputs with the network's answers, from a forward pass in float64."""
    if not len(images):
        none = np.empty(0, np.int64)
        return Given(images.float(), none, none, none, np.empty(0))
    logits = forward(model, images, double=True)
    return Given(
        images.float(),
        np.asarray(index, np.int64),
        np.asarray(labels, np.int64),
        logits.argmax(1),
        MaxSoftmax().score(logits),
    )


def forward(model: nn.Module, images: Tensor, double: bool = False, layer: str | None = None) -> np.ndarray:
    """Logits of images, or what enters a layer (flattened), as numpy (N, F).

    Args:
        model: evaluation mode.
        images: (N, C, H, W) in [0, 1].
        double: in float64, on a copy of the network.
        layer: dotted name of a module; None: the logits.
    """
    kind = torch.float64 if double else torch.float32
    network = deepcopy(model).double() if double else model
    device = next(network.parameters()).device
    found = []
    with watching(network, [layer] if layer else []) as seen, torch.no_grad():
        for part in images.split(250):
            logits = network(part.to(device, kind))
            found.append((seen[layer] if layer else logits).flatten(1).cpu().numpy())
    return np.concatenate(found) if found else np.empty((0, 0))


def last_linear(model: nn.Module) -> str:
    """Dotted name of the last fully connected layer; what enters it are the penultimate features."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def last_conv(model: nn.Module) -> str:
    """Dotted name of the last convolution that looks at more than one position: the layer whose slice is classified."""
    found = [
        name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no convolution larger than 1x1")
    return found[-1]


@lru_cache(maxsize=2)
def training_inputs(scale: str, seed: int) -> Given:
    """Clean training images that the network classifies correctly, equally from each class as far as there are any.

    The classes take turns, so that a prefix is balanced too.
    """
    chosen = settings(scale)
    model = evaluation.network_of(scale, seed)
    whole = data.load(chosen["data"], "train")
    classes, wanted = len(whole.classes), chosen["detection_per_class"]
    order = splits.stratified(whole.labels.numpy(), len(whole), seed=0)
    counts, parts = np.zeros(classes, int), []
    for start in bar(range(0, len(order), 1000), desc="training images"):
        place = order[start : start + 1000]
        labels = whole.labels.numpy()[place]
        right = forward(model, whole.float(index=torch.from_numpy(place)), double=True).argmax(1) == labels
        place, labels = place[right], labels[right]
        turn = counts[labels] + _occurrence(labels)
        parts.append(place[turn < wanted])
        counts += np.bincount(labels[turn < wanted], minlength=classes)
        if (counts >= wanted).all():
            break
    index = np.concatenate(parts)
    return given(model, whole.float(index=torch.from_numpy(index)), index, whole.labels.numpy()[index])


@lru_cache(maxsize=2)
def test_inputs(scale: str, seed: int) -> dict[str, Given]:
    """Clean test images under "clean", and the adversarials of each attack.

    Adversarials are the set's successes that the network also misclassifies in float64 (those on the boundary itself
    may not be), of images that it classifies correctly there. Clean images are those that the sets started from, once.
    """
    chosen = settings(scale)
    model = evaluation.network_of(scale, seed)
    test = data.load(chosen["data"], "test")
    found: dict[str, Given] = {}
    started: dict[int, None] = {}
    for name in bar(attack_names(scale), desc="adversarials"):
        made = attacks.adversarials(chosen["network"], scale, seed, name=name)
        index, success = (np.asarray(part) for part in (made.index, made.success))
        started |= dict.fromkeys(index.tolist())
        there = given(model, made.images[torch.from_numpy(success)], index[success], np.asarray(made.labels)[success])
        found[name] = there.take(there.predicted != there.labels)
    index = np.array(list(started), np.int64)
    clean = given(model, test.float(index=torch.from_numpy(index)), index, test.labels.numpy()[index])
    clean = clean.take(clean.predicted == clean.labels)
    return {"clean": clean, **{name: part.take(np.isin(part.index, clean.index)) for name, part in found.items()}}


def counterparts(clean: Given, adversarial: Given) -> np.ndarray:
    """Positions in `clean` of the images that the adversarials were made of, in their order."""
    place = {image: position for position, image in enumerate(clean.index.tolist())}
    return np.array([place[image] for image in adversarial.index.tolist()], np.int64)


def vectors(name: str, scale: str, seed: int) -> Callable[[Tensor], Any]:
    """The features of a method: images (N, C, H, W) -> (N, F).

    NNSlicer and EffectivePath: contributions of the last 3x3 convolution's synapses, sparse CSR of small whole numbers;
    FeatureMap: float32, dense.

    Args:
        name: one of `METHODS`.
    """
    method, reference = METHODS[name]
    model = evaluation.network_of(scale, seed)
    if method == "feature-map":
        return lambda images: feature_map(model, images).numpy()
    layer = last_conv(model)
    if method == "effective-path":
        rule: Any = slicing.EffectivePath()
    else:
        rule = slicing.NNSlicer(evaluation.profile_of(scale, seed), reference=reference)
    return lambda images: sparse.vstack(
        [part.sparse(layer) for part in slicing.slices_by_chunk(model, images, rule, [layer], memory=MEMORY)],
        format="csr",
    )


@lru_cache(maxsize=1)
def training_vectors(name: str, scale: str, seed: int) -> Any:
    """The features of one method of `METHODS` for the images that its trees are trained on."""
    train = vectors(name, scale, seed)(training_inputs(scale, seed).images)
    return train.tocsc() if sparse.issparse(train) else train


@lru_cache(maxsize=1)
def tested_vectors(name: str, scale: str, seed: int) -> Mapping[str, Any]:
    """The features of one method of `METHODS` for clean test images, under "clean", and each attack's adversarials."""
    make = vectors(name, scale, seed)
    return {key: make(part.images) for key, part in bar(test_inputs(scale, seed).items(), desc=name) if len(part)}


@lru_cache(maxsize=64)
def fitted(name: str, kind: str, tree_seed: int, scale: str, seed: int) -> TreeRule:
    """The tree or forest of a method of `METHODS`, trained on the clean training images."""
    more = {"n_estimators": settings(scale)["forest_trees"]} if kind == "forest" else {}
    clean = training_inputs(scale, seed)
    return TreeRule(kind, tree_seed, **more).fit(training_vectors(name, scale, seed), clean.predicted)


def attack_settings(scale: str) -> dict[str, Any]:
    """What the adversarial sets of a scale are made with: part of the address of whatever rests on them."""
    plans = {name: attacks.plan(name, scale) for name in attack_names(scale)}
    made = {name: {"images": plan.images, "parameters": dict(plan.parameters)} for name, plan in plans.items()}
    return {"version": sets.VERSION, **made}


def images_key(scale: str) -> dict[str, Any]:
    """The data, and the settings that choose the clean training images: part of every address."""
    chosen = settings(scale)
    keys = {split: data.load(chosen["data"], split).fingerprint for split in ("train", "test")}
    about = {name: chosen[name] for name in ("detection_per_class", "profile_per_class")}
    return {**keys, **about, "slices": evaluation.VERSION, "attacks": attack_settings(scale)}


def _occurrence(labels: np.ndarray) -> np.ndarray:
    """How many times each label was there before, as [5, 5, 3, 5] -> [0, 1, 0, 2]."""
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], labels[order])
    result = np.empty(len(labels), int)
    result[order] = np.arange(len(labels)) - first
    return result
