"""Errors explained (notebook 36): a blamed region blurred, and classes visualised on the weights that err."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn

from lib import dotplots, plots, zoo
from lib.experiments import lancet
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.lancet import ErrorRun, Half
from lib.experiments.run import measures
from lib.experiments.settings import Count
from lib.lancet.companions import IMAGE_BLUR, SIDE, companions
from lib.lancet.errors import LancetError
from lib.lancet.explanation import ablated, blurred, grad_cam, hottest, isolated, random_regions, visualise
from lib.lancet.locating import choose_layer, locate
from lib.lancet.measures import predictions
from lib.progress import bar

REGIONS = {
    "blamed": "blamed region (the companion's mask)",
    "alternative": "alternative (hottest of Grad-CAM outside)",
    "random": "random region",
}
"""The last two lie outside of the first, and are as large."""
MEASURES = ("still_wrong", "corrected", "wrong_confidence", "true_confidence")
PAIRS = 16  # wrong inputs of a class that the pictured class's votes come from


class Settings(lancet.Errors):
    """Settings of the experiment.

    Attributes:
        images: wrong inputs whose regions are blurred.
        blurs: sigmas in pixels of a 32-pixel side.
        pictures: classes that are visualised; visualisation_steps: of each.
        reference_seed: counts where there is one seed only; of several, each one's other network is the next one's.
    """

    section: ClassVar[str] = "explanation"

    images: Count = Field(100, title="wrong inputs")
    blurs: tuple[int | float, ...] = Field((1, 2, 4, 8), min_length=1, title="blurs")
    pictures: Count = 4
    visualisation_steps: Count = 256


class ExplanationRun(ErrorRun[Settings]):
    """A seed's wrong inputs with their regions blurred."""

    @property
    def reference(self) -> int:
        """The next of the seeds, in turn: so that no network stands for two seeds' other one."""
        seeds = self.settings.seeds
        return seeds[(seeds.index(self.seed) + 1) % len(seeds)] if len(seeds) > 1 else super().reference

    def blurs(self) -> pd.DataFrame:
        """What blurring a region does: rows of `rows_of`, on the network itself ("own"), and on that of another seed
        ("other"), on the inputs that it takes for the same wrong class."""
        chosen = self.settings
        key = {"explained_images": chosen.images, "explained_blurs": chosen.blurs}
        key |= {"companion_steps": chosen.companion_steps, "images": self.half_sets[0].fingerprint}
        key |= {"reference": zoo.card(chosen.network, self.scale, self.reference)["weights"]}

        def make() -> pd.DataFrame:
            models = {"own": self.model, "other": self.network(chosen.network, self.reference)}
            images, labels, predicted = Half.of(self.model, self.half_sets[0]).misclassified(chosen.images)
            made = companions(self.model, images, labels, steps=chosen.companion_steps)
            found = made.found.cpu()
            if not bool(found.any()):
                raise LancetError(f"no companion was found for any of {len(images)} wrong inputs: give more steps")
            inputs = (images[found], labels[found], predicted[found])
            regions = regions_of(self.model, inputs[0], inputs[2], made.masks.cpu()[found], self.seed)
            return rows_of(models, *inputs, regions, chosen.blurs)

        return self.table("lancet-explanation", key, make, chosen.network)


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
    sigmas: Sequence[float],
) -> pd.DataFrame:
    """One row a network, region and sigma (0: not blurred), over the inputs that the network takes for the class
    `predicted`: still_wrong (share still taken for it), corrected (share given the true class), wrong_confidence and
    true_confidence (mean probability), n inputs."""
    rows: list[dict[str, Any]] = []
    blurs = [0.0, *map(float, sigmas)]
    pixels = min(images.shape[-2:]) / SIDE
    for network, model in models.items():
        alike = predictions(model, images) == predicted
        if not bool(alike.any()):
            continue
        chosen = (images[alike], labels[alike], predicted[alike])
        for region, masks in regions.items():
            found = blurred(model, *chosen, masks[alike], [sigma * pixels for sigma in blurs])
            for k, sigma in enumerate(blurs):
                row: dict[str, Any] = {"network": network, "region": region, "sigma": sigma}
                row |= {"still_wrong": (found.predicted[k] == chosen[2]).float().mean().item()}
                row |= {"corrected": (found.predicted[k] == chosen[1]).float().mean().item()}
                row |= {"wrong_confidence": found.wrong_confidence[k].mean().item()}
                row |= {"true_confidence": found.true_confidence[k].mean().item()}
                rows.append({**row, "n": int(alike.sum())})
    return pd.DataFrame(rows)


def measured(settings: Settings, seed: int) -> pd.DataFrame:
    """What blurring a region does to wrong inputs.

    Returns: tidy, at {viewer, region, sigma}: "still_wrong", "corrected", "wrong_confidence", "true_confidence", and at
        sigma above 0 "change", of the confidence in the wrong class. viewer: "own", the network that erred and that
        the region was found with; "other", one of another seed, on the inputs that it takes for the same wrong class.
    """
    run = ExplanationRun(settings, seed)
    table = run.blurs()
    start = table[table["sigma"] == 0].set_index(["network", "region"])["wrong_confidence"]
    changes = [
        row["wrong_confidence"] - start[row["network"], row["region"]] if row["sigma"] > 0 else None
        for row in table.to_dict("records")
    ]
    table = table.assign(change=changes).rename(columns={"network": "viewer"})
    rows = measures(table, [*MEASURES, "change"], ["viewer", "region", "sigma"])
    return run.tidy(rows)


def lay_out(results: Results) -> pd.DataFrame:
    """One row a viewer, region and blur."""
    shown = {name: name.replace("_", " ") for name in MEASURES}
    return results.wide(shown, ["viewer", "region", "sigma"]).replace({"region": REGIONS})


def draw(results: Results) -> Figure:
    """The answer and the confidence in the wrong class as a region is blurred more and more.

    A ring marks what holds by construction: an input is wrong before any blur, and the network itself is right about
    the companion, which is the input with its blamed region blurred by `IMAGE_BLUR`.
    """
    figure, axes = plots.mosaic("CO;WW", height=4.7, height_ratios=[1.3, 1])
    panels = {
        "C": ("corrected", "own", "on the network itself", "share given the true class"),
        "O": ("corrected", "other", "on one of another seed", ""),
        "W": ("wrong_confidence", "own", "on the network itself", "mean confidence in\nthe wrong class"),
    }
    for letter, (measure, viewer, title, label) in panels.items():
        ax, rows = axes[letter], results.values(measure, viewer=viewer)
        blurs = sorted({0.0, *rows["sigma"]})
        aside = (rows["region"].map(list(REGIONS).index) - 1).where(rows["sigma"] > 0, 0)
        rows["place"] = rows["sigma"].map(blurs.index) + 0.17 * aside
        for index, (region, name) in enumerate(REGIONS.items()):
            line = rows[rows["region"] == region].sort_values("sigma")
            look = {"linestyle": plots.LINESTYLES[index], "capsize": 2, "label": name}
            dotplots.intervals(ax, line, line["place"], index, upright=True, **look)
        if measure == "corrected":
            found = (rows["sigma"] == IMAGE_BLUR) & (rows["region"] == "blamed") & (rows["viewer"] == "own")
            sure = rows[(rows["sigma"] == 0) | found].drop_duplicates("place")
            ring: dict[str, Any] = {"facecolors": "none", "edgecolors": "black", "linewidths": 0.8, "zorder": 3}
            ax.scatter(sure["place"], sure["value"], s=45, label="ringed: holds by construction", clip_on=False, **ring)
        ax.set(title=title, xlabel="σ of the blur", ylabel=label, ylim=(-0.02, 1.02))
        ax.set_xticks(range(len(blurs)), [f"{blur:g}" for blur in blurs])
    axes["W"].set_xlabel("σ of the blur, in pixels of a side of 32")
    plots.legend_below([axes["C"]], 1)
    return figure


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


def pictured(settings: Settings, seed: int) -> list[Pictured]:
    """The classes that most inputs are wrongly taken for, visualised before and after isolating; made anew."""
    run = ExplanationRun(settings, seed)
    model, half = run.model, Half.of(run.model, run.half_sets[0])
    images, labels, predicted = half.misclassified()
    common = torch.bincount(predicted).argsort(descending=True, stable=True)[: settings.pictures]
    shown = []
    for number in bar([number for number in common.tolist() if bool((predicted == number).any())], desc="classes"):
        mine = torch.nonzero(predicted == number).flatten()[:PAIRS]
        made = companions(model, images[mine], labels[mine], steps=settings.companion_steps)
        found = made.found.cpu()
        if not bool(found.any()):
            continue
        x, y, others = images[mine][found], labels[mine][found], made.images.cpu()[found]
        votes = locate(model, x, others, y)
        layer = choose_layer(votes, "smallest-fraction")
        alone, without = isolated(model, votes, layer), ablated(model, votes, layer)
        steps, kind = settings.visualisation_steps, torch.tensor([number])
        views = [visualise(m, kind, x.shape[1:], steps=steps, seed=seed)[0].cpu() for m in (model, alone, without)]
        masks = made.masks.cpu()[found]
        first = int((masks.mean(dim=(1, 2, 3)) - 0.03).abs().argmin())  # large enough to see, small enough to tell
        shown.append(
            Pictured(
                name=half.images.classes[number],
                number=number,
                image=x[first],
                mask=masks[first],
                companion=others[first],
                truth=half.images.classes[int(y[first])],
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


def pictures(shown: Sequence[Pictured]) -> Figure:
    """A row a class: a wrong input with the blamed region, its companion, the class visualised three ways."""
    figure, axes = plots.pictures(len(shown), 5, side=1.25)
    titles = ("input,\nblamed region", "its companion", "class,\nwhole network", "isolated", "without them")
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=plots.SMALLEST)
    for row, entry in enumerate(shown):
        plots.picture(axes[row, 0], entry.image, entry.mask)
        for column, image in enumerate((entry.companion, entry.whole, entry.isolated, entry.ablated), start=1):
            plots.picture(axes[row, column], image)
        name = f"{plots.short(entry.truth)}\nas {plots.short(entry.name)}"
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=plots.SMALLEST)
    return figure


EXPLANATION = Item(
    "lancet_explanation",
    measured,
    {
        "still_wrong": SHARE,
        "corrected": SHARE,
        "wrong_confidence": "mean softmax probability",
        "true_confidence": "mean softmax probability",
        "change": "difference of probabilities",
    },
    table=lay_out,
    draw=draw,
    about=("images", "blurs"),
)
ITEMS = (EXPLANATION,)
