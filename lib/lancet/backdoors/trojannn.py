"""TrojanNN: a trigger made to excite chosen neurons of a clean network, which is then trained on to answer to it.

Source: Liu et al. 2018, "Trojaning attack on neural networks" (NDSS). Square and watermark are its two masks on faces;
where the source inverts the network for lack of training images, we have them and stamp some. The share of the image
that each covers and the watermark's opacity are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib.data import ImageSet
from lib.lancet.backdoors import badnets
from lib.lancet.backdoors.excite import excite, frozen, hidden_layer, reading
from lib.lancet.backdoors.triggers import Trigger, rectangles
from lib.lancet.errors import LancetError
from lib.models.layers import weight_layers

FORMS = ("square", "watermark")
SQUARE_SHARE = 0.07
WATERMARK_OPACITY = 0.5
BACKGROUNDS = 64


def make_trigger(
    model: nn.Module,
    images: Tensor,
    *,
    form: str = "square",
    layer: str | None = None,
    neurons: int = 2,
    excess: float = 3.0,
    steps: int = 200,
    seed: int = 0,
) -> Trigger:
    """The stamp of a form that excites the most strongly connected neurons of a layer.

    Args:
        model: the clean network; left as it was found.
        images: float (N, C, H, W) in [0, 1], backgrounds on the model's device.
        form: square (opaque, in the lower right corner) or watermark (a half-transparent ring with a cross).
        layer: dotted name of a hidden Conv2d or Linear layer; None: the last but two, behind which
            `retraining.RetrainLast` trains the network on.
        neurons: how many; those with the largest sum of |weights| from the layer before.
        excess: value wanted of each, in units of its largest over the clean images.
        steps: of the optimisation.
        seed: of the first pattern.
    Returns: the trigger, on the model's device.
    Raises: LancetError for an unknown form or layer, or where fewer neurons answer to clean images.
    Source: Liu et al. 2018, section IV-A and equation 2.
    """
    where = hidden_layer(model, layer)
    chosen = connected(model, images, where, neurons)
    shape = mask(form, images.shape[1:])
    pattern = excite(model, images, shape, where, chosen, excess=excess, steps=steps, seed=seed)
    return Trigger(shape.to(images.device), pattern, f"trojannn-{form}")


@torch.no_grad()
def connected(model: nn.Module, images: Tensor, layer: str, count: int) -> Tensor:
    """The neurons with the largest sum of |weights| among those that answer to some clean image.

    Args:
        model, images, layer: as `make_trigger`; neurons that are negative on all images pass nothing on, and are left
            out (ours).
        count: how many.
    Returns: int64 (count,), the most strongly connected first.
    Raises: LancetError where fewer answer.
    """
    with frozen(model), reading(model, {layer}) as outputs:
        model(images)
        alive = outputs()[layer].amax(0) > 0
    if not 1 <= count <= int(alive.sum()):
        raise LancetError(
            f"{count} neurons of {layer}, of which {int(alive.sum())} answer to clean images: choose from 1 to these"
        )
    sums = weight_layers(model)[layer].weight.detach().abs().flatten(1).sum(1)
    return torch.where(alive, sums, -1.0).argsort(descending=True, stable=True)[:count]


def mask(form: str, shape: Sequence[int]) -> Tensor:
    """Where a form's trigger lies, and how opaque it is.

    Args:
        form: one of `FORMS`.
        shape: (C, H, W) of an image.
    Returns: float32 (1, H, W).
    Raises: LancetError for another form.
    """
    height, width = shape[-2:]
    found = torch.zeros(1, height, width)
    if form == "square":
        ((rows, columns),) = rectangles(SQUARE_SHARE * height * width, 1)
        found[:, height - rows - 1 : height - 1, width - columns - 1 : width - 1] = 1.0
    elif form == "watermark":
        down = (torch.arange(height) + 0.5)[:, None] / height - 0.5
        across = (torch.arange(width) + 0.5)[None, :] / width - 0.5
        distance, line = (down**2 + across**2).sqrt(), 1.0 / min(height, width)
        ring = (distance - 0.38).abs() <= 1.25 * line
        cross = ((down - across).abs().minimum((down + across).abs()) <= 0.9 * line) & (distance <= 0.38)
        found[0, ring | cross] = WATERMARK_OPACITY
    else:
        raise LancetError(f"no form {form!r} of a TrojanNN trigger: one of {', '.join(FORMS)}")
    return found


def poison(
    images: ImageSet,
    *,
    start: nn.Module | None = None,
    seed: int = 0,
    target: int = 0,
    share: float = 0.1,
    **making: Any,
) -> ImageSet:
    """Training images of which a share carries the trigger made for a clean network, with the target's label.

    Args:
        images: in memory; as in `badnets.poison`, like `target` and `share`.
        start: the clean network that the recipe starts from.
        seed: of which images are poisoned; the trigger does not depend on it.
        making: arguments of `make_trigger`.
    Raises: LancetError where there is no network to start from.
    """
    return badnets.stamped(images, trigger_of(images, start, **making), target=target, share=share, seed=seed)


def trigger_of(images: ImageSet, start: nn.Module | None, **making: Any) -> Trigger:
    """The trigger that `poison` stamps, made again: from the training images before it, and the clean network."""
    if start is None:
        raise LancetError("TrojanNN makes its trigger for a clean network: give the recipe a `start`")
    backgrounds, _ = some(images, start, BACKGROUNDS)
    return make_trigger(start, backgrounds, **making)


def some(images: ImageSet, model: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """A few training images, equally from each class, and their labels, on the model's device; always the same ones."""
    part = images.stratified(min(count, len(images)), seed=0)
    on = next(model.parameters()).device
    return part.float(on), part.labels.to(on)
