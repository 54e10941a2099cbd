"""Dot plots, a row a method: values with intervals, the source's values, an axis with a break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lib import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def intervals(ax: Axes, values: pd.DataFrame, places: Any, index: int, upright: bool = False, **look: Any) -> None:
    """Values at their places, each with its interval where it has one.

    Args:
        ax: where to draw.
        values: columns value, low and high (NaN: no interval).
        places: height of each, in rows from the top; or its place from the left.
        index: which colour and marker, from 0.
        upright: whether values go up, and not to the right.
        look: as matplotlib's `errorbar` takes it, as label.
    """
    own = plots.look(index, **{"linestyle": "none", "capsize": 1.5, "elinewidth": 0.9, **look})
    if upright:
        ax.errorbar(places, values["value"], yerr=plots.spread(values), **own)
    else:
        ax.errorbar(values["value"], places, xerr=plots.spread(values), **own)


def hollow(ax: Axes, values: pd.DataFrame, places: Any, label: str) -> None:
    """Values without intervals beside those of `intervals`, as small hollow squares: what was tried and not taken."""
    look: Any = {"color": plots.PALETTE[1], "marker": "s", "fillstyle": "none", "linestyle": "none", "markersize": 3}
    ax.plot(values["value"], places, label=label, **look)


def published(ax: Axes, values: pd.DataFrame, places: Sequence[float] | np.ndarray) -> None:
    """The source's own values, where it states any, as stars: column paper_value, at the places of `intervals`."""
    if "paper_value" in values and values["paper_value"].notna().any():
        look: Any = {"color": "#000000", "marker": "*", "markersize": 6.5, "linestyle": "none"}
        look |= {"markeredgecolor": "#ffffff", "markeredgewidth": 0.4, "clip_on": False, "zorder": 3}
        ax.plot(values["paper_value"], places, label="as published", **look)


def row_of(names: Sequence[str] | pd.Series, order: Sequence[str]) -> np.ndarray:
    """In which row each name is, from the top, where the rows are `order`."""
    return np.array([order.index(name) for name in names], dtype=float)


def dots(ax: Axes, values: pd.DataFrame, row: str, rows: Sequence[str], hue: str, hues: Sequence[str]) -> None:
    """Values with their intervals in rows from top to bottom, those of a row one below the other.

    Args:
        ax: where to draw.
        values: as `intervals` takes them; others than of `rows` and `hues` are left out.
        row, rows: the column that says in which row a value stands, and the rows' names.
        hue, hues: the column that tells the values of a row apart, and what it has, in order.
    """
    step = 0.7 / max(1, len(hues) - 1)
    for index, name in enumerate(hues):
        part = values[(values[hue] == name) & values[row].isin(list(rows))]
        places = row_of(part[row], rows) + index * step - 0.35
        intervals(ax, part, places, index, capsize=0, elinewidth=0.7, label=name)


def striped(ax: Axes, rows: int) -> None:
    """Every second of some rows on grey."""
    for row in range(0, rows, 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)


def spans(values: pd.DataFrame) -> list[tuple[float, float, int]]:
    """Parts of an axis that hold all intervals: one, or two where a gap of more than a third of the whole parts them,
    so that what lies far off does not press the others together.

    Args:
        values: at least one, with columns value, low and high (NaN: no interval).
    Returns: start and end of each part, with a little room, and how wide it is of a whole of 4: 3 for the part with
        more intervals, 1 for the other.
    """
    ends = values[["low", "high"]].apply(lambda end: end.fillna(values["value"])).astype(float).sort_values("low")
    starts, reach = ends["low"].to_numpy(), ends["high"].cummax().to_numpy()
    gaps = starts[1:] - reach[:-1]
    if not len(gaps) or gaps.max() <= (reach[-1] - starts[0]) / 3:
        parts = [(starts[0], reach[-1], 4)]
    else:
        cut = int(gaps.argmax()) + 1
        left = 3 if cut > len(starts) / 2 else 1
        parts = [(starts[0], reach[cut - 1], left), (starts[cut], reach[-1], 4 - left)]
    room = max(0.06 * max(end - start for start, end, _ in parts), 1e-9)
    return [(float(start - room), float(end + room), width) for start, end, width in parts]


def broken(left: Axes, right: Axes) -> None:
    """Two neighbours, their limits set, as the parts of one horizontal axis: strokes where it is broken, and a single
    number below the narrower one."""
    right.spines.left.set_visible(False)
    right.tick_params(axis="y", left=False, labelleft=False)
    look: Any = {"marker": [(-1, -2), (1, 2)], "markersize": 6, "color": "#000000", "linestyle": "none"}
    for ax, edge in ((left, 1), (right, 0)):
        ax.plot([edge], [0], transform=ax.transAxes, clip_on=False, markeredgewidth=0.8, **look)
    narrow = min(left, right, key=lambda ax: ax.get_position().width)
    start, end = narrow.get_xlim()
    rounded = (float(f"{(start + end) / 2:.{digits}g}") for digits in range(1, 16))
    narrow.set_xticks([next(tick for tick in rounded if start <= tick <= end)])
    layout: Any = left.figure.get_layout_engine()
    if layout is not None:
        layout.set(wspace=0, w_pad=0.02)
