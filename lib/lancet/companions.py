"""Companions: an input without the region that misleads the network, found by optimising a mask over a blur.

x' = x (1 - M) + blur(x) M with one mask M in [0, 1] an image, made from a free map m so that the region is small (the
sum of M is in the loss), clear-cut (a sigmoid) and connected (a blur):

- "stated", as the source has it: M = blur(sigmoid(m)), descended until the network is right for the first time.
  The mask is then soft: what the network reacts to may be a faint haze over the whole image.
- "hard", ours: M is 0 or 1 wherever the network looks, the sign of the blurred map, with the gradient of
  sigmoid(s blur(m)) in its place. An image's weight on size rises while the network is right and falls while it is
  wrong, over a fixed number of steps, and the smallest mask that the network is right with is kept.

Each image's map has its own loss and its own Adam, so that an image's companion does not depend on its batch.

Source: Zhao, Zhu, Chen and Shen, "AI-Lancet", CCS 2021, section on error localisation (pairs <x, x'>). The weight on
the mask's size and the widths of the blurs are not stated: ours. Straight-through gradient: Bengio, Léonard and
Courville 2013, https://arxiv.org/abs/1308.3432.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.compute import evaluation
from lib.data import as_batch
from lib.lancet.errors import LancetError
from lib.lancet.locating import Votes
from lib.progress import bar

METHODS = ("hard", "stated")
STEPS = 150
LEARNING_RATE = 0.1
IMAGE_BLUR = 4.0  # sigma in pixels of a 32-pixel side; larger images take it in proportion
MASK_BLUR = 2.0
SIDE = 32
SHARPNESS = 5.0
FIRST_WEIGHT, WEIGHT_FACTOR, WEIGHT_EVERY = 1e-3, 1.5, 5
STATED_START = -3.0  # sigmoid: a mask of 5 % everywhere
STATED_WEIGHT = 1e-3


@dataclass(frozen=True, eq=False)
class Companions:
    """Pairs' second halves.

    Attributes:
        images: float32 (N, C, H, W) in [0, 1]; where none was found, the input itself.
        masks: float32 (N, 1, H, W) in [0, 1]; zero where none was found.
        found: bool (N,): the network gives the companion its true label.
    """

    images: Tensor
    masks: Tensor
    found: Tensor

    def __len__(self) -> int:
        return len(self.found)

    @property
    def area(self) -> Tensor:
        """Share of the image that each mask covers, its mean, float32 (N,)."""
        return self.masks.mean(dim=(1, 2, 3))


def companions(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    method: str = "hard",
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    weight: float | None = None,
    image_blur: float | None = None,
    mask_blur: float | None = None,
    sharpness: float = SHARPNESS,
    batch: int = 64,
) -> Companions:
    """A companion for each misclassified input, batched over inputs.

    Args:
        model: from images in [0, 1] to logits; left as it is, mode included.
        images: float (N, C, H, W) in [0, 1].
        labels: int64 (N,): the true labels.
        method: "hard" (ours) or "stated" (the source's, which stops an image at the first success).
        steps: of Adam; for "stated" the most that are tried.
        learning_rate: of Adam.
        weight: w, the loss's weight on the sum of the mask (on a side of 32 pixels; larger images have more pixels
            and take it in proportion); for "hard" where it begins. None: 1e-3.
        image_blur, mask_blur: sigma in pixels; None: 4 and 2 on a side of 32, in proportion on others.
        sharpness: s of the sigmoid ("hard" only).
        batch: images optimised together; the result does not depend on it but for rounding.

    Returns: `Companions`, on the device of the model. An input that the network gets right needs none: its mask is
        empty and it counts as found.
    Raises: LancetError for shapes, labels or a method that do not fit, or where there is no input.
    Source: AI-Lancet, section on error localisation.
    """
    if method not in METHODS:
        raise LancetError(f"no method {method!r} for companions: one of {', '.join(METHODS)}")
    images, labels = as_batch(images, labels, LancetError, unit=True)
    images = images / 255 if images.dtype == torch.uint8 else images
    like = next(model.parameters(), torch.empty(0))
    scale = min(images.shape[-2:]) / SIDE
    blurs = (
        IMAGE_BLUR * scale if image_blur is None else image_blur,
        MASK_BLUR * scale if mask_blur is None else mask_blur,
    )
    default = FIRST_WEIGHT if method == "hard" else STATED_WEIGHT
    own = (default if weight is None else weight) / scale**2
    masks, found = [], []
    with evaluation(model):
        for start in bar(range(0, len(images), batch), desc="companions"):
            part = slice(start, start + batch)
            x, y = images[part].to(like.device, torch.float32), labels[part].to(like.device)
            search = _hard if method == "hard" else _stated
            mask, right = search(model, x, y, steps, learning_rate, own, blurs, sharpness)
            masks.append(mask)
            found.append(right)
    kept, right = torch.cat(masks), torch.cat(found)
    kept = torch.where(right[:, None, None, None], kept, 0.0)
    x = images.to(like.device, torch.float32)
    return Companions(apply(x, kept, blurs[0]), kept, right)


def apply(images: Tensor, masks: Tensor, sigma: float) -> Tensor:
    """x' = x (1 - M) + blur(x) M.

    Args:
        images: float (N, C, H, W).
        masks: float (N, 1, H, W) in [0, 1].
        sigma: of the blur, in pixels.
    """
    return images + masks * (blur(images, sigma) - images)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, the border repeated outwards; a constant image stays as it is.

    Args:
        images: float (N, C, H, W).
        sigma: in pixels; 0 leaves the images as they are. The kernel reaches 3 sigma.
    Raises: LancetError for a negative sigma.
    """
    if sigma < 0:
        raise LancetError(f"sigma of a blur is {sigma}: 0 or more pixels")
    if sigma == 0:
        return images
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    channels = images.shape[1]
    wide = F.conv2d(F.pad(images, (reach, reach, 0, 0), mode="replicate"), kernel, groups=channels)
    return F.conv2d(F.pad(wide, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3), groups=channels)


def default_blur(images: Tensor) -> float:
    """Sigma of the image blur that `companions` takes for images of this size, in pixels."""
    return IMAGE_BLUR * min(images.shape[-2:]) / SIDE


class _Adam:
    """Adam on maps (N, 1, H, W), of which some may be dropped on the way. Kingma and Ba 2015, arXiv 1412.6980."""

    def __init__(self, maps: Tensor, learning_rate: float) -> None:
        self.maps, self.rate, self.count = maps, learning_rate, 0
        self.first, self.second = torch.zeros_like(maps), torch.zeros_like(maps)

    def step(self, gradient: Tensor) -> None:
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        ahead = self.first / (1 - 0.9**self.count)
        self.maps = self.maps - self.rate * ahead / ((self.second / (1 - 0.999**self.count)).sqrt() + 1e-8)

    def keep(self, chosen: Tensor) -> None:
        self.maps, self.first, self.second = self.maps[chosen], self.first[chosen], self.second[chosen]


def _hard(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int,
    learning_rate: float,
    weight: float,
    blurs: tuple[float, float],
    sharpness: float,
) -> tuple[Tensor, Tensor]:
    """The smallest hard mask of each image that the network is right with, and whether there was one."""
    change = blur(images, blurs[0]) - images
    adam = _Adam(torch.zeros_like(images[:, :1]), learning_rate)
    weights = torch.full((len(images),), weight, device=images.device)
    best = torch.zeros_like(adam.maps)
    size = torch.full((len(images),), torch.inf, device=images.device)
    for step in range(steps + 1):  # the last round only looks
        maps = adam.maps.detach().requires_grad_()
        with torch.enable_grad():
            soft = torch.sigmoid(sharpness * blur(maps, blurs[1]))
            hard = (soft.detach() > 0.5).float()
            mask = hard + soft - soft.detach()
            logits = model(images + mask * change)
            losses = F.cross_entropy(logits, labels, reduction="none") + weights * mask.sum(dim=(1, 2, 3))
            gradient = torch.autograd.grad(losses.sum(), maps)[0]
        right = logits.detach().argmax(1) == labels
        covered = hard.sum(dim=(1, 2, 3))
        better = right & (covered < size)
        best = torch.where(better[:, None, None, None], hard, best)
        size = torch.where(better, covered, size)
        if step % WEIGHT_EVERY == WEIGHT_EVERY - 1:
            weights = torch.where(right, weights * WEIGHT_FACTOR, weights / WEIGHT_FACTOR)
        adam.step(gradient)
    return best, torch.isfinite(size)


def _stated(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int,
    learning_rate: float,
    weight: float,
    blurs: tuple[float, float],
    sharpness: float,
) -> tuple[Tensor, Tensor]:
    """The first soft mask of each image that the network is right with; images that are done leave the batch."""
    masks = torch.zeros_like(images[:, :1])
    found = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    with torch.no_grad():
        found |= model(images).argmax(1) == labels
    active = torch.nonzero(~found).flatten()
    adam = _Adam(torch.full_like(masks[active], STATED_START), learning_rate)
    change = blur(images, blurs[0]) - images
    for _ in range(steps + 1):  # the last round only looks
        if not len(active):
            break
        maps = adam.maps.detach().requires_grad_()
        with torch.enable_grad():
            mask = blur(torch.sigmoid(maps), blurs[1])
            logits = model(images[active] + mask * change[active])
            losses = F.cross_entropy(logits, labels[active], reduction="none") + weight * mask.sum(dim=(1, 2, 3))
            gradient = torch.autograd.grad(losses.sum(), maps)[0]
        right = logits.detach().argmax(1) == labels[active]
        masks[active[right]] = mask.detach()[right]
        found[active[right]] = True
        adam.step(gradient)
        adam.keep(~right)
        active = active[~right]
    return masks, found


def least_votes(votes: Votes, share: float) -> int:
    """The fewest votes that at most a share of the layer's weights have; where even the most are too many, the most.

    Over many pairs nearly every weight of a layer has some vote: those with the most are what the errors share.

    Raises: LancetError where no weight has a vote.
    """
    counts = votes.counts.flatten()
    most = int(counts.max())
    if most < 1:
        raise LancetError(f"no weight of layer {votes.layer!r} has a vote: nothing is located, nothing is changed")
    for least in range(1, most):
        if int((counts >= least).sum()) <= share * counts.numel():
            return least
    return most


def found_companions(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs <x, x'> and labels of those inputs whose companion is found.

    Raises: LancetError where none is.
    """
    made = companions(model, images, labels, steps=steps)
    found = made.found.cpu()
    if not bool(found.any()):
        raise LancetError(
            f"no companion was found for any of {len(images)} wrong inputs in {steps} steps, so nothing can be located "
            "and the network is left as it is: give more steps or other inputs"
        )
    return images[found], made.images.cpu()[found], labels[found]
