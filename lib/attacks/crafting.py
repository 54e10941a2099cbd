"""One attack on images in memory: `attack` and what it returns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lib.attacks.goal import attackable, device_of, image_seeds, predictions
from lib.attacks.suite import find, perturbation
from lib.data import as_images, as_labels, with_gradients


@dataclass(frozen=True, eq=False)
class Adversarials:
    """What an attack made of some images; all tensors are on the CPU.

    Attributes:
        name: of the attack.
        images: float32 (N, C, H, W) in [0, 1]; where the attack failed, the clean image.
        labels: int64 (N,) true classes.
        predicted: int64 (N,) the network's classes for `images`.
        success: bool (N,): the network classifies the clean image as its label, and this one not.
        distance: float32 (N,) of each image from the clean one, in the attack's norm; 0 where it failed.
        index: int64 (N,) positions in the set that the images come from.
        seconds: that making them took.
    """

    name: str
    images: Tensor
    labels: Tensor
    predicted: Tensor
    success: Tensor
    distance: Tensor
    index: Tensor
    seconds: float

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> Adversarials:
        """Those rows alone: integers, a mask (N,) or a slice."""
        fields = ("images", "labels", "predicted", "success", "distance", "index")
        return replace(self, **{name: getattr(self, name)[rows] for name in fields})

    @property
    def success_rate(self) -> float:
        """Share of the images for which the attack succeeded; NaN without images."""
        return float(self.success.double().mean())

    @property
    def median_distance(self) -> float:
        """Median distance of the successful ones in the attack's norm; NaN where there are none."""
        return float(self.distance[self.success].median()) if bool(self.success.any()) else float("nan")


@with_gradients
def attack(
    name: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch: int = 100,
) -> Adversarials:
    """Attack images, untargeted, with one attack of the suite.

    An image's random numbers come from `seed`, the attack and the image alone; but for the rounding of sums that a
    batch's size may change, its result does not depend on the other images. CWL2 is the exception: as in Foolbox, it
    gives a constant up early for its whole batch.

    Args:
        name: in `SUITE`.
        model: (B, C, H, W) in [0, 1] -> logits (B, classes); used in evaluation mode and left as it was.
        images: (N, C, H, W) floating, in [0, 1], or uint8; on any device.
        labels: (N,) true classes. An image that the network misclassifies as it is counts as failed.
        parameters: changes to the attack's defaults.
        seed: of all that is random.
        batch: images at a time.

    Returns:
        Adversarials in the order of the images; index is 0 .. N - 1.

    Raises:
        AttackError: for an attack or a parameter that does not exist.
        ValueError: for images, labels or a batch that do not fit.
    """
    row = find(name)
    chosen = row.parameters(parameters)
    images = as_images(images, unit=True)
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    labels = as_labels(labels, len(images))
    check(images, labels, batch)
    device = device_of(model)
    kinds = {parameter.dtype for parameter in model.parameters()} - {torch.float32}
    if kinds:
        raise ValueError(f"the network has parameters of {kinds.pop()}: attacks run in float32; give model.float()")
    with attackable(model, seed), torch.no_grad():
        found = model(images[:1].to(device, torch.float32))
    if not isinstance(found, Tensor):
        raise ValueError(
            f"the network returns a {type(found).__name__}: wrap it in a module that returns the logits alone"
        )
    began = time.perf_counter()
    images, labels = images.detach(), labels.detach().cpu()
    parts = []
    for clean, classes in zip(images.split(batch), labels.split(batch), strict=True):
        clean = clean.to("cpu", torch.float32)
        with attackable(model, seed) as target:  # seeds anew for every batch
            made = clean.clone()
            right = predictions(target, clean) == classes
            if bool(right.any()):
                chance = image_seeds(name, clean[right], seed)
                crafted = row.craft(target, clean[right].to(device), classes[right].to(device), chosen, chance)
                made[right] = crafted.detach().cpu().clamp(0, 1)
            parts.append(settle(target, row.name, clean, made, classes, chosen))
    made, classes, predicted, success, distance = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    seconds = time.perf_counter() - began
    return Adversarials(name, made, classes, predicted, success, distance, torch.arange(len(labels)), seconds)


def settle(
    target: Any, name: str, clean: Tensor, made: Tensor, labels: Tensor, parameters: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Keep the images that are adversarial and allowed, put the clean one back for the others.

    Args:
        target: a network, or one as Foolbox takes it.
        name: of the attack.
        clean, made: float32 (N, C, H, W) on the CPU; one that the attack did not change has failed.
        labels: int64 (N,).
        parameters: all of the attack's.

    Returns:
        images, labels, predicted, success, distance, as in `Adversarials`.
    """
    row = find(name)
    predicted = predictions(target, made)
    changed = (made != clean).flatten(1).any(dim=1)
    success = changed & (predicted != labels) & row.allowed(clean, made, parameters)
    kept = torch.where(success[:, None, None, None], made, clean)
    undone = changed & ~success
    if bool(undone.any()):
        predicted[undone] = predictions(target, clean[undone])
    return kept, labels, predicted, success, perturbation(clean, kept, row.norm)


def check(images: Tensor, labels: Tensor, batch: int) -> None:
    """Raises: ValueError where images, labels and batch do not fit an attack."""
    if images.ndim != 4 or not images.dtype.is_floating_point:
        raise ValueError(f"images {images.dtype} {tuple(images.shape)}: want floating (N, C, H, W) in [0, 1]")
    if labels.shape != (len(images),) or labels.dtype != torch.int64:
        raise ValueError(f"labels {labels.dtype} {tuple(labels.shape)} for {len(images)} images: want int64 (N,)")
    if len(images) == 0:
        raise ValueError("there are no images to attack")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images hold values outside [0, 1], or NaN")
    if batch < 1:
        raise ValueError(f"batch is {batch}: a whole number from 1")
