"""The study's networks, their profiles and their classes' scores at a scale: made once, kept in the cache."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from lib import compute, config, data, evaluations, store, tensors, zoo
from lib.slicing import scores as scoring
from lib.slicing.graph import SlicingError
from lib.slicing.profiling import NeuronProfile, profile

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
    path = _path(scale, seed, name, "profile", profile_key(scale, name))

    def make() -> NeuronProfile:
        chosen = settings(scale)
        train = training_images(chosen["data"])
        made = profile(
            zoo.get(name, scale, seed), train.images, train.labels, len(train.classes), chosen["profile_per_class"]
        )
        made.save(path)
        return made

    return _kept(path, NeuronProfile.load, make).to(compute.device(config.load(scale).compute.device))


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
        path = _path(scale, seed, chosen["network"], f"scores-{method}-{label}", scores_key(scale, method))
        parts.append(_kept(path, _load_scores, partial(_make_scores, scale, seed, method, label, path)))
    return {layer: torch.stack([part[layer] for part in parts]) for layer in parts[0]}


def make_scores(scale: str, seed: int) -> None:
    """Both methods' scores of the study's network."""
    for method in scoring.METHODS:
        scores_of(scale, seed, method)


def _make_scores(scale: str, seed: int, method: str, label: int, path: Path) -> dict[str, Tensor]:
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
    kept = {layer: value[label].contiguous() for layer, value in found.items()}
    tensors.write(path, kept)
    return kept


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


def _load_scores(path: Path) -> dict[str, Tensor]:
    try:
        return tensors.read(path, before=[])[0]
    except (OSError, ValueError) as error:
        raise SlicingError(f"{path} holds no scores, or it is damaged ({error})") from error


def _path(scale: str, seed: int, network: str, kind: str, key: Mapping[str, Any]) -> Path:
    address = store.fingerprint({"weights": zoo.card(network, scale, seed)["weights"], "seed": seed, **key})
    folder = config.cache_dir(scale) / "slicing" / f"{network}-seed{seed}-{address.removeprefix('sha256:')[:16]}"
    return folder / f"{kind}.safetensors"


def _kept(path: Path, load: Callable[[Path], Any], make: Callable[[], Any]) -> Any:
    """What lies at a path; made, by one process, where nothing does, or something damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                return load(path)
            except SlicingError as error:
                warnings.warn(f"{error}; it is made anew", stacklevel=3)
                os.unlink(path)
        store.about_to_make(path.name)
        return make()
