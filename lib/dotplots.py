"""Dot plots, a row a method: values with intervals, the source's values, an axis with a break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lib import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def intervals(ax: Axes, values: pd.DataFrame, places: Sequence[float] | np.ndarray, index: int, **look: Any) -> None:
    """Values one above the other, each with its interval where it has one.

    Args:
        ax: where to draw.
        values: columns value, low and high (NaN: no interval).
        places: height of each, in rows from the top.
        index: which colour and marker, from 0.
        look: as matplotlib's `errorbar` takes it, as label.
    """
    own: dict[str, Any] = {"color": plots.PALETTE[index % 7], "marker": plots.MARKERS[index % 7], "linestyle": "none"}
    ax.errorbar(
        values["value"], places, xerr=plots.spread(values), **{**own, "capsize": 1.5, "elinewidth": 0.9, **look}
    )


def published(ax: Axes, values: pd.DataFrame, places: Sequence[float] | np.ndarray) -> None:
    """The source's own values, where it states any, as stars: column paper_value, at the places of `intervals`."""
    if "paper_value" in values and values["paper_value"].notna().any():
        look: Any = {"color": "#000000", "marker": "*", "markersize": 6.5, "linestyle": "none"}
        look |= {"markeredgecolor": "#ffffff", "markeredgewidth": 0.4, "clip_on": False, "zorder": 3}
        ax.plot(values["paper_value"], places, label="as published", **look)


def row_of(names: Sequence[str] | pd.Series, order: Sequence[str]) -> np.ndarray:
    """In which row each name is, from the top, where the rows are `order`."""
    return np.array([order.index(name) for name in names], dtype=float)


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
