"""The weights that AI-Lancet blames for one wrong image, and what the network predicts without them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from lib import plots
from lib.explore import drawing
from lib.explore.drawing import OTHER, View, heat_map, picture
from lib.explore.network import ExploreError
from lib.explore.prediction import Example
from lib.lancet.companions import companions
from lib.lancet.locating import Votes, locate

MASKED, CLEAN = "companion", "clean image"
COMPANIONS = (MASKED, CLEAN)
"""What an adversarial image is paired with."""

STEPS = 80
"""Of the companion's mask; AI-Lancet's own study takes 150."""


@dataclass(frozen=True, eq=False)
class Blame:
    """What one pair says of the network's weights.

    Attributes:
        image: what the wrong image is paired with, float32 (C, H, W).
        mask: float32 (1, H, W), what that takes from the wrong image; None for the clean image, which stands in where
            no mask makes the network right.
        votes: layer -> votes of the pair; none where the network is right about the attacked image, or wrong about
            what it is paired with too.
        table: one row a layer: weights, blamed (smallest number, of those tried, whose removal makes the network right;
            0 where none does), part (of the layer), truth, top (probability of the true class, and the class given,
            for the adversarial image without them), clean_top (for the clean image without them).
    """

    image: Tensor
    mask: Tensor | None
    votes: dict[str, Votes]
    table: pd.DataFrame

    @property
    def chosen(self) -> str | None:
        """The layer that is repaired with its smallest part; None where none is."""
        repaired = self.table[self.table["blamed"] > 0]
        return None if repaired.empty else str(repaired["part"].idxmin())

    def map(self, layer: str) -> tuple[Tensor, Tensor]:
        """A layer's blame by output and input channel.

        Args:
            layer: one of `votes`.
        Returns: importance (largest of the kernel's positions, in [0, 1]) and blamed weights (number), both
            (outputs, inputs).
        Raises: ExploreError for another layer.
        """
        if layer not in self.votes:
            raise ExploreError(f"no layer {layer!r}: one of {', '.join(self.votes) or 'none, no error was located'}")
        found, by_channel = self.votes[layer], (*self.votes[layer].counts.shape[:2], -1)
        return found.importance.cpu().reshape(by_channel).amax(2), found.counts.cpu().reshape(by_channel).sum(2)


@lru_cache(maxsize=64)
def blame(example: Example, companion: str = MASKED) -> Blame:
    """Locate the weights that make the network wrong about an image, attacked or as it is.

    Args:
        example: the image and its network.
        companion: what it is paired with: `MASKED`, AI-Lancet's companion, the adversarial image with a part blurred
            so that the network is right (ours: a hard mask); or `CLEAN`, the image before the attack.
    Raises: ExploreError for another companion.
    Source: AI-Lancet (CCS 2021), sections on error localisation and on locating error-inducing neurons.
    """
    if companion not in COMPANIONS:
        raise ExploreError(f"companion {companion!r}: one of {', '.join(map(repr, COMPANIONS))}")
    model, truth, mask = example.network.model, torch.tensor([example.label]), None
    image, wrong = example.images[:, None]
    if companion == MASKED and example.predicted[1] != example.label:
        found = companions(model, wrong, truth, steps=STEPS)
        if bool(found.found[0]):
            image, mask = found.images.cpu(), found.masks[0].cpu()
    if example.predicted[1] == example.label or (mask is None and not example.correct):
        return Blame(image[0], mask, {}, pd.DataFrame(columns=["blamed"]))
    votes = locate(model, wrong, image, truth)
    rows = []
    for layer, vote in votes.items():
        weight = model.get_parameter(f"{layer}.weight")
        without = {f"{layer}.weight": weight.detach().masked_fill((vote.counts > 0).to(weight.device), 0)}
        clean, adversarial = example.network.probabilities(example.images, without)
        blamed, weights = int(vote.counts.sum()), vote.counts.numel()
        row = {"weights": weights, "blamed": blamed, "part": blamed / weights, "top": int(adversarial.argmax())}
        rows.append(row | {"truth": float(adversarial[example.label]), "clean_top": int(clean.argmax())})
    return Blame(image[0], mask, votes, pd.DataFrame(rows, index=list(votes)))


def view(example: Example, layer: str | None = None, companion: str = MASKED) -> list[View]:
    """The pair, the part of each layer whose removal makes the network right, and one layer's weights.

    Args:
        example: the image and its network.
        layer: whose weights are mapped; None: the one with the smallest part, or the last.
        companion: as in `blame`.
    Raises: ExploreError for a layer or companion that does not exist.
    """
    found = blame(example, companion)
    if not found.votes:
        return [View(None, said(example, found, companion))]
    layer = layer or found.chosen or next(reversed(found.votes))
    heat, counts = found.map(layer)
    layout = [["adversarial", "companion", "layers"], ["map", "map", "layers"]]
    figure, axes = plots.mosaic(layout, 3.5, plots.DOUBLE, width_ratios=[1, 1, 1.9], height_ratios=[1, 1.25])
    picture(axes["adversarial"], example.images[1], "wrong", drawing.ADVERSARIAL)
    picture(axes["companion"], found.image, CLEAN if found.mask is None else MASKED, drawing.CLEAN)
    if found.mask is not None and 0 < float(found.mask.mean()) < 1:
        for name in ("adversarial", "companion"):
            axes[name].contour(found.mask[0].numpy(), levels=[0.5], colors=plots.PALETTE[4], linewidths=1.2)
    _layers(axes["layers"], found.table, layer)
    ax = axes["map"]
    image = heat_map(ax, heat, f"{drawing.label(layer)}: importance; orange: blamed")
    rows, columns = np.nonzero(counts.numpy())
    size = max(110 / max(heat.shape), 8 if len(rows) <= 60 else 1.5)
    ax.scatter(columns, rows, s=size, color=drawing.ADVERSARIAL, marker="s", linewidths=0)
    ax.set(xlabel="input channel", ylabel="output channel")
    figure.colorbar(image, ax=ax, shrink=0.9)
    return [View(figure, said(example, found, companion))]


def _layers(ax: Axes, table: pd.DataFrame, layer: str) -> None:
    """The blamed part of each layer, on a logarithmic axis; of layers that repair nothing, that they do not."""
    lowest = 10 ** np.floor(np.log10(table["part"][table["part"] > 0].min() * 0.99)) if table["part"].any() else 1e-3
    colours = [drawing.ADVERSARIAL if name == layer else OTHER for name in table.index]
    bars = ax.barh(range(len(table)), table["part"].clip(lowest), height=0.5, color=colours)
    counts = zip(table["blamed"], table["weights"], strict=True)
    texts = [f"{blamed:,} of {weights:,}" if blamed else "no part repairs it" for blamed, weights in counts]
    ax.bar_label(bars, texts, padding=3, fontsize=6.2)
    plots.named_rows(ax, table.index.map(drawing.label), room=0.6)
    ax.set(xscale="log", xlim=(lowest, 1 / np.sqrt(lowest)), xlabel="part of the layer to take away")
    ax.set_xticks(10.0 ** np.arange(np.log10(lowest), 1))  # there is no more than all of it
    ax.minorticks_off()


def said(example: Example, found: Blame, companion: str = MASKED) -> str:
    """What is to blame, in words."""
    classes = example.network.test.classes
    if example.predicted[1] == example.label:
        return (
            f"{example.network.name} is right about the attacked image, so there is no error to locate: take a larger "
            "strength or another attack."
        )
    if not found.votes:
        return f"{example.network.name} is wrong about the clean image, and no mask was found that makes it right."
    text = ""
    if companion == MASKED and found.mask is None:
        text = "No mask made the network right, so the clean image stands in for the companion. "
    if found.chosen is None:
        return f"{text}In no layer does any tried part of the weights, taken away, make the network right."
    row = found.table.loc[found.chosen]
    kept = "still right" if row["clean_top"] == example.label else f"wrong (“{classes[int(row['clean_top'])]}”)"
    clean = f", and about the clean image it is {kept}" if example.correct else ""
    return (
        f"{text}Least is to blame in {found.chosen}: without {row['blamed']:,.0f} of its {row['weights']:,.0f} weights "
        f"({row['part']:.2%}) the network predicts “{classes[int(row['top'])]}” for the wrong image "
        f"(true class {row['truth']:.0%}){clean}."
    )
