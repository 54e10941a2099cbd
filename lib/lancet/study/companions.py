"""Companions of a network's wrong inputs, by both optimisations, beside Grad-CAM: computed once for the notebook."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import compute, config, evaluations
from lib.data import ImageSet
from lib.lancet.companions import apply, companions, default_blur
from lib.lancet.heat_map import grad_cam, hottest, random_regions
from lib.lancet.measures import predictions
from lib.lancet.study import wrong

VERSION = 1  # raise it when a change in this study's code changes its numbers
METHODS = ("hard", "stated", "grad-cam", "random")
"""Ours; the source's; the hottest part of Grad-CAM and a random region, each as large as our mask and blurred alike."""


@dataclass(frozen=True, eq=False)
class Compared:
    """Wrong inputs with the mask and the companion of each method.

    Attributes:
        images, labels, predicted: (n, C, H, W), (n,), (n,).
        masks, companions: method -> (n, 1, H, W), (n, C, H, W).
        found: method -> bool (n,).
        heat: Grad-CAM of the wrong class, (n, 1, H, W).
    """

    images: Tensor
    labels: Tensor
    predicted: Tensor
    masks: dict[str, Tensor]
    companions: dict[str, Tensor]
    found: dict[str, Tensor]
    heat: Tensor


def make(scale: str, seed: int) -> None:
    """All that the notebook shows of one seed: a node of the graph."""
    compute.deterministic()
    for each in wrong.seeds_for(scale, seed):
        measured(scale, each)


def first_half(scale: str) -> ImageSet:
    """test1 of the study's data set."""
    return wrong.halves_of(wrong.data_of(scale), wrong.settings(scale)["defect_test_images"])[0]


def compared(model: nn.Module, half: wrong.Half, count: int, steps: int, seed: int = 0) -> Compared:
    """All methods on the same wrong inputs.

    Args:
        model: the network.
        half: whose wrong inputs are taken.
        count: how many of them, at most.
        steps: of each optimisation.
        seed: of the random regions.
    Raises: LancetError where the network makes no error.
    """
    images, labels, predicted = half.misclassified(count)
    sigma = default_blur(images)
    made = {name: companions(model, images, labels, method=name, steps=steps) for name in ("hard", "stated")}
    masks = {name: entry.masks.cpu() for name, entry in made.items()}
    found = {name: entry.found.cpu() for name, entry in made.items()}
    images_of = {name: entry.images.cpu() for name, entry in made.items()}
    heat = grad_cam(model, images, predicted).cpu()
    masks["grad-cam"] = hottest(heat, made["hard"].area.cpu())
    masks["random"] = random_regions(masks["hard"], seed)
    for name in ("grad-cam", "random"):
        images_of[name] = apply(images, masks[name], sigma)
        found[name] = (predictions(model, images_of[name]) == labels) & found["hard"]
    return Compared(images, labels, predicted, masks, images_of, found, heat)


def measured(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """What each method's masks are like, image by image.

    Args:
        scale, seed: of the network, as in `zoo.get`.
    Returns: one row an image and method: found (the companion gets its true label), survives (it still does with the
        mask rounded to 0 or 1), area (share of the image, the mask's mean), between (share of pixels with the mask
        between .1 and .9), blobs (of the mask above .5, diagonals joined), overlap (with our mask, intersection over
        union of the masks above .5). Grad-CAM and random regions are compared where our mask was found.
    """
    chosen = wrong.settings(scale)
    half = first_half(scale)
    key = {"images": half.fingerprint, "count": chosen["companion_images"], "steps": chosen["companion_steps"]}

    def compute_rows() -> pd.DataFrame:
        model = wrong.network_of(scale, seed)
        result = compared(model, wrong.half_of(model, half), key["count"], key["steps"], seed)
        return rows_of(model, result)

    network = chosen["defect_network"]
    return evaluations.kept("lancet-companions", network, scale, seed, key, compute_rows, VERSION)


def rows_of(model: nn.Module, result: Compared) -> pd.DataFrame:
    """The rows of `measured`."""
    from scipy import ndimage

    rows: list[dict[str, Any]] = []
    sigma = default_blur(result.images)
    ours = result.masks["hard"] > 0.5
    for method in METHODS:
        masks, found = result.masks[method], result.found[method]
        cut = (masks > 0.5).float()
        survives = (predictions(model, apply(result.images, cut, sigma)) == result.labels) & found
        union = ((cut > 0.5) | ours).sum(dim=(1, 2, 3)).clamp_min(1)
        overlap = ((cut > 0.5) & ours).sum(dim=(1, 2, 3)) / union
        between = ((masks > 0.1) & (masks < 0.9)).float().mean(dim=(1, 2, 3))
        for k in range(len(masks)):
            if method not in ("hard", "stated") and not result.found["hard"][k]:
                continue
            rows.append(
                {
                    "image": k,
                    "method": method,
                    "label": int(result.labels[k]),
                    "predicted": int(result.predicted[k]),
                    "found": bool(found[k]),
                    "survives": bool(survives[k]),
                    "area": masks[k].mean().item(),
                    "between": between[k].item(),
                    "blobs": int(ndimage.label(cut[k, 0].numpy(), np.ones((3, 3)))[1]),
                    "overlap": overlap[k].item(),
                }
            )
    return pd.DataFrame(rows)


def pictures(scale: str = "smoke", seed: int = 0, count: int = 7) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The first wrong inputs with masks and companions, to look at, and the class names.

    Returns: one row an input and part ("input"; "hard", "hard mask", "stated", "stated mask"; "heat", Grad-CAM): image,
        part, label, predicted, found (the companion, where the part is one), shape and pixels, which `pixels_of` reads.
    """
    half = first_half(scale)
    steps = wrong.settings(scale)["companion_steps"]

    def compute_rows() -> pd.DataFrame:
        model = wrong.network_of(scale, seed)
        compute.set_threads(config.load(scale).compute.threads)
        return picture_rows(compared(model, wrong.half_of(model, half), count, steps, seed))

    key = {"images": half.fingerprint, "count": count, "steps": steps}
    network = wrong.settings(scale)["defect_network"]
    table = evaluations.kept("lancet-pictures", network, scale, seed, key, compute_rows, VERSION)
    return table, half.classes


def picture_rows(result: Compared) -> pd.DataFrame:
    """The rows of `pictures`; pixels in 256 steps from 0 to 1."""
    rows: list[dict[str, Any]] = []
    for k in range(len(result.images)):
        parts = {"input": result.images[k]}
        for method in ("hard", "stated"):
            parts |= {method: result.companions[method][k], f"{method} mask": result.masks[method][k]}
        for part, image in {**parts, "heat": result.heat[k]}.items():
            found = bool(result.found[part][k]) if part in result.found else True
            about = {"label": int(result.labels[k]), "predicted": int(result.predicted[k]), "found": found}
            steps = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
            shape = " ".join(map(str, steps.shape))
            text = base64.b64encode(steps.numpy().tobytes()).decode()
            rows.append({"image": k, "part": part, **about, "shape": shape, "pixels": text})
    return pd.DataFrame(rows)


def pixels_of(shape: str, pixels: str) -> Tensor:
    """The picture (C, H, W) in [0, 1] that a row of `pictures` holds."""
    values = np.frombuffer(base64.b64decode(pixels), dtype=np.uint8).reshape([int(side) for side in shape.split()])
    return torch.from_numpy(values.copy()).float() / 255
