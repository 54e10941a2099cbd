"""Companions of a network's wrong inputs (notebook 31): by both optimisations, beside heat maps and random regions."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from scipy import ndimage
from torch import Tensor, nn

from lib import compute, plots
from lib.experiments import lancet
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.lancet import ErrorRun, Half
from lib.experiments.settings import Count
from lib.lancet.companions import apply, companions, default_blur
from lib.lancet.errors import LancetError
from lib.lancet.explanation import class_activation_map, grad_cam, hottest, random_regions
from lib.lancet.measures import predictions

VERSION = 2  # raise it when a change in this experiment's code changes its numbers
NAMES = {
    "hard": "hard mask (ours)",
    "stated": "soft mask, first success (stated)",
    "grad-cam": "hottest part of Grad-CAM",
    "cam": "hottest part of CAM",
    "random": "random region",
}
"""Ours; the source's; the hottest part of two heat maps and a random region, as large as our mask and blurred alike."""
PARTS = {
    "input": "input",
    "hard": "companion,\nhard",
    "hard mask": "its mask",
    "stated": "companion,\nstated",
    "stated mask": "its mask",
    "heat": "Grad-CAM",
}
"""Columns of the figure."""


class Settings(lancet.Errors):
    """Settings of the experiment.

    Attributes:
        images: wrong inputs that companions are searched for.
        pictures: of them in the figure.
    """

    section: ClassVar[str] = "companions"

    images: Count = Field(200, title="wrong inputs")
    pictures: Count = 7
    companion_steps: Count = Field(150, title="steps")


@dataclass(frozen=True, eq=False)
class Compared:
    """Wrong inputs with the mask and the companion of each method.

    Attributes:
        images, labels, predicted: (n, C, H, W), (n,), (n,).
        masks, companions: method -> (n, 1, H, W), (n, C, H, W).
        found: method -> bool (n,): whether the companion gets the true label.
        heat: Grad-CAM of the wrong class, (n, 1, H, W).
    """

    images: Tensor
    labels: Tensor
    predicted: Tensor
    masks: dict[str, Tensor]
    companions: dict[str, Tensor]
    found: dict[str, Tensor]
    heat: Tensor


def compared(model: nn.Module, half: Half, count: int, steps: int, seed: int = 0) -> Compared:
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
    made = {name: companions(model, images, labels, method=name, steps=steps) for name in ("hard", "stated")}
    masks = {name: entry.masks.cpu() for name, entry in made.items()}
    found = {name: entry.found.cpu() for name, entry in made.items()}
    images_of = {name: entry.images.cpu() for name, entry in made.items()}
    heat = grad_cam(model, images, predicted).cpu()
    heats = {"grad-cam": heat}
    with suppress(LancetError):  # CAM is of networks that classify the means of their last features, and only of these
        heats["cam"] = class_activation_map(model, images, predicted).cpu()
    regions = {name: hottest(shown, made["hard"].area.cpu()) for name, shown in heats.items()}
    regions["random"] = random_regions(masks["hard"], seed)
    masks |= regions
    for name in regions:
        images_of[name] = apply(images, masks[name], default_blur(images))
        found[name] = (predictions(model, images_of[name]) == labels) & found["hard"]
    return Compared(images, labels, predicted, masks, images_of, found, heat)


def masks_of(model: nn.Module, result: Compared) -> pd.DataFrame:
    """What each method's masks are like, image by image.

    Returns: one row an image and method: found (the companion gets its true label), survives (it still does with the
        mask rounded to 0 or 1), area (share of the image, the mask's mean), between (share of pixels with the mask
        between .1 and .9), blobs (of the mask above .5, diagonals joined), overlap (with our mask, intersection over
        union of the masks above .5). Heat maps and random regions are compared where our mask was found.
    """
    rows: list[dict[str, Any]] = []
    sigma, ours = default_blur(result.images), result.masks["hard"] > 0.5
    for method, masks in result.masks.items():
        found = result.found[method]
        cut = (masks > 0.5).float()
        survives = (predictions(model, apply(result.images, cut, sigma)) == result.labels) & found
        union = ((cut > 0.5) | ours).sum(dim=(1, 2, 3)).clamp_min(1)
        overlap = ((cut > 0.5) & ours).sum(dim=(1, 2, 3)) / union
        between = ((masks > 0.1) & (masks < 0.9)).float().mean(dim=(1, 2, 3))
        for k in range(len(masks)):
            if method in ("hard", "stated") or result.found["hard"][k]:
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


def pictures_of(result: Compared) -> pd.DataFrame:
    """Inputs, companions, masks and heat maps to look at: one row an input and part of `PARTS`, pixels in 256 steps."""
    rows: list[dict[str, Any]] = []
    for k in range(len(result.images)):
        parts = {"input": result.images[k]}
        for method in ("hard", "stated"):
            parts |= {method: result.companions[method][k], f"{method} mask": result.masks[method][k]}
        for part, image in {**parts, "heat": result.heat[k]}.items():
            found = bool(result.found[part][k]) if part in result.found else True
            about = {"label": int(result.labels[k]), "predicted": int(result.predicted[k]), "found": found}
            steps = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
            text = base64.b64encode(steps.numpy().tobytes()).decode()
            rows.append({"image": k, "part": part, **about, "shape": " ".join(map(str, steps.shape)), "pixels": text})
    return pd.DataFrame(rows)


def pixels_of(row: pd.Series) -> Tensor:
    """The picture (C, H, W) in [0, 1] of a row of `pictures_of`."""
    shape = [int(side) for side in row["shape"].split()]
    values = np.frombuffer(base64.b64decode(row["pixels"]), dtype=np.uint8).reshape(shape)
    return torch.from_numpy(values.copy()).float() / 255


class CompanionRun(ErrorRun[Settings]):
    """A seed's wrong inputs and their companions, kept."""

    def compared(self, count: int) -> Compared:
        half = Half.of(self.model, self.half_sets[0])
        return compared(self.model, half, count, self.settings.companion_steps, self.seed)

    def kept(self, kind: str, count: int, make: Any, version: int = 1) -> pd.DataFrame:
        key = {"images": self.half_sets[0].fingerprint, "count": count, "steps": self.settings.companion_steps}
        return self.table(kind, key, make, self.settings.network, version)

    def masks(self) -> pd.DataFrame:
        count = self.settings.images
        return self.kept("lancet-companions", count, lambda: masks_of(self.model, self.compared(count)), VERSION)

    def pictures(self) -> pd.DataFrame:
        def make() -> pd.DataFrame:
            compute.set_threads(self.preset.compute.threads)
            return pictures_of(self.compared(self.settings.pictures))

        return self.kept("lancet-pictures", self.settings.pictures, make)


def measured(settings: Settings, seed: int) -> pd.DataFrame:
    """Companions by each method, over the wrong inputs.

    Returns: tidy, at {method}: "found", the share of wrong inputs whose companion gets the true label; "survives", that
        still does with the mask rounded to 0 or 1; means over the inputs of "area", "between" (share of pixels that are
        neither clearly in nor out), "blobs" and "overlap" (with our mask); "median_area". Of heat maps and
        random regions n are the inputs for which our mask was found, whose sizes they have.
    """
    run = CompanionRun(settings, seed)
    table, rows = run.masks(), []
    for method in NAMES:
        part = table[table["method"] == method]
        some = part[part["found"].astype(bool)] if method in ("hard", "stated") else part
        for name in ("found", "survives"):
            rows += [{"measure": name, "method": method, "value": part[name].astype(float).mean(), "n": len(part)}]
        for name in ("area", "between", "blobs", "overlap", "median_area"):
            values = some[name.removeprefix("median_")].astype(float)
            value = values.median() if name == "median_area" else values.mean()
            if (name, method) != ("overlap", "hard"):
                rows += [{"measure": name, "method": method, "value": value, "n": len(some)}]
    if seed == settings.seeds[0]:
        run.pictures()
    return run.tidy(row for row in rows if row["n"])


def lay_out(results: Results) -> pd.DataFrame:
    """One row a method, one column a measure."""
    shown = ("found", "survives", "median_area", "between", "blobs", "overlap")
    return results.wide({name: name.replace("_", " ") for name in shown}, ["method"]).replace({"method": NAMES})


def draw(results: Results) -> Figure:
    """The first seed's wrong inputs, both companions with their masks, and Grad-CAM; a row an input."""
    run = CompanionRun(results.settings, results.settings.seeds[0])
    table, classes = run.pictures(), run.half_sets[0].classes
    count = table["image"].nunique()
    figure, axes = plots.grid(count * len(PARTS), len(PARTS), 0.75, plots.SINGLE)
    for row, (_, group) in zip(axes.reshape(count, -1), table.groupby("image"), strict=True):
        parts = group.set_index("part")
        image = pixels_of(parts.loc["input"])
        for ax, part in zip(row, PARTS, strict=True):
            plots.bare(ax)
            told, shown = parts.loc[part], pixels_of(parts.loc[part])
            plots.picture(ax, shown if part != "heat" else image.mean(0, keepdim=True) * 0.6)
            if part == "heat":
                ax.imshow(shown[0].numpy(), cmap="magma", alpha=0.6, vmin=0, vmax=1)
            elif not told["found"]:
                ax.set_xlabel("none found", fontsize=plots.SMALLEST)
        true, taken = (plots.short(classes[told[name]], 20) for name in ("label", "predicted"))
        plots.heading(row[0], f"{true}, taken for {taken}")
    for ax, name in zip(axes, PARTS.values(), strict=False):
        ax.set_title(f"{name}\n ", fontsize=plots.SMALLEST)
    return figure


def bars(ax: Axes, results: Results, measures: dict[str, str]) -> None:
    """Measures of every method that has them side by side, in words, with their intervals."""
    for index, (measure, words) in enumerate(measures.items()):
        rows = results.values(measure).set_index("method")
        rows = rows.reindex([method for method in NAMES if method in rows.index])
        place = np.arange(len(rows)) + (index - 0.5) * 0.36
        look: Any = {"color": plots.PALETTE[index], "error_kw": {"elinewidth": 0.8, "capsize": 2}}
        ax.barh(place, rows["value"].to_numpy(float), height=0.34, xerr=plots.spread(rows), label=words, **look)
    plots.named_rows(ax, [NAMES[str(method)] for method in rows.index], room=0.6)
    ax.legend(loc="lower right")


UNITS = {
    "found": SHARE,
    "survives": SHARE,
    "area": "fraction of the image",
    "between": "fraction of pixels",
    "blobs": "connected pieces",
    "overlap": "intersection over union",
    "median_area": "fraction of the image",
}
COMPANIONS = Item(
    "lancet_companions", measured, UNITS, table=lay_out, draw=draw, about=("images", "companion_steps"),
    drawn_from=("lancet-pictures",),
)  # fmt: skip
ITEMS = (COMPANIONS,)
