"""Accuracy under the fast gradient sign method at many eps: one gradient an image serves them all.

Source: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", 2015,
https://arxiv.org/abs/1412.6572, section 4; Maestrati 2020, equation 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from lib.compute import evaluation
from lib.data import as_batch, with_gradients
from lib.graph import logits_in

Gradient = Callable[[nn.Module, Tensor, Tensor, float], Tensor]
"""(model, images (B, C, H, W), labels (B,), temperature) -> gradient (B, C, H, W) of the loss to ascend."""


def fgsm_sweep(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
    temperature: float = 1.0,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Accuracy R(eps) on x + eps sign(grad_x CE(g(x) / T, y)), clipped to [0, 1], from the true label y.

    An image that is misclassified as it is counts as wrong unless the step happens to mend it. The network computes in
    the type of its weights, float32 without TF32 on a GPU, as `compute.evaluation` has it.

    Args:
        model: network from images in [0, 1] to logits; used in evaluation mode, on its own device.
        images: (N, C, H, W), float in [0, 1] or uint8 0..255.
        labels: (N,) whole numbers, the true classes.
        epsilons: L_inf distances in [0, 1], on images in [0, 1].
        temperature: T > 0 of the attacker's loss.
        batch_size: images a pass, >= 1; None for 64 on a CPU (its cache holds them) and 250 elsewhere.

    Returns:
        One row an eps, in the order given: epsilon, accuracy in [0, 1], n (number of images).

    Raises:
        ValueError: no images or no eps; types, values, sizes or labels that do not fit.

    Source: Maestrati 2020, equation 8 and the definition of R after it.
    """
    correct = fgsm_correct(model, images, labels, epsilons, temperature, batch_size)
    accuracy = correct.double().mean(dim=1).tolist()
    return pd.DataFrame({"epsilon": [float(e) for e in epsilons], "accuracy": accuracy, "n": correct.shape[1]})


@with_gradients
def fgsm_correct(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float],
    temperature: float = 1.0,
    batch_size: int | None = None,
    gradient: Gradient | None = None,
) -> Tensor:
    """Whether each image is still classified as its label after the FGSM step, for each eps.

    Args:
        model, images, labels, epsilons, temperature, batch_size: as in `fgsm_sweep`.
        gradient: the gradient whose sign is followed; None for the cross-entropy's. Another network's gradient makes
            this a transfer attack.

    Returns:
        bool (E, N) on the CPU; False is a successful attack.

    Raises:
        ValueError: as in `fgsm_sweep`.
    """
    images, labels = check(images, labels, epsilons, temperature, batch_size)
    gradient = gradient or cross_entropy_gradient
    correct = torch.empty(len(epsilons), len(images), dtype=torch.bool)
    for part, x, y in batches(model, images, labels, batch_size):
        with evaluation(model):
            sign = gradient(model, x, y, temperature).sign()
            with torch.inference_mode():
                for row, epsilon in zip(correct, epsilons, strict=True):
                    moved = torch.add(x, sign, alpha=float(epsilon)).clamp_(0.0, 1.0)
                    row[part] = (logits_in(model(moved)).argmax(dim=1) == y).cpu()
    return correct


def cross_entropy_gradient(model: nn.Module, images: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Gradient of CE(g(x) / T, y) with respect to the images, (B, C, H, W); parameter gradients are not touched."""

    def loss(logits: Tensor) -> Tensor:
        known(labels, logits)
        return nn.functional.cross_entropy(logits / temperature, labels, reduction="sum")

    return image_gradient(loss, model, images)


def known(labels: Tensor, logits: Tensor) -> None:
    """Refuse labels that the network has no logit for, before an index fails on the device.

    Raises:
        ValueError: naming the label and the number of logits.
    """
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"a label is {int(labels.max())}, and the network has {logits.shape[1]} logits")


def image_gradient(loss: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor) -> Tensor:
    """Gradient of loss(logits) with respect to the images only.

    Args:
        loss: from logits (B, classes) to a scalar, a sum over the images.
        model: network, called as it is.
        images: (B, C, H, W) float.

    Returns:
        (B, C, H, W).
    """
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        return torch.autograd.grad(loss(logits_in(model(x))), x)[0]


def batches(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int | None = None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of a checked set, as float in [0, 1] of the network's type and on its device.

    Yields:
        (slice into the set, images (B, C, H, W), labels (B,)).
    """
    like = next(model.parameters(), torch.empty(0))
    size = batch_size or (64 if like.device.type == "cpu" else 250)
    for start in range(0, len(images), size):
        part = slice(start, min(start + size, len(images)))
        x, y = images[part].to(like.device), labels[part].to(like.device, torch.int64)
        yield part, (x.to(like.dtype) / 255 if x.dtype == torch.uint8 else x.to(like.dtype)), y


def check(
    images: Tensor, labels: Tensor, epsilons: Sequence[float], temperature: float = 1.0, batch_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The images and labels of an attack in [0, 1], verified; arguments as in `fgsm_sweep`.

    Raises: ValueError naming the argument, what it is and what it has to be.
    """
    if len(epsilons) == 0 or not all(0.0 <= float(e) <= 1.0 for e in epsilons):
        raise ValueError(f"epsilons are L_inf distances in [0, 1], at least one; got {list(epsilons)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return as_batch(images, labels, unit=True)
