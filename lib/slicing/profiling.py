"""Phase one: how each neuron behaves on average, per class and over all.

Source: NNSlicer (FSE 2020), section 3.2, and its released code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lib import cache, tensors
from lib.data import ImageSet, as_batch, with_gradients
from lib.progress import bar
from lib.slicing.kinds import Graph, SlicingError

REFERENCES = ("predicted", "dataset")


@dataclass(frozen=True)
class NeuronProfile:
    """Mean value of each neuron, that is of each position of a channel, over correctly classified images.

    Attributes:
        by_class: operation -> float64 (classes, *shape), the mean over one class's images; (1, *shape), over all
            images, where the profile was made without classes.
        counts: int64 (classes,) or (1,), images behind each.
        layers: layer -> [operation that it reads, operation that it is], of each of its calls.
    """

    by_class: Mapping[str, Tensor]
    counts: Tensor
    layers: Mapping[str, Sequence[Sequence[str]]]

    def mean(self, operation: str, reference: str = "dataset", predicted: Tensor | None = None) -> Tensor:
        """The mean that a value is compared with.

        Args:
            operation: its name in `by_class`.
            reference: "dataset", the mean over all classes' images together, (1, *shape); or "predicted", the mean of
                each input's predicted class, (N, *shape).
            predicted: int64 (N,), for "predicted".
        Raises: SlicingError for a class of which the profile has no image.
        """
        means = self.by_class[operation]
        if reference == "dataset":
            weights = (self.counts / self.counts.sum()).to(means)
            return torch.tensordot(weights, means, dims=1)[None]
        if reference != "predicted" or predicted is None:
            raise SlicingError(f"reference is {reference!r}: one of {', '.join(REFERENCES)}")
        if len(self.counts) == 1:
            raise SlicingError('the profile has one mean for all classes: use reference="dataset"')
        empty = sorted({int(k) for k in predicted.unique().tolist()} & set((self.counts == 0).nonzero()[:, 0].tolist()))
        if empty:
            raise SlicingError(
                f"the profile has no image of class {empty[0]}, which the network predicts here: profile it on more "
                'images, or use reference="dataset"'
            )
        return means[predicted.to(means.device)]

    def input_mean(self, layer: str) -> Tensor:
        """Mean input of a layer over all images, float64, without the batch dimension."""
        return self.mean(self._only(layer)[0])[0]

    def of_channels(self) -> NeuronProfile:
        """The same with one mean a channel, that of its positions': a channel counts as one neuron. Values behind a
        flattening have no channels any more, and stay as they are.

        A sum's terms then need not add up to how far its output is from its mean, as at padded borders.
        """
        pooled = {
            name: means.mean(tuple(range(2, means.ndim)), keepdim=True).expand_as(means).contiguous()
            if means.ndim > 2
            else means
            for name, means in self.by_class.items()
        }
        return NeuronProfile(pooled, self.counts, self.layers)

    def to(self, device: torch.device | str) -> NeuronProfile:
        """The same profile on a device."""
        moved = {name: value.to(device) for name, value in self.by_class.items()}
        return NeuronProfile(moved, self.counts.to(device), self.layers)

    def save(self, path: str | os.PathLike) -> Path:
        """Write it to a safetensors file, atomically."""
        held = {f"mean.{name}": value.cpu().contiguous() for name, value in self.by_class.items()}
        about = {"layers": json.dumps({layer: list(map(list, calls)) for layer, calls in self.layers.items()})}
        return tensors.write(path, {**held, "counts": self.counts.cpu()}, about)

    @staticmethod
    def load(path: str | os.PathLike) -> NeuronProfile:
        """Read what `save` wrote. Raises: SlicingError where the file is damaged."""
        try:
            held, about = tensors.read(path, before=["layers"])
            counts, layers = held.pop("counts"), json.loads(about["layers"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise SlicingError(f"{path} is not a neuron profile, or it is damaged ({error}): make it anew") from error
        return NeuronProfile({key.removeprefix("mean."): value for key, value in held.items()}, counts, layers)

    def _only(self, layer: str) -> Sequence[str]:
        calls = self.layers.get(layer, ())
        if len(calls) != 1:
            raise SlicingError(f"layer {layer!r} is called {len(calls)} times: one call has a mean")
        return calls[0]


CODEC: cache.Codec[NeuronProfile] = cache.Codec(
    ".safetensors", lambda path, _, made: made.save(path), lambda path, _: NeuronProfile.load(path)
)
"""How the cache keeps a profile."""


@with_gradients
def profile(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    per_class: int | None = 1000,
    batch_size: int = 200,
    together: bool = False,
) -> NeuronProfile:
    """The mean value of each neuron over correctly classified images of each class.

    Each class takes as much memory as a float64 copy of all activations of one image: of 1,000 classes and a network
    for large images, tens of GB. `together` has one mean for all.

    Args:
        model: a network that torch.fx can trace, of the operations that `slice` knows.
        images: (N, C, H, W) in [0, 1], float, or uint8 in 0..255.
        labels: int64 (N,), true classes in 0..num_classes - 1.
        num_classes: number of classes.
        per_class: the first so many correctly classified images of each class; None: all.
        batch_size: images at a time.
        together: one mean over the images of all classes, for `reference="dataset"`.
    Returns: the profile, on the network's device.
    Raises: SlicingError where the network cannot be sliced or classifies no image correctly.
    Source: NNSlicer (FSE 2020), section 3.2: 1,000 images a class, correctly classified.
    """
    images, labels = as_batch(images, labels, SlicingError, classes=num_classes)
    graph = Graph(model)
    names = graph.means_needed()
    sums: dict[str, Tensor] = {}
    counts = torch.zeros(num_classes, dtype=torch.int64)
    limit = len(images) if per_class is None else per_class
    for start in bar(range(0, len(images), batch_size), desc="profile"):
        place = torch.arange(start, min(start + batch_size, len(images)))
        place = place[counts[labels[place].cpu()] < limit]
        if len(place) == 0:
            continue
        values, _ = graph.record(images[place], names)
        truth = labels[place].cpu()
        correct = (values[graph.output].argmax(1).cpu() == truth).nonzero()[:, 0]
        earlier = torch.nn.functional.one_hot(truth[correct], num_classes).cumsum(0) - 1
        within = earlier.gather(1, truth[correct][:, None])[:, 0]
        chosen = correct[counts[truth[correct]] + within < limit]
        counts += torch.bincount(truth[chosen], minlength=num_classes)
        for name in names:
            value = values[name][chosen.to(graph.device)]
            if name not in sums:
                sums[name] = value.new_zeros(1 if together else num_classes, *value.shape[1:])
            sums[name].index_add_(0, (truth[chosen] * (not together)).to(graph.device), value)
    if int(counts.sum()) == 0:
        raise SlicingError(f"{type(model).__name__} classifies none of {len(images)} images correctly: train it first")
    if together:
        counts = counts.sum()[None]
    shaped = {
        name: counts.clamp(min=1).to(total.device).view(-1, *[1] * (total.ndim - 1)) for name, total in sums.items()
    }
    by_class = {name: total / shaped[name] for name, total in sums.items()}
    calls = {
        layer: [[op.inputs[0], op.name] for op in ops]
        for layer, ops in graph.layers.items()
        if ops[0].kind in ("convolution", "linear")
    }
    return NeuronProfile(by_class, counts.to(graph.device), calls)


@torch.no_grad()
def first_correct(model: nn.Module, images: ImageSet, positions: Tensor, count: int) -> Tensor:
    """The first positions at which the network is right, up to a count.

    Args:
        model: evaluation mode.
        images: the set that the positions are in.
        positions: int64 (M,), where to look, in this order.
        count: how many to find.
    Returns: int64 (at most count,).
    """
    on = next(model.parameters()).device
    found: list[Tensor] = []
    for part in positions.split(500):
        if sum(map(len, found)) >= count:
            break
        right = model(images.float(on, part)).argmax(1).cpu() == images.labels[part]
        found.append(part[right])
    return torch.cat(found)[:count] if found else positions[:0]
