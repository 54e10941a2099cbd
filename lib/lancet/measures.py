"""What every table of the backdoor study carries: attack success rate, and what is left of the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.data import ImageSet
from lib.graph import logits_in
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError

NAMES = ("accuracy", "attack_success", "target_recall", "stamped_accuracy", "natural_target_rate")
"""The measures of `measure`, in the order of the tables."""


def measure(
    model: nn.Module,
    images: Tensor | ImageSet,
    labels: Tensor | None,
    trigger: Trigger,
    target: int,
    batch: int = 500,
) -> dict[str, float]:
    """Accuracy and the attack success rate, with what either may hide.

    Args:
        model: any classifier of images in [0, 1]; evaluated in evaluation mode and left as it was found.
        images: float (N, C, H, W) in [0, 1], or an image set.
        labels: int64 (N,); None: the image set's.
        trigger: stamped on the images.
        target: the class that the backdoor answers with.
        batch: images at a time.
    Returns: accuracy (clean images), attack_success (stamped images not of the target class that are predicted as the
        target), target_recall (clean images of the target class predicted as it; nan where there are none),
        stamped_accuracy (stamped images not of the target class predicted as what they are), natural_target_rate
        (clean images not of the target class predicted as the target: the floor that success cannot fall below
        without changing the clean network's answers), n (images), n_target (of them of the target class).
    Raises: LancetError where every image is of the target class, or there is none.
    Source: AI-Lancet (Zhao et al. 2021), evaluation; the last three are ours.
    """
    images, labels = _pair(images, labels)
    others = labels != target
    if not bool(others.any()):
        raise LancetError(
            f"none of the {len(others)} images is of another class than the target {target}: success is counted on "
            "images of the other classes, give some"
        )
    clean = predictions(model, images, None, batch)
    stamped = predictions(model, _chosen(images, others), trigger, batch)
    truth = labels[others]
    every = torch.ones_like(labels, dtype=torch.bool)
    return {
        "accuracy": _share(clean == labels, every),
        "attack_success": _share(stamped == target, every[others]),
        "target_recall": _share(clean == target, ~others),
        "stamped_accuracy": _share(stamped == truth, every[others]),
        "natural_target_rate": _share(clean == target, others),
        "n": len(labels),
        "n_target": int((~others).sum()),
    }


@torch.no_grad()
def predictions(
    model: nn.Module, images: Tensor | ImageSet, trigger: Trigger | None = None, batch: int = 500
) -> Tensor:
    """Arg-max classes, int64 (N,) on the CPU, of images as they are or stamped.

    Args: as `measure`; trigger None: as they are.
    """
    first = next(model.parameters(), None)
    on = torch.device("cpu") if first is None else first.device
    trigger = trigger and trigger.to(on)
    was_training = model.training
    model.eval()
    found = []
    try:
        for start in range(0, len(images), batch):
            part = _floats(images, slice(start, start + batch), on)
            logits = logits_in(model(part if trigger is None else trigger.stamp(part)), LancetError)
            found.append(logits.argmax(1).cpu())
    finally:
        model.train(was_training)
    return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)


def _floats(images: Tensor | ImageSet, part: slice, on: torch.device) -> Tensor:
    return images.float(on, part) if isinstance(images, ImageSet) else images[part].to(on)


def _chosen(images: Tensor | ImageSet, mask: Tensor) -> Tensor | ImageSet:
    return images.subset(mask) if isinstance(images, ImageSet) else images[mask.to(images.device)]


def _pair(images: Tensor | ImageSet, labels: Tensor | None) -> tuple[Tensor | ImageSet, Tensor]:
    if labels is None:
        if not isinstance(images, ImageSet):
            raise LancetError("labels are missing: give int64 (N,) with a tensor of images, or an image set")
        labels = images.labels
    if len(images) != len(labels):
        raise LancetError(f"{len(images)} images and {len(labels)} labels: give one label an image")
    return images, labels.detach().cpu()


def _share(hits: Tensor, among: Tensor) -> float:
    """Share of hits among the chosen; nan among none."""
    return hits[among].double().mean().item() if bool(among.any()) else float("nan")
