"""What the experiments on slices share: the network, its profile and its classes' scores, made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from lib import cache, compute, config, data
from lib.experiments.run import Run
from lib.experiments.settings import Count, Settings
from lib.slicing import scores as scoring
from lib.slicing.kinds import SlicingError
from lib.slicing.profiling import CODEC, NeuronProfile, first_correct, profile

VERSION = 1  # raise it when a change here or in lib.slicing changes profiles or slices

NAMES = {
    "nnslicer": "NNSlicer",
    "effective-path": "EffectivePath",
    "weight": "Weight",
    "channel": "Channel",
    "random": "Random",
    "position": "Position",
}
"""The methods as figures and tables show them."""
Theta = Annotated[float, Field(ge=0, lt=1)]


class NNSlicer(Settings):
    """Shared settings of these experiments.

    Attributes:
        network: a network of the scale, whose slices are looked at.
        theta: the share by which the kept inputs of a neuron may miss the sum of all, in [0, 1); the source: .2.
        reference: mean that an output is compared with: of the predicted class, or of the whole data set.
        neuron: what has a mean of its own: each "position" of a channel, or a "channel".
        profile_per_class, scores_per_class: correctly classified training images of each class behind the profile,
            and behind the synapses' scores.
    """

    study: ClassVar[str] = "nnslicer"

    network: str = "nnslicer-resnet10"
    theta: Theta = Field(0.2, title="theta")
    reference: Literal["predicted", "dataset"] = "predicted"
    neuron: Literal["position", "channel"] = "position"
    profile_per_class: Count = Field(1000, title="training images a class for the profile")
    scores_per_class: Count = Field(1000, title="training images a class for the scores")


S = TypeVar("S", bound=NNSlicer)


class SlicingRun(Run[S]):
    """A seed's network with its profile and scores."""

    @cached_property
    def model(self) -> nn.Module:
        """The network, in evaluation mode, on the scale's device."""
        return self.network(self.settings.network)

    @cached_property
    def neuron(self) -> str:
        """What has a mean of its own: a "position" of a channel, or a "channel"."""
        return self.settings.neuron

    @property
    def classes(self) -> int:
        """How many the data set has, which need not be there."""
        return data.SETS[self.settings.data].classes

    @property
    def train(self) -> data.ImageSet:
        """All training images."""
        return self.images("train")

    def profile_key(self, network: str | None = None) -> dict[str, Any]:
        """What a profile depends on beside the network's weights."""
        return {
            "version": VERSION,
            "network": network or self.settings.network,
            "images": self.train.fingerprint,
            "per_class": self.settings.profile_per_class,
            **({} if self.neuron == "position" else {"neuron": self.neuron}),
        }

    def profile(self, network: str | None = None) -> NeuronProfile:
        """The profile of a network on training images; kept in the cache.

        Args:
            network: its name; None: the settings' network.
        """
        name = network or self.settings.network

        def make() -> NeuronProfile:
            train, per_class = self.train, self.settings.profile_per_class
            found = profile(self.network(name), train.images, train.labels, len(train.classes), per_class)
            return self.pooled(found)

        kept = self._cached(name, "profile", self.profile_key(name), make, CODEC)
        return kept.to(compute.device(self.preset.compute.device))

    def pooled(self, found: NeuronProfile) -> NeuronProfile:
        """A profile with the means that the settings ask for."""
        return found.of_channels() if self.neuron == "channel" else found

    def scores_key(self, method: str) -> dict[str, Any]:
        """What a method's scores depend on beside the network's weights."""
        key = {"method": method, "per_class": self.settings.scores_per_class, "profile": self.profile_key()}
        return key | (self.settings.unusual("theta", "reference") if method == "nnslicer" else {})

    @lru_cache(maxsize=2)  # noqa: B019 (a run is short-lived)
    def scores(self, method: str = "nnslicer") -> dict[str, Tensor]:
        """Sum of |CONTRIB| of each synapse over each class's first correctly classified training images, kept by class.

        Args:
            method: "nnslicer" or "effective-path".
        Returns: layer -> int64 (classes, *weight.shape), on the scale's device.
        """
        network, key, parts = self.settings.network, self.scores_key(method), []
        for label in range(self.classes):
            make = partial(self._make_scores, method, label)
            parts.append(self._cached(network, f"scores-{method}-{label}", key, make, cache.TENSORS))
        on = compute.device(self.preset.compute.device)
        return {layer: torch.stack([part[layer] for part in parts]).to(on) for layer in parts[0]}

    def _make_scores(self, method: str, label: int) -> dict[str, Tensor]:
        train, chosen = self.train, self.settings
        mine = (train.labels == label).nonzero()[:, 0]
        index = first_correct(self.model, train, mine, chosen.scores_per_class)
        if len(index) == 0:
            raise SlicingError(f"the network classifies no training image of class {label} correctly: train it longer")
        slices: dict[str, Any] = {"profile": self.profile(), "theta": chosen.theta, "reference": chosen.reference}
        own = slices if method == "nnslicer" else {}
        few = train.subset(index)
        found = scoring.class_scores(self.model, few.images, few.labels, len(train.classes), method, **own)
        return {layer: value[label].contiguous() for layer, value in found.items()}

    def _cached(self, network: str, what: str, key: Mapping[str, Any], make: Callable[[], Any], codec: Any) -> Any:
        whole = {"weights": self.card(network)["weights"], "seed": self.seed, **key}
        name = f"{network}-seed{self.seed}-{cache.digest(whole, 16)}/{what}"
        return cache.get("slicing", whole, make, codec, folder=config.cache_dir(self.scale), name=name)


def name_of(classes: Sequence[int]) -> str:
    """A subset of classes in a table: (0, 3, 5, 8) is "0 3 5 8"."""
    return " ".join(map(str, classes))


def make_scores(scale: str, seed: int) -> None:
    """Both methods' scores of the network: a step before the experiments that read them."""
    run = SlicingRun(NNSlicer.of(scale), seed)
    for method in scoring.METHODS:
        run.scores(method)


def spread(by_class: pd.DataFrame, wanted: Sequence[Sequence[int]], others: bool = False) -> pd.DataFrame:
    """Counts by class, added up for each subset, or for the classes outside of it."""
    parts = []
    for classes in wanted:
        inside = by_class[by_class["class"].isin(list(classes)) != others]
        summed = inside.groupby(["method", "ratio", "compensation"], as_index=False)[["right", "n"]].sum()
        parts.append(summed.assign(classes=name_of(classes)))
    return pd.concat(parts, ignore_index=True).assign(by_position=None)


def mean_accuracies(measure: str, table: pd.DataFrame, **about: Any) -> list[dict[str, Any]]:
    """The accuracy, averaged over the subsets; n: distinct test images, of the other classes those of one subset."""
    rows = []
    for (method, ratio, compensation), group in table.groupby(["method", "ratio", "compensation"], sort=False):
        where = {"method": method, "ratio": ratio, "compensation": bool(compensation), **about}
        each = {
            k: int(n) // len(c.split()) for c, n in zip(group["classes"], group["n"], strict=True) for k in c.split()
        }
        n = int(group["n"].max()) if about.get("classes") == "other" else sum(each.values())
        rows.append({"measure": measure, **where, "value": (group["right"] / group["n"]).mean(), "n": n})
    return rows
