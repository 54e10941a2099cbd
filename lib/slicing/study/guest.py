"""What NNSlicer's detector sees of the inputs of a network that another study brings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lib import slicing
from lib.data import ImageSet
from lib.progress import bar
from lib.slicing import detection
from lib.slicing.kinds import SlicingError
from lib.slicing.study.detection_inputs import MEMORY
from lib.slicing.study.evaluation import first_correct

VERSION = 1  # raise it when a change here changes the features


def slice_features(
    model: nn.Module,
    train: ImageSet,
    images: Mapping[str, Tensor],
    per_class: int = 50,
    reference: str = "dataset",
) -> dict[str, np.ndarray]:
    """Similarity and activity of the whole slices of inputs, layer by layer: what the forests on slices are fitted on.

    Args:
        model: evaluation mode, of the operations that `slicing.slice` knows.
        train: clean training images; the first `per_class` correctly classified of each class give the profile and
            the mean slices; of a class that is never classified correctly, the first `per_class` as they are.
        images: kind of inputs -> (N, C, H, W) in [0, 1].
        per_class: see `train`.
        reference: mean that slices are taken with.
    Returns: kind -> float64 (N, F), a row an input.
    Raises: SlicingError where the network cannot be sliced, or gets no image right, or a class has no image.
    Source: Zhang et al. 2020, https://arxiv.org/abs/2009.13747; similarity and activity are ours, see
        `lib.slicing.detection`.
    """
    classes = len(train.classes)
    chosen = [first_correct(model, train, (train.labels == k).nonzero()[:, 0], per_class) for k in range(classes)]
    for k in range(classes):
        if not len(chosen[k]):  # a class that it never gets right still has a mean: of what it makes of its images
            chosen[k] = (train.labels == k).nonzero()[:per_class, 0]
        if not len(chosen[k]):
            raise SlicingError(f"there is no training image of class {k} to take the mean slice of")
    rows = torch.cat(chosen)
    rule = slicing.NNSlicer(
        slicing.profile(model, train.images[rows], train.labels[rows], classes, per_class), reference=reference
    )
    labels, means, start = train.labels[rows].numpy(), detection.ClassMeans(classes), 0
    for part in slicing.slices_by_chunk(model, train.float(index=rows), rule, memory=MEMORY):
        means.add({layer: value.numpy() for layer, value in part.synapses.items()}, labels[start:][: len(part)])
        start += len(part)
    found = {}
    for kind, some in bar(images.items(), desc="slices"):
        parts = []
        for part in slicing.slices_by_chunk(model, some, rule, memory=MEMORY):
            synapses = {layer: value.numpy() for layer, value in part.synapses.items()}
            neurons = {layer: part.neurons[layer].numpy() for layer in synapses}
            told = detection.describe(synapses, neurons, part.predicted.numpy(), means)
            parts.append(detection.columns_of(told, detection.SIMILARITY + detection.ACTIVITY))
        found[kind] = np.concatenate(parts)
    return found
