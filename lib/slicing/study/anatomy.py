"""What a slice is: how much of each layer it holds, how slices of one class and of others overlap, one as a picture."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lib import data, evaluations
from lib.slicing.backward import effective_path, slice
from lib.slicing.slices import Slices
from lib.slicing.study import evaluation

VERSION = 1  # raise it when the numbers change

DEFAULTS: dict[str, Any] = {"anatomy_per_class": 20}
"""Correctly classified test images of each class."""

METHODS = ("nnslicer", "nnslicer-dataset", "effective-path")


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this part."""
    return {**DEFAULTS, **evaluation.settings(scale)}


def make(scale: str, seed: int = 0) -> None:
    """All that the notebook shows."""
    for method in METHODS:
        layers(scale, seed, method)
        classes(scale, seed, method)
    picture(scale, seed)


def layers(scale: str, seed: int = 0, method: str = "nnslicer") -> pd.DataFrame:
    """Each layer's part in the slices of test images.

    Returns: rows of layer, synapses (share of its weight elements in a slice, mean over the images), neurons (share of
        its outputs), same_class and other_class (mean Jaccard overlap of two images' synapses), n (images); a last row
        is the whole network, layer "all".
    """

    def compute() -> pd.DataFrame:
        found, labels = _slices(scale, seed, method)
        same, other = _pairs(labels)
        rows = []
        for layer in [*found.synapses, None]:
            overlap = found.jaccard(found, [layer] if layer else None)
            used = (
                (found.synapses[layer] != 0).double().mean().item()
                if layer
                else sum(float((v != 0).sum()) for v in found.synapses.values())
                / sum(v.numel() for v in found.synapses.values())
            )
            values = [found.neurons[layer]] if layer else [v for k, v in found.neurons.items() if k != "input"]
            active = sum(float((v != 0).sum()) for v in values) / sum(v.numel() for v in values)
            row = {"layer": layer or "all", "synapses": used, "neurons": active}
            row |= {"same_class": overlap[same].mean().item(), "other_class": overlap[other].mean().item()}
            rows.append({**row, "n": len(found)})
        return pd.DataFrame(rows)

    return _kept("nnslicer-anatomy-layers", scale, seed, method, compute)


def classes(scale: str, seed: int = 0, method: str = "nnslicer") -> pd.DataFrame:
    """Mean overlap of two images' whole slices, class against class.

    Returns: rows of first, second (class names), value (mean Jaccard overlap of different images), n (pairs).
    """

    def compute() -> pd.DataFrame:
        found, labels = _slices(scale, seed, method)
        names = evaluation.training_images(settings(scale)["data"]).classes
        overlap = found.jaccard(found)
        different = ~torch.eye(len(found), dtype=torch.bool)
        rows = []
        for a in range(len(names)):
            for b in range(len(names)):
                pairs = (labels == a)[:, None] & (labels == b)[None] & different
                if pairs.any():
                    value, n = overlap[pairs].mean().item(), int(pairs.sum())
                    rows.append({"first": names[a], "second": names[b], "value": value, "n": n})
        return pd.DataFrame(rows)

    return _kept("nnslicer-anatomy-classes", scale, seed, method, compute)


def picture(scale: str, seed: int = 0, position: int = 0) -> pd.DataFrame:
    """One image's slice: CONTRIB of each neuron, summed over the channels of each position.

    Args:
        position: of the image among those that `layers` takes.
    Returns: rows of layer ("image": the image itself, mean of its channels in [0, 1]; "input": the slice's pixels),
        row, column, value; linear layers have one row of neurons.
    """

    def compute() -> pd.DataFrame:
        images, _ = _images(scale, seed)
        one = images[position : position + 1]
        found = slice(evaluation.network_of(scale, seed), one, evaluation.profile_of(scale, seed))
        maps = {"image": (one[0].float() / 255).mean(0), "input": found.neurons["input"][0].sum(0)}
        for layer, value in found.neurons.items():
            if layer != "input":
                maps[layer] = value[0].sum(0) if value.ndim == 4 else value
        rows = [
            {"layer": layer, "row": r, "column": c, "value": float(value[r, c])}
            for layer, value in maps.items()
            for r in range(value.shape[0])
            for c in range(value.shape[1])
        ]
        return pd.DataFrame(rows)

    return _kept("nnslicer-anatomy-picture", scale, seed, f"nnslicer-{position}", compute)


def _images(scale: str, seed: int) -> tuple[Tensor, Tensor]:
    """The first correctly classified test images of each class, uint8, and their labels."""
    chosen = settings(scale)
    test = data.load(chosen["data"], "test")
    model = evaluation.network_of(scale, seed)
    found = [
        evaluation.first_correct(model, test, (test.labels == k).nonzero()[:, 0], chosen["anatomy_per_class"])
        for k in range(len(test.classes))
    ]
    index = torch.cat(found)
    return test.images[index], test.labels[index]


@lru_cache(maxsize=1)
def _slices(scale: str, seed: int, method: str) -> tuple[Slices, Tensor]:
    images, labels = _images(scale, seed)
    model = evaluation.network_of(scale, seed)
    if method == "effective-path":
        return effective_path(model, images), labels
    reference = "dataset" if method == "nnslicer-dataset" else "predicted"
    return slice(model, images, evaluation.profile_of(scale, seed), reference=reference), labels


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of different images of one class, and of two."""
    same = labels[:, None] == labels[None]
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


def _kept(kind: str, scale: str, seed: int, method: str, compute: Any) -> pd.DataFrame:
    chosen = settings(scale)
    key = {"method": method, "per_class": chosen["anatomy_per_class"], "profile": evaluation.profile_key(scale)}
    key["images"] = data.load(chosen["data"], "test").fingerprint
    return evaluations.kept(kind, chosen["network"], scale, seed, key, compute, VERSION)
