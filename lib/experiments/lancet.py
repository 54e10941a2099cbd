"""What the experiments of AI-Lancet share: backdoored networks, their triggers, and what a clean network gets wrong.

Test images are always parted. On one part pairs, layers, thresholds and rates are chosen; every number shown is of the
other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Literal, TypeVar

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from lib import config, data
from lib.data import ImageSet, splits
from lib.experiments.run import Run, halved
from lib.experiments.settings import Count, Seed, Settings, Share
from lib.lancet.backdoors.attack import FOLDER, Attack, address, of_network, plug_of
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.measures import predictions
from lib.lancet.reversal import reverse

VERSION = 1  # raise it when a change here or in lib.lancet changes reversed triggers


class Lancet(Settings):
    """Settings of every experiment of AI-Lancet."""

    study: ClassVar[str] = "lancet"


class Backdoors(Lancet):
    """Shared settings of the experiments on backdoored networks.

    Attributes:
        families: of networks; those are looked at that were trained on images with a trigger.
        triggers: names of triggers, as "regular-2" (a square in two corners); None: all.
        repair_images, report_images: test images of a set that everything is chosen on, and those that numbers are of
            (None: the rest).
        reverse_images, reverse_steps: images and steps with which a trigger is reversed from a network; the source:
            Neural Cleanse's settings.
    """

    kinds: ClassVar[Sequence[str]] = ("badnets", "trojannn")

    families: tuple[str, ...] = Field(
        ("lancet-mnist", "lancet-gtsrb", "lancet-cifar10", "lancet-faces", "lancet-trojannn"),
        min_length=1,
        title="backdoored networks",
    )
    triggers: tuple[str, ...] | None = None
    repair_images: Count = 1000
    report_images: Count | None = Field(None, title="report images a network")
    reverse_images: Count = 200
    reverse_steps: Count = Field(1000, title="steps of a trigger's reversal")

    def told(self, name: str) -> Any:
        return len(networks(self)) if name == "families" else super().told(name)


class Flipping(Backdoors):
    """Settings of neuron-flip.

    Attributes:
        repair_pairs: pairs that vote, at most.
        formula: of a weight's importance: "constant" (the companion's features fixed, as released) or "both".
        until: what removing weights must reach: the true "label", or "not-target".
        flip_threshold: attack success rate, in [0, 1], at which flipping stops.
        flip_images: stamped repair images, at most, on which that is measured.
        near_best: share of the best layer's repaired pairs that a layer needs to be tried; 0: at least one pair.
    """

    repair_pairs: Count = Field(40, title="pairs that vote")
    formula: Literal["constant", "both"] = "constant"
    until: Literal["label", "not-target"] = "label"
    flip_threshold: Share = 0.01
    flip_images: Count = 200
    near_best: Share = 0.0


@dataclass(frozen=True)
class Backdoored:
    """A backdoored network of a scale.

    Attributes:
        name: of the network.
        data: its data set.
        kind: of the attack: badnets, trojannn, adaptive or misleading.
        trigger: its name, as "regular-2", "trojannn-square" or "adaptive".
        target: the class that it is answered with.
    """

    name: str
    data: str
    kind: str
    trigger: str
    target: int


def backdoored(scale: str, name: str) -> Backdoored:
    """A network by name. Raises: LancetError where it has no backdoor."""
    recipe = config.load(scale).recipe(name)
    plug = plug_of(recipe)
    form = f"-{plug.get('form', 'square')}" if plug["use"] == "trojannn" else ""
    return Backdoored(
        name, recipe.data, plug["use"], plug.get("trigger", plug["use"] + form), int(plug.get("target", 0))
    )


def networks(settings: Backdoors, kinds: Sequence[str] | None = None) -> list[Backdoored]:
    """The backdoored networks of the settings' families, in the order of the scale's file.

    Args:
        kinds: of attack; None: those of the experiment.
    Raises: LancetError where these families hold none, or none with such a trigger.
    """
    kinds = settings.kinds if kinds is None else kinds
    known = config.load(settings.scale).networks
    names = [
        name
        for name, recipe in known.items()
        if recipe.family in settings.families and any(plug["use"].startswith(FOLDER) for plug in recipe.prepare)
    ]
    found = [one for name in names if (one := backdoored(settings.scale, name)).kind in kinds]
    if not found:
        raise LancetError(
            f"scale {settings.scale}: none of the families {', '.join(settings.families)} holds a backdoored network "
            f"({' or '.join(kinds)}): name families whose recipes prepare poisoned images"
        )
    if settings.triggers is None:
        return found
    there = dict.fromkeys(one.trigger for one in found)
    if unknown := [trigger for trigger in settings.triggers if trigger not in there]:
        raise LancetError(f"triggers: no network has {', '.join(unknown)}: one of {', '.join(there)}")
    return [one for one in found if one.trigger in settings.triggers]


B = TypeVar("B", bound=Backdoors)


class BackdoorRun(Run[B]):
    """A seed's backdoored networks."""

    def parts(self, name: str) -> tuple[ImageSet, ImageSet]:
        """A data set's test images as repair split and report split; noted."""
        found = _parts(name, self.settings.repair_images, self.settings.report_images)
        for part in found:
            self.read.data[f"{name}/{part.split}"] = part.fingerprint
        return found

    def attack(self, name: str) -> Attack:
        """A network's true trigger and its target."""
        return of_network(name, self.scale, self.seed)

    def address(self, name: str) -> dict[str, Any]:
        """What a network's trigger and target depend on: for keys."""
        return address(name, self.scale, self.seed)

    def reversed_trigger(self, network: Backdoored) -> Trigger:
        """The trigger that Neural Cleanse reverses from a network for its target, once, in 8 bits as an image has them.

        It is reversed from repair images that are not of the target class.
        """
        chosen, images = self.settings, self.parts(network.data)[0]

        def make() -> pd.DataFrame:
            others = images.subset(images.labels != network.target)
            part = others.stratified(min(chosen.reverse_images, len(others)), seed=0).float()
            model = self.network(network.name)
            found = reverse(model, part, network.target, steps=chosen.reverse_steps, seed=self.seed).trigger
            rows = []
            for kind, planes in (("mask", found.mask), ("pattern", found.pattern)):
                bits = (planes.cpu() * 255).round().to(torch.uint8)
                rows += [[kind, channel, bytes(plane.reshape(-1).tolist()).hex()] for channel, plane in enumerate(bits)]
            return pd.DataFrame(rows, columns=["kind", "channel", "bits"])

        key = {"images": images.fingerprint, "target": network.target}
        key |= {"reverse_images": chosen.reverse_images, "reverse_steps": chosen.reverse_steps}
        frame = self.table("lancet-reversed", key, make, network.name, VERSION)
        sides = data.SETS[network.data].shape[1:]
        planes = {
            kind: torch.tensor([list(bytes.fromhex(bits)) for bits in part["bits"]]).view(-1, *sides) / 255
            for kind, part in frame.groupby("kind")
        }
        return Trigger(planes["mask"], planes["pattern"], "reversed")


@lru_cache(maxsize=8)
def _parts(name: str, repair_images: int, report_images: int | None) -> tuple[ImageSet, ImageSet]:
    test = data.load(name, "test")
    report, repair = splits.partition(test.labels.numpy(), min(0.5, repair_images / len(test)))
    reported = test.part(report, "report")
    if report_images is not None and report_images < len(reported):
        reported = reported.stratified(report_images, seed=0)
    return test.part(repair, "repair"), reported


def in_turns(images: ImageSet, count: int | None = None, without: int | None = None) -> Tensor:
    """Positions of the first images, the classes taking turns.

    Args:
        count: how many; None: all.
        without: a class that is left out.
    """
    order = torch.from_numpy(splits.stratified(images.labels.numpy(), len(images), 0))
    return order[images.labels[order] != without][:count] if without is not None else order[:count]


class Errors(Lancet):
    """Shared settings of the experiments on what a clean network gets wrong.

    Attributes:
        network: a clean network of the scale.
        test_images: how many of its test set are parted in halves; None: all.
        companion_steps: of the search for a wrong input's companion.
        reference_seed: of a network of the same recipe to compare with; one more where that is the network's own.
    """

    network: str = "nnslicer-resnet10"
    test_images: Count | None = None
    companion_steps: Count = 150
    reference_seed: Seed = 1


E = TypeVar("E", bound=Errors)


class ErrorRun(Run[E]):
    """A seed's clean network, and the halves of its test set: test1 to locate and repair on, test2 to report on."""

    @cached_property
    def model(self) -> nn.Module:
        """The network, in evaluation mode."""
        return self.network(self.settings.network)

    @property
    def reference(self) -> int:
        """The seed of the network that this one is compared with."""
        return self.settings.reference_seed + (self.settings.reference_seed == self.seed)

    @property
    def half_sets(self) -> tuple[ImageSet, ImageSet]:
        """test1 and test2, the same for every network; noted."""
        name = config.load(self.scale).recipe(self.settings.network).data
        found = _halves(name, self.settings.test_images)
        for half in found:
            self.read.data[f"{name}/{half.split}"] = half.fingerprint
        return found


@lru_cache(maxsize=4)
def _halves(name: str, count: int | None) -> tuple[ImageSet, ImageSet]:
    test = data.load(name, "test")
    return halved(test if count is None or count >= len(test) else test.stratified(count, seed=0))


@lru_cache(maxsize=2)
def clean_images(name: str, per_class: int, share: float) -> data.ImageSet:
    """Clean training images that a repairer is given, the classes taking turns: a share, at least so many a class."""
    train = data.load(name, "train")
    count = max(per_class * len(train.classes), round(share * len(train)))
    return train.stratified(min(count, len(train)), seed=0)


@dataclass(frozen=True, eq=False)
class Half:
    """Images as a network sees them.

    Attributes:
        images: half of a test set, or another part of it.
        predicted: int64 (N,).
        wrong: bool (N,).
    """

    images: ImageSet
    predicted: Tensor
    wrong: Tensor

    @classmethod
    def of(cls, model: nn.Module, images: ImageSet) -> Half:
        """A set with what a network takes its images for."""
        predicted = predictions(model, images)
        return cls(images, predicted, predicted != images.labels)

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
        return self._first(places, count)

    def misclassified(self, count: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The wrong inputs at `places`.

        Returns: images float32 (n, C, H, W), true labels (n,), what the network takes them for (n,).
        Raises: LancetError where the network makes no error.
        """
        places = self.places(count)
        return self.images.float(index=places), self.images.labels[places], self.predicted[places]

    def report(self, model: nn.Module) -> dict[str, Any]:
        """What another network is worth here: accuracy, errors_right (on the wrong inputs; None without any),
        still_right (on the others), n, n_errors."""
        right = predictions(model, self.images) == self.images.labels
        return {
            "accuracy": right.float().mean().item(),
            "errors_right": right[self.wrong].float().mean().item() if bool(self.wrong.any()) else None,
            "still_right": right[~self.wrong].float().mean().item() if bool((~self.wrong).any()) else None,
            "n": len(right),
            "n_errors": int(self.wrong.sum()),
        }

    def right(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` inputs that it gets right, the classes taking turns: images and labels."""
        places = self._first(torch.nonzero(~self.wrong).flatten(), count)
        return self.images.float(index=places), self.images.labels[places]

    def _first(self, places: Tensor, count: int | None) -> Tensor:
        if count is None or count >= len(places):
            return places
        return places[torch.from_numpy(splits.stratified(self.images.labels[places].numpy(), count, 0))]
