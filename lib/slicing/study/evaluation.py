"""The study's networks, their profiles and their classes' scores at a scale: made once, kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from lib import cache, compute, config, data, evaluations, zoo
from lib.slicing import scores as scoring
from lib.slicing.kinds import SlicingError
from lib.slicing.profiling import CODEC, NeuronProfile, profile

VERSION = 1  # raise it when a change in this package changes profiles or slices

DEFAULTS: dict[str, Any] = {
    "network": "nnslicer-resnet10",
    "deep": "nnslicer-resnet18",
    "profile_per_class": 1000,
    "scores_per_class": 1000,
}
"""Settings that a scale may leave out: the networks, training images a class behind profiles and scores."""


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this study: `study.nnslicer`, with `DEFAULTS` for what it leaves out.

    Raises: ConfigError where the scale names no data set.
    """
    return evaluations.settings(scale, "nnslicer", DEFAULTS)


def network_of(scale: str, seed: int = 0) -> nn.Module:
    """The study's network, in evaluation mode."""
    return zoo.get(settings(scale)["network"], scale, seed)


@lru_cache(maxsize=2)
def training_images(name: str) -> data.ImageSet:
    """All training images of a set."""
    return data.load(name, "train")


def class_count(scale: str) -> int:
    """Classes of the study's data set, which need not be there."""
    return data.SETS[settings(scale)["data"]].classes


def profile_key(scale: str, network: str | None = None) -> dict[str, Any]:
    """What a profile depends on beside the network's weights."""
    chosen = settings(scale)
    return {
        "version": VERSION,
        "network": network or chosen["network"],
        "images": training_images(chosen["data"]).fingerprint,
        "per_class": chosen["profile_per_class"],
    }


def profile_of(scale: str, seed: int = 0, network: str | None = None) -> NeuronProfile:
    """The profile of a network of the study, on training images; kept in the cache.

    Args:
        network: its name; None: the study's `network`.
    """
    name = network or settings(scale)["network"]

    def make() -> NeuronProfile:
        chosen = settings(scale)
        train = training_images(chosen["data"])
        return profile(
            zoo.get(name, scale, seed), train.images, train.labels, len(train.classes), chosen["profile_per_class"]
        )

    kept = _kept(scale, seed, name, "profile", profile_key(scale, name), make, CODEC)
    return kept.to(compute.device(config.load(scale).compute.device))


def scores_key(scale: str, method: str) -> dict[str, Any]:
    """What a method's scores depend on beside the network's weights."""
    return {"method": method, "per_class": settings(scale)["scores_per_class"], "profile": profile_key(scale)}


def scores_of(scale: str, seed: int = 0, method: str = "nnslicer") -> dict[str, Tensor]:
    """Sum of |CONTRIB| of each synapse over each class's first correctly classified training images, kept by class.

    Args:
        method: "nnslicer" or "effective-path".
    Returns: layer -> int64 (classes, *weight.shape).
    """
    chosen = settings(scale)
    parts = []
    for label in range(class_count(scale)):
        make = partial(_make_scores, scale, seed, method, label)
        key = scores_key(scale, method)
        parts.append(_kept(scale, seed, chosen["network"], f"scores-{method}-{label}", key, make, cache.TENSORS))
    return {layer: torch.stack([part[layer] for part in parts]) for layer in parts[0]}


def make_scores(scale: str, seed: int) -> None:
    """Both methods' scores of the study's network."""
    for method in scoring.METHODS:
        scores_of(scale, seed, method)


def _make_scores(scale: str, seed: int, method: str, label: int) -> dict[str, Tensor]:
    chosen = settings(scale)
    train = training_images(chosen["data"])
    model = network_of(scale, seed)
    mine = (train.labels == label).nonzero()[:, 0]
    chosen_images = first_correct(model, train, mine, chosen["scores_per_class"])
    if len(chosen_images) == 0:
        raise SlicingError(f"the network classifies no training image of class {label} correctly: train it longer")
    found = scoring.class_scores(
        model,
        train.images[chosen_images],
        train.labels[chosen_images],
        len(train.classes),
        method,
        profile_of(scale, seed) if method == "nnslicer" else None,
    )
    return {layer: value[label].contiguous() for layer, value in found.items()}


@torch.no_grad()
def first_correct(model: nn.Module, images: data.ImageSet, positions: Tensor, count: int) -> Tensor:
    """The first positions at which the network is right, up to a count."""
    on = next(model.parameters()).device
    found: list[Tensor] = []
    for part in positions.split(500):
        if sum(map(len, found)) >= count:
            break
        right = model(images.float(on, part)).argmax(1).cpu() == images.labels[part]
        found.append(part[right])
    return torch.cat(found)[:count] if found else positions[:0]


def _kept(
    scale: str, seed: int, network: str, kind: str, key: Mapping[str, Any], make: Callable[[], Any], codec: Any
) -> Any:
    whole = {"weights": zoo.card(network, scale, seed)["weights"], "seed": seed, **key}
    name = f"{network}-seed{seed}-{cache.digest(whole, 16)}/{kind}"
    return cache.get("slicing", whole, make, codec, folder=config.cache_dir(scale), name=name)
