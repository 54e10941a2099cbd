"""What error-inducing weights respond to, and whether the region they blame is to blame.

A class is visualised by an image that excites it most, before and after its error-inducing weights are isolated: of
their layer all other weights are set to zero, so that only what the error comes from is left. Then the blamed region of
a wrong input is blurred, and beside it an alternative that one might have blamed instead, more and more; where the
network's answer and its confidence follow the one and not the other, the region explains the error.

Source: Zhao, Zhu, Chen and Shen, "AI-Lancet", CCS 2021, section on explaining errors. Visualisation by optimisation
with jitter and a smooth image: Olah, Mordvintsev and Schubert 2017, https://distill.pub/2017/feature-visualization.
Heat maps beside it: Selvaraju et al. 2017, "Grad-CAM", https://arxiv.org/abs/1610.02391, as captum has it, and Zhou et
al. 2016, "Learning Deep Features for Discriminative Localization" (CAM), https://arxiv.org/abs/1512.04150.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.compute import evaluation
from lib.graph import copied
from lib.lancet.companions import MASK_BLUR, apply, blur
from lib.lancet.errors import LancetError
from lib.lancet.locating import Votes
from lib.lancet.locating.locate import error_inducing
from lib.models.layers import weight_layers

STEPS = 256
LEARNING_RATE = 0.05
SMOOTH = 0.5  # sigma in pixels of a 32-pixel side, of the blur between the free image and what the network sees
VARIATION = 0.05  # weight of the total variation, a pixel and channel
SIDE = 32


def isolated(model: nn.Module, votes: Votes | Mapping[str, Votes], layer: str, *, least_votes: int = 1) -> nn.Module:
    """A copy in which a layer keeps its error-inducing weights only; its other weights are zero, its bias stays.

    Args:
        model: left as it is.
        votes: from `locate`.
        layer: dotted name.
        least_votes: votes that make a weight error-inducing, from 1.
    Raises: LancetError where the layer is unknown or no weight has so many votes.
    """
    return _masked(model, layer, error_inducing(votes, layer, _weight(model, layer), least_votes))


def ablated(model: nn.Module, votes: Votes | Mapping[str, Votes], layer: str, *, least_votes: int = 1) -> nn.Module:
    """A copy in which a layer's error-inducing weights are zero; arguments as `isolated`."""
    return _masked(model, layer, ~error_inducing(votes, layer, _weight(model, layer), least_votes))


def _weight(model: nn.Module, layer: str) -> Tensor:
    known = weight_layers(model)
    if layer not in known:
        raise LancetError(f"no layer {layer!r} with weights in this network: one of {', '.join(known)}")
    return known[layer].weight


@torch.no_grad()
def _masked(model: nn.Module, layer: str, keep: Tensor) -> nn.Module:
    changed = copied(model, LancetError)
    weight = weight_layers(changed)[layer].weight
    weight.mul_(keep.to(weight))
    return changed


def visualise(
    model: nn.Module,
    classes: Tensor,
    shape: Sequence[int],
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> Tensor:
    """An image for each class that excites it most: its logit less the mean of the others, by Adam.

    The image is the sigmoid of a smoothed free one, from grey noise; it is shifted by up to a sixteenth of its side at
    each step, and its total variation is in the loss, so that what comes out is more than noise.

    Args:
        model: from images in [0, 1] to logits; left as it is.
        classes: int64 (N,).
        shape: (C, H, W) of an image.
        steps: of Adam.
        learning_rate: of Adam.
        seed: of the first image (the same for every class) and the shifts.
    Returns: float32 (N, C, H, W) in [0, 1], on the model's device.
    Raises: LancetError where there is no class.
    Source: AI-Lancet, section on explaining errors; Olah et al. 2017.
    """
    if not len(classes):
        raise LancetError("no class to visualise: give at least one")
    like = next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(seed)
    start = 0.1 * torch.randn(1, *shape, generator=generator)
    free = start.expand(len(classes), *shape).clone().to(like.device).requires_grad_()
    labels, side = classes.to(like.device), min(shape[-2:])
    adam = torch.optim.Adam([free], lr=learning_rate)
    reach = max(1, side // 16)
    with evaluation(model), torch.enable_grad():
        for _ in range(steps):
            rows, columns = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
            images = _seen(free, side)
            logits = model(images.roll((rows, columns), dims=(2, 3)))
            own = logits.gather(1, labels[:, None])[:, 0]
            others = (logits.sum(1) - own) / max(1, logits.shape[1] - 1)
            variation = (images.diff(dim=2) ** 2).sum() + (images.diff(dim=3) ** 2).sum()
            loss = (others - own).sum() + VARIATION * variation
            free.grad = torch.autograd.grad(loss, free)[0]
            adam.step()
    return _seen(free.detach(), side)


def _seen(free: Tensor, side: int) -> Tensor:
    return torch.sigmoid(4 * blur(free, SMOOTH * side / SIDE))


@dataclass(frozen=True, eq=False)
class Blurred:
    """A network's answers with a region blurred.

    Attributes:
        sigmas: of the blurs, in pixels (S,).
        predicted: int64 (S, N).
        wrong_confidence: probability of the class that the input was taken for, (S, N).
        true_confidence: probability of the true class, (S, N).
    """

    sigmas: tuple[float, ...]
    predicted: Tensor
    wrong_confidence: Tensor
    true_confidence: Tensor


@torch.no_grad()
def blurred(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    predicted: Tensor,
    regions: Tensor,
    sigmas: Sequence[float],
    batch: int = 256,
) -> Blurred:
    """A region of each wrong input blurred more and more, and what the network then answers.

    Args:
        model: left as it is.
        images: float (N, C, H, W) in [0, 1].
        labels, predicted: int64 (N,): the true class, and what the network takes the input for.
        regions: float (N, 1, H, W) in [0, 1].
        sigmas: in pixels; 0: the input as it is.
    Returns: `Blurred`, on the CPU.
    Raises: LancetError for shapes that do not fit.
    Source: AI-Lancet, section on explaining errors: the barbed wire and the border of the street sign.
    """
    if regions.shape != (len(images), 1, *images.shape[-2:]):
        raise LancetError(f"regions {tuple(regions.shape)} for images {tuple(images.shape)}: want (1, H, W) for each")
    like = next(model.parameters(), torch.empty(0))
    rows = torch.arange(len(images))
    answers: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluation(model):
        for sigma in sigmas:
            parts = []
            for start in range(0, len(images), batch):
                part = slice(start, start + batch)
                x = apply(images[part].to(like.device), regions[part].to(like.device), sigma)
                parts.append(F.softmax(model(x).float(), dim=1).cpu())
            odds = torch.cat(parts)
            answers.append((odds.argmax(1), odds[rows, predicted.cpu()], odds[rows, labels.cpu()]))
    found, wrong, true = (torch.stack(entries) for entries in zip(*answers, strict=True))
    return Blurred(tuple(sigmas), found, wrong, true)


def last_convolution(model: nn.Module) -> str:
    """Dotted name of the last Conv2d that a network defines. Raises: LancetError where it has none."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not names:
        raise LancetError(f"{type(model).__name__} has no Conv2d: Grad-CAM needs a layer with a height and a width")
    return names[-1]


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, *, layer: str | None = None, batch: int = 64) -> Tensor:
    """How much each place speaks for a class: Grad-CAM at a convolution, brought to the image's size.

    Args:
        model: from images in [0, 1] to logits; left as it is.
        images: float (N, C, H, W) in [0, 1].
        classes: int64 (N,): the class that each map is for.
        layer: dotted name of a Conv2d; None: the last one defined.
        batch: images at a time.
    Returns: float32 (N, 1, H, W) from 0, each map's largest value 1 (all zero where nothing speaks for the class).
    Raises: LancetError where the network has no such layer.
    """
    from captum.attr import LayerGradCam

    name = layer or last_convolution(model)
    modules = dict(model.named_modules())
    if name not in modules:
        raise LancetError(f"the network has no layer {name!r}: one of {', '.join(n for n in modules if n)}")
    like = next(model.parameters(), torch.empty(0))
    maps = []
    with evaluation(model), torch.enable_grad():
        method = LayerGradCam(model, modules[name])
        for x, y in zip(images.split(batch), classes.split(batch), strict=True):
            x = x.to(like.device, torch.float32).requires_grad_()
            coarse = method.attribute(x, target=y.to(like.device), relu_attributions=True)
            maps.append(_heat(coarse.detach(), x))
    return torch.cat(maps)


def class_activation_map(model: nn.Module, images: Tensor, classes: Tensor, *, batch: int = 64) -> Tensor:
    """How much each place speaks for a class: CAM, the last features weighted by the class's row of the last layer.

    It is for networks whose last layer is linear and takes the mean of each channel over all places, as a ResNet's.

    Args:
        model: from images in [0, 1] to logits; left as it is.
        images: float (N, C, H, W) in [0, 1].
        classes: int64 (N,): the class that each map is for.
        batch: images at a time.
    Returns: as `grad_cam`.
    Raises: LancetError where the last layer of the network is not a linear one on the means of a module's channels.
    Source: Zhou et al. 2016.
    """
    like, caught = next(model.parameters(), torch.empty(0)), _Last(model)
    hooks = [module.register_forward_hook(caught.see) for module in model.modules()]
    maps = []
    try:
        with evaluation(model), torch.no_grad():
            for x, y in zip(images.split(batch), classes.split(batch), strict=True):
                x = x.to(like.device, torch.float32)
                caught.clear()
                model(x)
                features, weight = caught.features()
                maps.append(_heat(torch.einsum("nchw,nc->nhw", features, weight[y.to(like.device)])[:, None], x))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(maps)


class _Last:
    """A pass's last linear layer with its input, and the maps that modules put out before it."""

    def __init__(self, model: nn.Module) -> None:
        self.widths = {module.in_features for module in model.modules() if isinstance(module, nn.Linear)}
        self.clear()

    def clear(self) -> None:
        self.maps: list[Tensor] = []
        self.layer: nn.Linear | None = None
        self.input = torch.empty(0)

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            self.layer, self.input = module, inputs[0]
        elif isinstance(output, Tensor) and output.dim() == 4 and output.shape[1] in self.widths:
            self.maps.append(output)

    def features(self) -> tuple[Tensor, Tensor]:
        """The map whose means the last layer takes, and that layer's weights."""
        if self.layer is None:
            raise LancetError("CAM is of networks that end in a linear layer, and this one calls none")
        for found in reversed(self.maps):
            means = found.mean(dim=(2, 3))
            if found[0, 0].numel() > 1 and means.shape == self.input.shape and torch.allclose(means, self.input, 1e-4):
                return found, self.layer.weight
        raise LancetError("CAM is of networks whose last layer takes the mean of a map over its places: use Grad-CAM")


def _heat(coarse: Tensor, images: Tensor) -> Tensor:
    """A coarse map (N, 1, h, w) at the images' size, from 0, its largest value 1."""
    heat = F.interpolate(coarse.clamp_min(0), images.shape[-2:], mode="bilinear")
    return heat / heat.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)


def hottest(heat: Tensor, areas: Tensor, outside: Tensor | None = None) -> Tensor:
    """The hottest part of each map, as large as asked for; equal values go by position.

    Args:
        heat: float (N, 1, H, W).
        areas: share of the image (N,) in [0, 1].
        outside: (N, 1, H, W), places above 0.5 are left out; None: none.
    Returns: float32 (N, 1, H, W) of 0 and 1; smaller than asked for only where too little lies outside.
    """
    flat = heat.flatten(1)
    barred = torch.zeros_like(flat, dtype=torch.bool) if outside is None else outside.flatten(1) > 0.5
    order = flat.masked_fill(barred, -torch.inf).argsort(dim=1, descending=True, stable=True)
    wanted = (areas.to(flat.device) * flat.shape[1]).round().clamp_max((~barred).sum(dim=1)).long()
    chosen = torch.arange(flat.shape[1], device=flat.device)[None] < wanted[:, None]
    return torch.zeros_like(flat).scatter_(1, order, chosen.to(flat.dtype)).view_as(heat)


def random_regions(masks: Tensor, seed: int, outside: Tensor | None = None) -> Tensor:
    """Regions as large as the given ones and as connected as smooth noise makes them, anywhere in the image.

    Args:
        masks: float (N, 1, H, W) of 0 and 1.
        seed: of the noise.
        outside: as in `hottest`.
    Returns: float32 (N, 1, H, W) of 0 and 1.
    """
    noise = torch.randn(masks.shape, generator=torch.Generator().manual_seed(seed)).to(masks.device)
    smooth = blur(noise, MASK_BLUR * min(masks.shape[-2:]) / SIDE)
    return hottest(smooth, masks.mean(dim=(1, 2, 3)), outside)
