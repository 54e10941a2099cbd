"""What the figures of the explorer share."""

from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from lib import plots

CLEAN, ADVERSARIAL, OTHER = plots.PALETTE[0], plots.PALETTE[1], "#666666"


class View(NamedTuple):
    """A figure, None where there is nothing to draw, and what it shows in words, which are also read aloud."""

    figure: Figure | None
    caption: str


def picture(ax: Axes, image: Tensor, title: str, colour: str = "black", **options: Any) -> None:
    """An image (C, H, W) in [0, 1], or (1, H, W) within vmin and vmax, without axes."""
    ax.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), **{"cmap": "gray", "vmin": 0, "vmax": 1, **options})
    ax.set_title(title, color=colour)
    ax.set_axis_off()


def heat_map(ax: Axes, values: Tensor, title: str, low: float = 0, high: float = 1, **options: Any) -> AxesImage:
    """A matrix, with ticks at whole numbers; from blue to yellow, or where low is negative violet to orange."""
    colours = "PuOr_r" if low < 0 else "cividis"
    look = {"cmap": colours, "vmin": low, "vmax": high, "aspect": "auto", "interpolation": "none", **options}
    image = ax.imshow(values.numpy(), **look)
    ax.set_title(title)
    ax.grid(visible=False)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    return image


def label(layer: str) -> str:
    """A layer's name, shortened for an axis: blocks.0.conv1 -> b0.conv1."""
    return layer.replace("blocks.", "b").replace("features.", "")
