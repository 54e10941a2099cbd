"""Errors explained: classes visualised before and after isolating error-inducing weights, and blurred regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import compute, evaluations, zoo
from lib.lancet.companions import SIDE, companions
from lib.lancet.errors import LancetError
from lib.lancet.explanation import ablated, blurred, isolated, visualise
from lib.lancet.heat_map import grad_cam, hottest, random_regions
from lib.lancet.locating import choose_layer, locate
from lib.lancet.measures import predictions
from lib.lancet.study import wrong
from lib.lancet.study.companions import first_half
from lib.progress import bar

VERSION = 1  # raise it when a change in this study's code changes its numbers
REGIONS = ("blamed", "alternative", "random")
"""The companion's mask; the hottest part of Grad-CAM outside of it; a random region; each as large as the first."""
PAIRS = 16  # wrong inputs of a class that the pictured class's votes come from
RULE = "smallest-fraction"


@dataclass(frozen=True, eq=False)
class Pictured:
    """A class that inputs are wrongly taken for.

    Attributes:
        name, number: of the class.
        image, mask, companion: one such input (C, H, W), its blamed region (1, H, W), and its companion.
        truth: the input's own class.
        layer: where the error-inducing weights were isolated; fraction: which part of it they are.
        pairs: that they come from.
        whole, isolated, ablated: the class visualised on the network, on its error-inducing weights alone in that
            layer, and without them (C, H, W).
        alone, without: share of the inputs still taken for the class by the isolated and by the ablated network.
    """

    name: str
    number: int
    image: Tensor
    mask: Tensor
    companion: Tensor
    truth: str
    layer: str
    fraction: float
    pairs: int
    whole: Tensor
    isolated: Tensor
    ablated: Tensor
    alone: float
    without: float


def make(scale: str, seed: int) -> None:
    """All that the notebook shows of one seed, but pictures: a node of the graph."""
    compute.deterministic()
    for each in wrong.seeds_for(scale, seed):
        measured(scale, each)


def measured(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """What blurring a region does to wrong inputs.

    Args:
        scale, seed: of the network, as in `zoo.get`.
    Returns: one row a region of `REGIONS`, sigma (in pixels of a 32-pixel side; 0: not blurred) and network ("own", and
        "other": of another seed, on the inputs that it takes for the same wrong class): still_wrong (share of the
        inputs still taken for that class), corrected (share given the true class), wrong_confidence and
        true_confidence (mean probability), n inputs.
    """
    chosen = wrong.settings(scale)
    name, half = chosen["defect_network"], first_half(scale)
    other = chosen["defect_reference_seed"] + (chosen["defect_reference_seed"] == seed)
    key = {name: chosen[name] for name in ("explained_images", "explained_blurs", "companion_steps")}
    key |= {"images": half.fingerprint, "reference": zoo.card(name, scale, other)["weights"]}

    def compute_rows() -> pd.DataFrame:
        model, reference = (zoo.get(name, scale, s) for s in (seed, other))
        images, labels, predicted = wrong.half_of(model, half).misclassified(chosen["explained_images"])
        made = companions(model, images, labels, steps=chosen["companion_steps"])
        found = made.found.cpu()
        if not bool(found.any()):
            raise LancetError(f"no companion was found for any of {len(images)} wrong inputs: give more steps")
        regions = regions_of(model, images[found], predicted[found], made.masks.cpu()[found], seed)
        return rows_of(
            {"own": model, "other": reference},
            images[found],
            labels[found],
            predicted[found],
            regions,
            chosen["explained_blurs"],
        )

    return evaluations.kept("lancet-explanation", name, scale, seed, key, compute_rows, VERSION)


def regions_of(model: nn.Module, images: Tensor, predicted: Tensor, masks: Tensor, seed: int) -> dict[str, Tensor]:
    """The regions of `REGIONS`, (N, 1, H, W) of 0 and 1; the last two outside of the first."""
    heat = grad_cam(model, images, predicted).cpu()
    alternative = hottest(heat, masks.mean(dim=(1, 2, 3)), outside=masks)
    return {"blamed": masks, "alternative": alternative, "random": random_regions(masks, seed, outside=masks)}


def rows_of(
    models: dict[str, nn.Module],
    images: Tensor,
    labels: Tensor,
    predicted: Tensor,
    regions: dict[str, Tensor],
    sigmas: list[float],
) -> pd.DataFrame:
    """The rows of `measured`."""
    rows: list[dict[str, Any]] = []
    pixels = min(images.shape[-2:]) / SIDE
    for network, model in models.items():
        alike = predictions(model, images) == predicted
        if not bool(alike.any()):
            continue
        chosen = (images[alike], labels[alike], predicted[alike])
        for region, masks in regions.items():
            found = blurred(model, *chosen, masks[alike], [sigma * pixels for sigma in [0, *sigmas]])
            for k, sigma in enumerate([0, *sigmas]):
                rows.append(
                    {
                        "network": network,
                        "region": region,
                        "sigma": float(sigma),
                        "still_wrong": (found.predicted[k] == chosen[2]).float().mean().item(),
                        "corrected": (found.predicted[k] == chosen[1]).float().mean().item(),
                        "wrong_confidence": found.wrong_confidence[k].mean().item(),
                        "true_confidence": found.true_confidence[k].mean().item(),
                        "n": int(alike.sum()),
                    }
                )
    return pd.DataFrame(rows)


def pictured(scale: str = "smoke", seed: int = 0, count: int = 4) -> list[Pictured]:
    """The classes that most inputs are wrongly taken for, visualised before and after isolating; made anew.

    Args:
        scale, seed: of the network.
        count: how many classes.
    """
    chosen = wrong.settings(scale)
    model, half = wrong.network_of(scale, seed), first_half(scale)
    images, labels, predicted = wrong.half_of(model, half).misclassified()
    common = torch.bincount(predicted).argsort(descending=True, stable=True)[:count]
    shown = []
    for number in bar(common.tolist(), desc="classes"):
        mine = torch.nonzero(predicted == number).flatten()[:PAIRS]
        if not len(mine):
            continue
        x, y = images[mine], labels[mine]
        made = companions(model, x, y, steps=chosen["companion_steps"])
        found = made.found.cpu()
        if not bool(found.any()):
            continue
        x, y, others = x[found], y[found], made.images.cpu()[found]
        votes = locate(model, x, others, y)
        layer = choose_layer(votes, RULE)
        alone, without = isolated(model, votes, layer), ablated(model, votes, layer)
        steps, kind = chosen["visualisation_steps"], torch.tensor([number])
        views = [visualise(m, kind, x.shape[1:], steps=steps, seed=seed)[0].cpu() for m in (model, alone, without)]
        masks = made.masks.cpu()[found]
        first = int((masks.mean(dim=(1, 2, 3)) - 0.03).abs().argmin())  # large enough to see, small enough to tell
        shown.append(
            Pictured(
                name=half.classes[number],
                number=number,
                image=x[first],
                mask=masks[first],
                companion=others[first],
                truth=half.classes[int(y[first])],
                layer=layer,
                fraction=(votes[layer].counts > 0).float().mean().item(),
                pairs=len(x),
                whole=views[0],
                isolated=views[1],
                ablated=views[2],
                alone=(predictions(alone, x) == number).float().mean().item(),
                without=(predictions(without, x) == number).float().mean().item(),
            )
        )
    return shown
