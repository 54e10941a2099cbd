"""What detection by slices (notebook 13) rests on: its settings, clean and adversarial inputs, and their slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, field_validator
from scipy import sparse
from torch import Tensor, nn

from lib import attacks, config, slicing
from lib.attacks import SUITE, Plan, find, sets
from lib.data import splits
from lib.detectors import MaxSoftmax, TreeRule
from lib.experiments import nnslicer
from lib.experiments.nnslicer import SlicingRun
from lib.experiments.settings import Count, Seed, Share
from lib.progress import bar
from lib.slicing.adaptive import watching
from lib.slicing.detection import MEMORY, ClassMeans, describe_inputs, mean_slices
from lib.slicing.kinds import last_convolution
from lib.slicing.scores import feature_map

METHODS: Mapping[str, tuple[str, str]] = {
    "nnslicer": ("nnslicer", "predicted"),
    "nnslicer-dataset": ("nnslicer", "dataset"),
    "effective-path": ("effective-path", "none"),
    "feature-map": ("feature-map", "none"),
}
"""Name -> method and reference for the mean ("predicted": the released code; "dataset": the paper's text)."""


class Settings(nnslicer.NNSlicer):
    """Settings of the experiment.

    Attributes:
        attacks: names in `lib.attacks.SUITE`; None: those of the scale's suite; the source has all 17.
        reference: mean that whole slices are taken with; the trees are shown with both.
        per_class: clean training images of each class that trees and forests learn from.
        tree_seeds: of the trees; the first is shown attack by attack, the source's is 3.
        forest_trees: of a forest in the tree's place.
        means_per_class, fit_per_class: clean training images of each class for the mean slices, and others for the
            detectors that see clean inputs only.
        signal_images, signal_clean: adversarials of an attack, and clean test images, whose whole slices are taken.
        signal_fpr: share of clean images that may be flagged in validation.
        signal_trees: of the forests on whole slices.
        noise: sizes of random signs, in 255ths: perturbed, not adversarial.
        adaptive_images: of the attack that knows the detector; half of them to fit a forest anew.
        adaptive_epsilon, adaptive_steps: L_inf radius in 255ths, and gradient steps.
        adaptive_weights: of the surrogate, from 0 (an attack that does not know the detector).
        adaptive_attack: what the forest has seen that the adaptive attack must pass.
    """

    section: ClassVar[str] = "detection"

    attacks: tuple[str, ...] | None = Field(None, min_length=1)
    reference: Literal["predicted", "dataset"] = "dataset"
    per_class: Count = Field(1000, title="training images a class for the trees")
    tree_seeds: tuple[Seed, ...] = Field((3, 0, 1, 2, 4), min_length=1, title="tree seeds")
    forest_trees: Count = 100
    means_per_class: Count = 100
    fit_per_class: Count = 50
    signal_images: Count = Field(300, title="whole slices an attack")
    signal_clean: Count = 1000
    signal_fpr: Share = 0.05
    signal_trees: Count = 300
    noise: tuple[int | float, ...] = (4, 8)
    adaptive_images: Count = Field(200, ge=2, title="images of the adaptive attack")
    adaptive_epsilon: int | float = Field(8, gt=0)
    adaptive_steps: Count = 40
    adaptive_weights: tuple[int | float, ...] = Field((0, 0.01, 0.1, 1, 10), min_length=1)
    adaptive_attack: str = "rpgd_8"

    @field_validator("attacks", "adaptive_attack")
    @classmethod
    def _known(cls, names: Any) -> Any:
        for name in [names] if isinstance(names, str) else names or ():
            find(name)
        return names

    @property
    def attack_names(self) -> list[str]:
        """The attacks, in the source's order."""
        asked = self.attacks or " ".join(config.load(self.scale).attacks.get("suite", SUITE)).split()
        return [name for name in SUITE if name in asked]

    def plans(self, scale: str) -> dict[str, Plan]:
        """How each attack's set is made at a scale."""
        return {name: attacks.plan(name, scale) for name in self.attack_names}

    def described(self, names: Collection[str] = ()) -> dict[str, Any]:
        """The attacks' own settings among them; of images, what most attacks have, and each attack that has others."""
        found = super().described(names)
        own = self.plans(self.scale)
        usual, full = (_usual(plans) for plans in (own, self.plans("paper")))
        found["images an attack"] = usual
        for name, plan in own.items():
            label = SUITE[name].label
            if self.scale == "paper" or (plan.images, attacks.plan(name, "paper").images) != (usual, full):
                found[f"images under {label}"] = plan.images
            for key, value in plan.parameters.items():
                shown = f"{255 * value:.4g}/255" if key == "epsilon" else value
                found[f"{key.replace('_', ' ')} of {label}"] = shown
        return found


def _usual(plans: Mapping[str, Plan]) -> int:
    return Counter(plan.images for plan in plans.values()).most_common(1)[0][0]


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
    index, labels = np.asarray(index, np.int64), np.asarray(labels, np.int64)
    return Given(images.float(), index, labels, logits.argmax(1), MaxSoftmax().score(logits))


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


def counterparts(clean: Given, adversarial: Given) -> np.ndarray:
    """Positions in `clean` of the images that the adversarials were made of, in their order."""
    place = {image: position for position, image in enumerate(clean.index.tolist())}
    return np.array([place[image] for image in adversarial.index.tolist()], np.int64)


class DetectionRun(SlicingRun[Settings]):
    """A network's clean and adversarial inputs, and their slices.

    They are made anew from networks and adversarial sets that are cached; what is found on them is kept.
    """

    @cached_property
    def key(self) -> dict[str, Any]:
        """The data, and the settings that choose images and slices: part of every kept table's key."""
        plans = self.settings.plans(self.scale).items()
        made = {name: {"images": plan.images, "parameters": dict(plan.parameters)} for name, plan in plans}
        return {
            **{split: self.images(split).fingerprint for split in ("train", "test")},
            "detection_per_class": self.settings.per_class,
            "profile_per_class": self.settings.profile_per_class,
            "slices": nnslicer.VERSION,
            "attacks": {"version": sets.VERSION, **made},
            **self.settings.unusual("theta", "neuron"),
        }

    def rule(self, reference: str) -> slicing.NNSlicer:
        """NNSlicer's, with one of the two means."""
        return slicing.NNSlicer(self.profile(), self.settings.theta, reference=reference)

    @cached_property
    def training_inputs(self) -> Given:
        """Clean training images that the network classifies correctly, equally from each class as far as there are any.

        The classes take turns, so that a prefix is balanced too.
        """
        train, wanted = self.images("train"), self.settings.per_class
        labels = train.labels.numpy()
        order = splits.stratified(labels, len(train), seed=0)
        counts, parts = np.zeros(self.classes, int), []
        for start in bar(range(0, len(order), 1000), desc="training images"):
            place = order[start : start + 1000]
            answers = forward(self.model, train.float(index=torch.from_numpy(place)), double=True).argmax(1)
            place = place[answers == labels[place]]
            here = labels[place]
            turn = counts[here] + pd.Series(here).groupby(here).cumcount().to_numpy()
            parts.append(place[turn < wanted])
            counts += np.bincount(here[turn < wanted], minlength=self.classes)
            if (counts >= wanted).all():
                break
        index = np.concatenate(parts)
        return given(self.model, train.float(index=torch.from_numpy(index)), index, labels[index])

    @cached_property
    def test_inputs(self) -> dict[str, Given]:
        """Clean test images under "clean", and the adversarials of each attack.

        Adversarials are the set's successes that the network also misclassifies in float64 (those on the boundary
        itself may not be), of images that it classifies correctly there. Clean images are those that the sets started
        from, once.
        """
        model, test = self.model, self.images("test")
        found: dict[str, Given] = {}
        started: dict[int, None] = {}
        for name in bar(self.settings.attack_names, desc="adversarials"):
            made = attacks.adversarials(self.settings.network, self.scale, self.seed, name=name)
            index, success = (np.asarray(part) for part in (made.index, made.success))
            started |= dict.fromkeys(index.tolist())
            labels = np.asarray(made.labels)[success]
            there = given(model, made.images[torch.from_numpy(success)], index[success], labels)
            found[name] = there.take(there.predicted != there.labels)
        index = np.array(list(started), np.int64)
        clean = given(model, test.float(index=torch.from_numpy(index)), index, test.labels.numpy()[index])
        clean = clean.take(clean.predicted == clean.labels)
        return {"clean": clean, **{name: part.take(np.isin(part.index, clean.index)) for name, part in found.items()}}

    # --- the last convolution's slices, for the source's rule

    def vectors(self, name: str) -> Callable[[Tensor], Any]:
        """The features of a method of `METHODS`: images (N, C, H, W) -> (N, F).

        NNSlicer and EffectivePath: contributions of the last 3x3 convolution's synapses, sparse CSR of small whole
        numbers; FeatureMap: float32, dense.
        """
        method, reference = METHODS[name]
        if method == "feature-map":
            return lambda images: feature_map(self.model, images).numpy()
        layer = last_convolution(self.model)
        rule = slicing.EffectivePath() if method == "effective-path" else self.rule(reference)
        return lambda images: sparse.vstack(
            [part.sparse(layer) for part in slicing.slices_by_chunk(self.model, images, rule, [layer], memory=MEMORY)],
            format="csr",
        )

    @lru_cache(maxsize=1)  # noqa: B019 (a run is short-lived)
    def training_vectors(self, name: str) -> Any:
        """The features of the images that trees learn from."""
        train = self.vectors(name)(self.training_inputs.images)
        return train.tocsc() if sparse.issparse(train) else train

    @lru_cache(maxsize=1)  # noqa: B019
    def tested_vectors(self, name: str) -> Mapping[str, Any]:
        """The features of clean test images, under "clean", and of each attack's adversarials."""
        make = self.vectors(name)
        return {key: make(part.images) for key, part in bar(self.test_inputs.items(), desc=name) if len(part)}

    @lru_cache(maxsize=32)  # noqa: B019
    def tree(self, name: str, kind: str, tree_seed: int) -> TreeRule:
        """The tree or forest of a method of `METHODS`, trained on the clean training images."""
        more = {"n_estimators": self.settings.forest_trees} if kind == "forest" else {}
        return TreeRule(kind, tree_seed, **more).fit(self.training_vectors(name), self.training_inputs.predicted)

    # --- whole slices, reduced to a few numbers a layer

    @cached_property
    def signal_inputs(self) -> dict[str, Given]:
        """The inputs whose whole slices are taken: clean, each attack's, and the noise controls'."""
        chosen, inputs = self.settings, self.test_inputs
        clean = inputs["clean"].take(np.arange(min(chosen.signal_clean, len(inputs["clean"]))))
        found = {"clean": clean}
        for name in chosen.attack_names:
            part = inputs[name].take(np.isin(inputs[name].index, clean.index))
            found[name] = part.take(np.arange(min(chosen.signal_images, len(part))))
        some = clean.take(np.arange(min(chosen.signal_images, len(clean))))
        for size in chosen.noise:
            generator = torch.Generator().manual_seed(self.seed)
            signs = torch.randint(0, 2, some.images.shape, generator=generator) * 2 - 1
            noisy = given(self.model, (some.images + signs * size / 255).clamp(0, 1), some.index, some.labels)
            found[f"noise_{size:g}"] = noisy.take(noisy.predicted == noisy.labels)
        return found

    def fit_inputs(self) -> tuple[Given, Given]:
        """Clean training images for the mean slices, and others for the detectors fitted on clean inputs alone."""
        clean, first = self.training_inputs, self.settings.means_per_class
        turn = pd.Series(clean.labels).groupby(clean.labels).cumcount().to_numpy()
        return clean.take(turn < first), clean.take((turn >= first) & (turn < first + self.settings.fit_per_class))

    @cached_property
    def mean_slices(self) -> ClassMeans:
        clean, _ = self.fit_inputs()
        return mean_slices(self.model, clean.images, clean.labels, self.classes, self.rule(self.settings.reference))

    def describe(self, images: Tensor) -> pd.DataFrame:
        """Similarity and activity of the whole slices of images (N, C, H, W)."""
        return describe_inputs(self.model, images, self.rule(self.settings.reference), self.mean_slices)
