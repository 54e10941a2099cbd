"""The pictures and plots of companions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from torch import Tensor

from lib import plots
from lib.lancet.study.companion_records import NAMES
from lib.lancet.study.companions import METHODS, pixels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def grid(rows: int, columns: int, side: float = 0.92) -> tuple[Figure, np.ndarray]:
    """A figure of small pictures without axes; every cell is an `Axes`."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(side * columns + 0.9, side * rows + 0.4), squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set_visible(False)
    plt.close(figure)
    return figure, axes


def show(ax: Axes, image: Tensor, outline: Tensor | None = None) -> None:
    """An image (C, H, W) in [0, 1]; outline: a mask (1, H, W) whose border is drawn over it."""
    pixels = image.detach().cpu().permute(1, 2, 0).squeeze(-1).numpy()
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    if outline is not None and 0 < float(outline.sum()) < outline.numel():
        ax.contour(
            outline[0].cpu().numpy(), levels=[0.5], colors=[plots.PALETTE[1]], linewidths=1.0, linestyles="solid"
        )


def short(text: str, longest: int = 15) -> str:
    """A class's name short enough for a picture's title."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def pictures(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Wrong inputs, both companions with their masks, and Grad-CAM; a column an input.

    Args:
        table: of `companions.pictures`.
        classes: names.
    """
    rows = {"input": "input", "hard": "companion,\nhard", "hard mask": "its mask"}
    rows |= {"stated": "companion,\nstated", "stated mask": "its mask", "heat": "Grad-CAM"}
    figure, axes = grid(len(rows), table["image"].nunique())
    for row, name in enumerate(rows.values()):
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=plots.SMALLEST)
    for k, (_, group) in enumerate(table.groupby("image")):
        parts = group.set_index("part")
        image = pixels_of(parts.loc["input", "shape"], parts.loc["input", "pixels"])
        for row, part in enumerate(rows):
            told = parts.loc[part]
            shown = pixels_of(told["shape"], told["pixels"])
            show(axes[row, k], shown if part != "heat" else image.mean(0, keepdim=True) * 0.6)
            if part == "input":
                title = f"{short(classes[told['label']])}\nas {short(classes[told['predicted']])}"
                axes[row, k].set_title(title, fontsize=plots.SMALLEST)
            elif part == "heat":
                axes[row, k].imshow(shown[0].numpy(), cmap="magma", alpha=0.6, vmin=0, vmax=1)
            elif not told["found"]:
                axes[row, k].set_xlabel("none found", fontsize=plots.SMALLEST)
    return figure


def shares(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """How many inputs each method corrects, with its mask as it is and rounded to 0 and 1; and the masks' areas.

    Args:
        axes: two.
        numbers: of `companion_records.numbers_of`.
    """
    from lib.evaluations import frame

    for index, (name, words) in enumerate((("found", "mask as it is"), ("survives", "mask rounded"))):
        rows = frame(numbers, name).set_index("method").reindex(list(METHODS)).dropna(subset=["value"])
        _bars(axes[0], rows, index, words)
    axes[0].set_xlabel("share of wrong inputs corrected")
    axes[0].set_xlim(0, 1.02)
    axes[0].legend(loc="lower right")
    for index, (name, words) in enumerate((("median_area", "covered (median)"), ("between", "neither in nor out"))):
        rows = frame(numbers, name).set_index("method").reindex(["hard", "stated"]).dropna(subset=["value"])
        _bars(axes[1], rows, index, words)
    axes[1].set_xlabel("share of the image")
    axes[1].legend(loc="lower right")


def _bars(ax: Axes, rows: pd.DataFrame, index: int, words: str) -> None:
    place = np.arange(len(rows)) + (index - 0.5) * 0.36
    spread = None
    if rows["low"].notna().all():
        spread = np.abs(rows[["low", "high"]].to_numpy(float).T - rows["value"].to_numpy(float))
    look: Any = {"color": plots.PALETTE[index], "error_kw": {"elinewidth": 0.8, "capsize": 2}}
    ax.barh(place, rows["value"].to_numpy(float), height=0.34, xerr=spread, label=words, **look)
    ax.set_yticks(np.arange(len(rows)), [NAMES[str(method)] for method in rows.index])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
