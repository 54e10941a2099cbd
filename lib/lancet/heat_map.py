"""Grad-CAM, the heat map that companions are set beside, and regions cut out of heat maps.

Source: Selvaraju et al. 2017, "Grad-CAM", https://arxiv.org/abs/1610.02391, as captum has it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.compute import evaluation
from lib.lancet.errors import LancetError


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
    from captum.attr import LayerAttribution, LayerGradCam

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
            maps.append(LayerAttribution.interpolate(coarse.detach(), x.shape[-2:], interpolate_mode="bilinear"))
    heat = torch.cat(maps).clamp_min(0)
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
    from lib.lancet.companions import MASK_BLUR, SIDE, blur

    noise = torch.randn(masks.shape, generator=torch.Generator().manual_seed(seed)).to(masks.device)
    smooth = blur(noise, MASK_BLUR * min(masks.shape[-2:]) / SIDE)
    return hottest(smooth, masks.mean(dim=(1, 2, 3)), outside)
