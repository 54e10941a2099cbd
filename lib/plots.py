"""How figures look: sizes, colours that everyone can tell apart, curves with intervals, reproducible files."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from torch import Tensor

# Okabe and Ito's colours, told apart with every common colour vision; the yellow is too faint for a line on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINESTYLES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
    (0, (7, 2)),
    (0, (2, 1)),
    (0, (5, 1, 1, 1, 1, 1)),
)
SINGLE, DOUBLE = 3.4, 7.0  # inches: one and two columns
SMALLEST = 7.0  # points

_STYLE: Any = {
    "figure.dpi": 120,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so every machine draws the same glyphs
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "xtick.labelsize": SMALLEST,
    "ytick.labelsize": SMALLEST,
    "legend.fontsize": SMALLEST,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.4,
    "svg.fonttype": "path",
}


def style() -> None:
    """Set matplotlib to the look of this package's figures; called once at the top of a notebook."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(_STYLE)
    mpl.rcParams["axes.prop_cycle"] = cycler(color=PALETTE, marker=MARKERS, linestyle=LINESTYLES)


def panels(
    count: int = 1, width: float | None = None, height: float = 2.3, **kwargs: Any
) -> tuple["Figure", np.ndarray]:
    """A row of axes.

    Args:
        count: how many, side by side.
        width: inches; None: one column for one panel, else two columns.
        height: inches.
        kwargs: to `plt.subplots`, as sharey.
    Returns: the figure, and the axes as an array of length count.
    """
    return grid(count, count, height, width or (SINGLE if count == 1 else DOUBLE), **kwargs)


def grid(
    count: int, columns: int = 3, height: float = 2.3, width: float = DOUBLE, **kwargs: Any
) -> tuple["Figure", np.ndarray]:
    """Axes in rows of some columns.

    Args:
        count: how many.
        columns: side by side, at most.
        height: inches of a row.
        width: inches of the figure.
        kwargs: to `plt.subplots`, as sharey.
    Returns: the figure, and the axes as an array of length count; what is left of the last row is empty.
    """
    import matplotlib.pyplot as plt

    across = min(count, columns)
    rows = -(-count // across)
    figure, axes = plt.subplots(rows, across, figsize=(width, rows * height), squeeze=False, **kwargs)
    plt.close(figure)  # a notebook shows it where it says display(figure), and not once more at the cell's end
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, axes.flat[:count]


def mosaic(layout: Any, height: float, width: float = SINGLE, **kwargs: Any) -> tuple["Figure", dict[str, "Axes"]]:
    """Panels of several sizes.

    Args:
        layout: a letter a panel, its rows parted by ";", as "AA;BC": A over B and C; or rows of names.
        height, width: inches.
        kwargs: to `plt.subplot_mosaic`, as height_ratios.
    Returns: the figure, and the axes by letter or name.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplot_mosaic(layout, figsize=(width, height), layout="constrained", **kwargs)
    plt.close(figure)
    return figure, axes


def settled(figure: "Figure") -> "Figure":
    """The figure with its layout worked out and kept: else it moves a little from one drawing to the next."""
    for _ in range(3):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:  # the solver's last digits are not the same in every run
        left, bottom, width, height = ax.get_position().bounds
        ax.set_position((round(left, 6), round(bottom, 6), round(width, 6), round(height, 6)))
    return figure


def look(index: int, **more: Any) -> dict[str, Any]:
    """Colour and marker of one of several series, as matplotlib takes them.

    Args:
        index: of the series, from 0.
        more: what else it takes, as linestyle.
    """
    return {"color": PALETTE[index % 7], "marker": MARKERS[index % 7], **more}


def bare(ax: "Axes", frame: bool = False) -> None:
    """No ticks and no grid, as around a picture; frame: whether its frame stays."""
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    if not frame:
        ax.spines[:].set_visible(False)


def banded(ax: "Axes", x: Any, rows: pd.DataFrame, **look: Any) -> None:
    """A line with a band for its interval, where all of it has one.

    Args:
        ax: where to draw.
        x: of each row.
        rows: columns value, and low and high where there are intervals.
        look: as matplotlib's `plot` takes it, color among it.
    """
    ax.plot(x, rows["value"], **look)
    if {"low", "high"} <= set(rows) and rows["low"].notna().all():
        ax.fill_between(x, rows["low"], rows["high"], color=look["color"], alpha=0.16, linewidth=0)


def curves(
    ax: "Axes",
    frame: pd.DataFrame,
    x: str = "epsilon",
    y: str = "value",
    hue: str | None = None,
    low: str | None = "low",
    high: str | None = "high",
    label: str = "{}",
    order: Sequence[Any] | None = None,
) -> None:
    """One line a value of `hue`, each with its own colour, marker and dash, and a band for its interval.

    Args:
        ax: where to draw.
        frame: as `record.frame` returns it, filtered to what is shown: one row for each x and hue.
        x, y: columns of the two axes.
        hue: column that tells the lines apart; None: one line.
        low, high: columns of the interval; a band is drawn where both are there and not NaN.
        label: text of a line in the legend, its value in place of {} (as "T = {:g}").
        order: the values of hue, in the order of legend and colours, one without rows has no line; None: sorted.
    Raises: ValueError where two rows share x and hue: a filter is missing.
    """
    values: Sequence[Any] = [None] if hue is None else order or sorted(frame[hue].dropna().unique())
    for index, value in enumerate(values):
        line = (frame if hue is None else frame[frame[hue] == value]).sort_values(x)
        if line[x].duplicated().any():
            raise ValueError(f"two rows share {x} and {hue} = {value!r}: filter the frame to one curve each")
        if line.empty:
            continue
        name = label.format(value) if hue is not None else (label if label != "{}" else None)
        own = look(index, linestyle=LINESTYLES[index % 7], label=name, markevery=max(1, len(line) // 10))
        ax.plot(line[x], line[y], **own)
        if low in line and high in line and line[low].notna().any():
            band = line.dropna(subset=[low, high])
            ax.fill_between(band[x], band[low], band[high], color=own["color"], alpha=0.16, linewidth=0)


def epsilon_axis(
    ax: "Axes",
    largest: float | None = None,
    label: str = "ε of FGSM, in 255ths of the pixel range",
    root: bool = False,
    small: bool = False,
) -> None:
    """Label an x axis of epsilons (data in [0, 1]) in 255ths.

    Args:
        largest: end of the axis in [0, 1] units; None: what is drawn.
        root: a square-root scale, which gives small epsilons room.
        small: every second tick of that scale, for a small panel.
    """
    from matplotlib.ticker import NullLocator

    end = (ax.get_xlim()[1] if largest is None else largest) * 255
    step = next((s for s in (0.25, 0.5, 1, 2, 4, 8, 16, 32) if end / s <= 8.5), 64)
    ticks = np.arange(0, end + 1e-9, step)
    if root:
        steps = np.array([0, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 255])
        steps = steps[(steps >= end / 40) & (steps <= end + 1e-9)]
        ticks = np.concatenate([[0], steps[::-2][::-1] if small else steps])
        ax.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ticks / 255, [f"{tick:g}" for tick in ticks])
    ax.set_xlim(0 if root else -0.02 * end / 255, end * 1.02 / 255)
    for line in ax.get_lines():
        line.set_clip_on(False)  # the markers at both ends are shown whole
    ax.set_xlabel(label)


def chance(ax: "Axes", level: float = 0.1, label: str = "chance") -> "Line2D":
    """A faint line at the accuracy of guessing, named at its left end, where curves are high; returned for a legend."""
    line = ax.axhline(level, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)), marker="", zorder=0.5)
    ax.annotate(
        label, (0, level), xycoords=("axes fraction", "data"), xytext=(3, 1.5), textcoords="offset points",
        ha="left", va="bottom", fontsize=SMALLEST, color="#555555",
    )  # fmt: skip
    return line


def spread(rows: pd.DataFrame) -> np.ndarray:
    """How far the numbers' intervals reach below and above them, (2, rows), as matplotlib's error bars take it.

    Args:
        rows: numbers of a record; one without an interval gets NaN, which is not drawn.
    """
    ends = rows.reindex(columns=["low", "high"]).to_numpy(float)
    return np.abs(ends.T - rows["value"].to_numpy(float))


def forest(
    ax: "Axes",
    rows: pd.DataFrame,
    label: str = "setting",
    middle: str = "difference",
    colour_by: str = "outcome",
    order: Sequence[Any] | None = None,
) -> None:
    """Intervals one above the other, with a line at zero; colours and markers tell the outcomes apart.

    Args:
        ax: where to draw.
        rows: columns `label`, `middle`, low, high and `colour_by`; the first row is drawn on top.
        order: the values of `colour_by`, so that each keeps its colour from plot to plot; None: as they come.
    """
    groups = list(dict.fromkeys([*(order or ()), *rows[colour_by]]))
    for index, group in enumerate(groups):
        if group not in set(rows[colour_by]):
            continue
        chosen = np.flatnonzero((rows[colour_by] == group).to_numpy())
        part = rows.iloc[chosen]
        reach = spread(part[["low", "high"]].assign(value=part[middle]))
        own = look(index, linestyle="none", capsize=2, elinewidth=1, label=group)
        ax.errorbar(part[middle], chosen, xerr=reach, **own)
    zero(ax)
    named_rows(ax, [str(text) for text in rows[label]])
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=max(1, len(groups)))


def heading(ax: "Axes", words: str) -> None:
    """A title at the left of a panel that begins a row of panels; it may run over the others."""
    ax.set_title(" ", fontsize=SMALLEST)  # takes the height, the words take no width
    place: Any = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 4), "textcoords": "offset points"}
    ax.annotate(words, **place, fontweight="bold", fontsize=SMALLEST).set_in_layout(False)


def zero(ax: "Axes") -> None:
    """A line where a difference is nothing."""
    ax.axvline(0, color="#777777", linewidth=0.8, marker="", linestyle="-", zorder=0.5)


def named_rows(ax: "Axes", names: Sequence[str], room: float = 0.5) -> None:
    """The vertical axis as rows 0, 1, ... from top to bottom, a name each.

    Args:
        room: above the first and below the last row, in rows.
    """
    ax.set_yticks(range(len(names)), list(names))
    ax.set_ylim(len(names) - 1 + room, -room)
    ax.grid(axis="y", visible=False)


def legend_below(axes: "Sequence[Axes] | np.ndarray", columns: int, **look: Any) -> "Legend":
    """One legend for all panels, below them, each name of the first panel once.

    Args:
        axes: the panels.
        columns: names in a row.
        look: as matplotlib's `legend` takes them.
    """
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    if (stars := handles.pop("as published", None)) is not None:
        handles["as published"] = stars  # last, wherever they were drawn first
    return axes[0].figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns, **look
    )


def pictures(rows: int, columns: int, side: float = 0.92) -> tuple["Figure", np.ndarray]:
    """A figure of small pictures without axes, `side` inches each; every cell (rows, columns) is an `Axes`."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(side * columns + 0.9, side * rows + 0.4), squeeze=False)
    for ax in axes.flat:
        bare(ax)
    plt.close(figure)
    return figure, axes


def picture(ax: "Axes", image: "Tensor", outline: "Tensor | None" = None) -> None:
    """An image (C, H, W) in [0, 1]; outline: a mask (1, H, W) whose border is drawn over it."""
    pixels = image.detach().cpu().permute(1, 2, 0).squeeze(-1).numpy()
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    if outline is not None and 0 < float(outline.sum()) < outline.numel():
        ax.contour(outline[0].cpu().numpy(), levels=[0.5], colors=[PALETTE[1]], linewidths=1.0, linestyles="solid")


def short(text: str, longest: int = 15) -> str:
    """A class's name short enough for a picture's title."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def render(figure: "Figure", kind: str, source: str = "") -> bytes:
    """A figure's file; the same figure gives the same bytes.

    Args:
        figure: drawn.
        kind: png (300 dpi) or svg (text as paths).
        source: what it was drawn from, kept in the file's own metadata; `source_of` reads it back.
    Raises: ValueError for another kind.
    """
    import matplotlib as mpl

    if kind not in ("png", "svg"):
        raise ValueError(f"kind {kind!r} is neither png nor svg")
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    if source:
        metadata["Source"] = source
    buffer = io.BytesIO()
    fixed: Any = {"svg.hashsalt": "fixed", "svg.fonttype": "path", "savefig.dpi": 300, "savefig.facecolor": "white"}
    with mpl.rc_context(fixed):
        figure.savefig(buffer, format=kind, metadata=metadata, bbox_inches="tight", pad_inches=0.04)
    return buffer.getvalue()


def source_of(content: bytes) -> str:
    """What a figure's file says it was drawn from, as `render` was told; empty where it does not say.

    Args:
        content: of a PNG or SVG file.
    Raises: ValueError where it is neither.
    """
    from xml.etree import ElementTree

    from PIL import Image

    if content.startswith(b"\x89PNG"):
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()  # text may stand after the pixels; a torn file shows here
                return str(image.info.get("Source", ""))
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"a damaged PNG: {error}") from error
    try:
        found = ElementTree.fromstring(content).find(".//{http://purl.org/dc/elements/1.1/}source")
    except ElementTree.ParseError as error:
        raise ValueError(f"neither PNG nor SVG: {error}") from error
    return "" if found is None else found.text or ""
