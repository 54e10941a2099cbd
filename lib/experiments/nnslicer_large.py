"""Pruning a network of many classes for a group of them (notebook 17): an ImageNet network for its dogs.

With 1,000 classes a mean and a score for each class take tens of GB. Here a neuron has one mean over the images of all
classes, and a synapse one score over those of the group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, field_validator
from torch import Tensor, nn

from lib import compute, config, data, plots
from lib.data import ImageSet
from lib.experiments import pretrained, settings
from lib.experiments.item import SHARE, Item, Results, pivot
from lib.experiments.nnslicer import NAMES
from lib.experiments.run import Run, halved, measures
from lib.experiments.settings import Count, Share, once
from lib.models.layers import weight_layers
from lib.progress import bar
from lib.slicing.kinds import SlicingError
from lib.slicing.masks import Masks, masked, masks_of, ranking, whole_masks
from lib.slicing.profiling import NeuronProfile, profile
from lib.slicing.pruning import METHODS, OF_CLASSES, Bank, centred, centres, decisions
from lib.slicing.scores import class_scores

Range = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
VERSION = 1  # raise it when the numbers change
COLUMNS = ["method", "ratio", "compensation", "group", "right", "n"]
Scores = dict[str, dict[str, Tensor]]
GROUPS = {"target": "target classes", "other": "other classes"}


class Settings(settings.Settings):
    """Settings of the experiment; nothing of it is in the source, whose networks have ten classes.

    Attributes:
        network, target: a network of the scale, and the first and the last of its target classes.
        pretrained, pretrained_target: the same of networks of `pretrained.NETWORKS`, where they can be had.
        theta: of the slices, in [0, 1).
        ratios: shares of each layer's weights that are dropped.
        images: of the network's test set, at most; of half of them the profile and the scores are made, the others are
            tested on.
        scored: of the first half, images of the target classes whose slices make the scores, at most.
    """

    study: ClassVar[str] = "nnslicer"
    section: ClassVar[str] = "large"

    network: str = "nnslicer-resnet10"
    target: Range = (2, 7)
    pretrained: tuple[str, ...] = Field((), title="pretrained networks")
    pretrained_target: Range = (151, 268)
    theta: float = Field(0.2, ge=0, lt=1, title="theta")
    ratios: tuple[Share, ...] = Field((0.1, 0.2, 0.3, 0.5), min_length=1, title="pruning ratios")
    images: Count = Field(1000, title="images")
    scored: Count = Field(100, title="images behind the scores")

    _each_once = field_validator("ratios", "pretrained")(once)

    @field_validator("target", "pretrained_target")
    @classmethod
    def _in_order(cls, target: Range) -> Range:
        if target[0] > target[1]:
            raise ValueError("want the first and the last target class, from 0")
        return target

    @field_validator("pretrained")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            pretrained.known(name)
        return names


class LargeRun(Run[Settings]):
    """Networks pruned for a group of their classes."""

    def target(self, name: str) -> tuple[int, int]:
        """A network's first and last target class."""
        return self.settings.pretrained_target if name in self.settings.pretrained else self.settings.target

    def images_of(self, name: str) -> str:
        """The set that a network was trained on."""
        if name in self.settings.pretrained:
            return pretrained.known(name).data
        return self.preset.recipe(name).data

    def halves(self, name: str) -> tuple[ImageSet, ImageSet]:
        """Images that a network's profile and scores are made of, and those that it is tested on.

        Raises: DataError where the set is not there, ConfigError where target classes or others have no image.
        """
        whole = data.load(self.images_of(name), "test")
        halves = halved(whole.stratified(min(self.settings.images, len(whole)), seed=0))
        (first, last), count = self.target(name), len(whole.classes)
        if last >= count:
            raise config.ConfigError(f"target of {name}: its classes are numbered from 0 to {count - 1}")
        for half in halves:
            mine = self.in_group(name, half)
            if not mine.any() or mine.all():
                raise config.ConfigError(
                    f"{name}: of {len(half)} images {int(mine.sum())} are of its target classes, {first} to {last}; "
                    "want some of them and some of others: other classes, or more `images`"
                )
        return halves

    def load(self, name: str) -> nn.Module:
        """A network, on the scale's device. Raises: MissingWeightsError where a pretrained one is not installed."""
        if name in self.settings.pretrained:
            return pretrained.known(name).load().to(compute.device(self.preset.compute.device))
        return self.network(name)

    def in_group(self, name: str, images: ImageSet) -> Tensor:
        """Which images are of a network's target classes, bool (N,)."""
        first, last = self.target(name)
        return (images.labels >= first) & (images.labels <= last)

    def profile(self, model: nn.Module, images: ImageSet) -> NeuronProfile:
        """One mean a neuron, over the images that the network gets right."""
        return profile(model, images.images, images.labels, len(images.classes), None, batch_size=10, together=True)

    def scores(self, name: str, model: nn.Module, known: NeuronProfile, images: ImageSet) -> Scores:
        """Method -> layer -> a score for each weight, over the images of the target classes.

        Raises: SlicingError where the network gets none of them right.
        """
        group = images.subset(self.in_group(name, images).nonzero()[: self.settings.scored, 0])
        given = {"nnslicer": {"profile": known, "theta": self.settings.theta, "reference": "dataset"}}
        found = {}
        for method in OF_CLASSES:
            own: dict[str, Any] = given.get(method, {})
            made = class_scores(model, group.images, group.labels, len(images.classes), method, together=True, **own)
            found[method] = {layer: score[0] for layer, score in made.items()}
            if not any(score.any() for score in found[method].values()):
                raise SlicingError(f"{name} classifies none of {len(group)} images of its target classes correctly")
        return found

    def pruned(self, name: str) -> pd.DataFrame:
        """A network's right decisions after each pruning; kept.

        Returns: rows as `COLUMNS`, method "" with nothing dropped, where centring changes nothing.
        """
        chosen = self.settings

        def rows() -> Iterator[list[Any]]:
            model = self.load(name)
            means = self.profile(model, first)
            scores = self.scores(name, model, means, first)
            inputs = centres(model, {layer: means.input_mean(layer) for layer in weight_layers(model)})
            device, mine = next(model.parameters()).device, self.in_group(name, second)
            parts = {"target": mine, "other": ~mine}
            banks = {group: Bank.of(second.subset(part.nonzero()[:, 0]), device) for group, part in parts.items()}
            tasks = [("", 0.0), *((method, float(ratio)) for method in METHODS for ratio in chosen.ratios)]
            for method, ratio in bar(tasks, desc=f"{name}, pruned"):
                with masked(model, masks(model, scores, method, ratio)):
                    for compensation, at in ((False, None), (True, inputs)) if method else ((False, None),):
                        with centred(model, at):
                            for group, bank in banks.items():
                                right = decisions(model, bank, batch=50, precision="float32") == bank.labels
                                yield [method, ratio, compensation, group, int(right.sum()), len(right)]

        first, second = self.halves(name)
        key: dict[str, Any] = {"network": name, "target": list(self.target(name)), "theta": chosen.theta}
        key |= {"ratios": list(chosen.ratios), "scored": chosen.scored}
        key |= {"images": [first.fingerprint, second.fingerprint]}
        if guest := name in chosen.pretrained:
            key["weights"] = pretrained.known(name).weights
        found = self.table("nnslicer-large", key, rows, None if guest else name, VERSION, COLUMNS)
        self.images("test", None, self.images_of(name))  # notes it
        return found


def masks(model: nn.Module, scores: Scores, method: str, ratio: float) -> Masks:
    """What a method keeps of a network: of the scores that know the group, or of the weights' size."""
    return masks_of(ranking(scores[method]), ratio) if method in scores else whole_masks(model, method, ratio)


def measured(chosen: Settings, seed: int) -> pd.DataFrame:
    """Networks pruned for a group of their classes, right after pruning.

    Returns: tidy, "accuracy" at {network, method ("dense": nothing dropped), ratio, compensation, group (of `GROUPS`)};
        beside the record "skipped" at {network}: why a pretrained one could not be tried, as note.
    """
    run, rows = LargeRun(chosen, seed), []
    guests = chosen.pretrained if seed == chosen.seeds[0] else ()  # the same at every seed
    for name in (chosen.network, *guests):
        try:
            table = run.pruned(name)
        except pretrained.UNAVAILABLE as error:
            if name == chosen.network:
                raise
            rows.append({"measure": "skipped", "network": name, "value": 0.0, "n": 1, "note": str(error)})
            continue
        table = table.assign(accuracy=table["right"] / table["n"]).replace({"method": {"": "dense"}})
        table["compensation"] = table["compensation"].astype(bool)
        rows += measures(table, ["accuracy"], ["method", "ratio", "compensation", "group"], network=name)
    return run.tidy(rows)


def title(name: str) -> str:
    """A network as figures name it."""
    return pretrained.NETWORKS[name].title if name in pretrained.NETWORKS else name


def draw(results: Results) -> Figure:
    """Accuracy on the target classes over the share dropped; a row a network, as it is and centred."""
    rows = results.values("accuracy", group="target")
    networks = list(dict.fromkeys(rows["network"]))
    figure, axes = plots.grid(2 * len(networks), 2, 1.9, plots.SINGLE, sharex=True, sharey=True)
    for place, ax in enumerate(axes):
        name, compensation = networks[place // 2], bool(place % 2)
        here = rows[(rows["network"] == name) & (rows["compensation"] == compensation)]
        here = here[here["method"] != "dense"].replace({"method": NAMES})
        dense = results.values("accuracy", group="target", network=name, method="dense")["value"].item()
        ax.axhline(dense, color="#777777", linewidth=0.8, marker="", linestyle="-", label="nothing dropped")
        plots.curves(ax, here, x="ratio", hue="method", order=[NAMES[method] for method in METHODS])
        guest = name in results.settings.pretrained
        first, last = results.settings.pretrained_target if guest else results.settings.target
        words = "centred" if compensation else f"{title(name)},\nclasses {first} to {last}"
        ax.set(title=words, ylim=(0, 1.02), xlabel="share dropped" if name == networks[-1] else "")
        ax.set_ylabel("accuracy on\nthe target classes" if place % 2 == 0 else "")
    plots.legend_below(axes, 2)
    return figure


TABLE = pivot(
    "accuracy", ["network", "group", "compensation", "method"], "ratio", "r = {:g}",
    {"method": NAMES | {"dense": "nothing dropped"}, "group": GROUPS, "compensation": {True: "yes", False: "no"}},
)  # fmt: skip
LARGE = Item(
    "nnslicer_large", measured, {"accuracy": SHARE}, table=TABLE, draw=draw,
    about=("pretrained", "theta", "ratios", "images", "scored"),
)  # fmt: skip
ITEMS = (LARGE,)
