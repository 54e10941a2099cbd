"""Dot plots: intervals as they are, stars where the source states a value, an axis with a break where a gap is wide."""

import numpy as np
import pandas as pd

from lib import dotplots, plots


def spread(*intervals):
    return pd.DataFrame([{"value": (low + high) / 2, "low": low, "high": high} for low, high in intervals])


def test_an_axis_is_one_part_unless_a_wide_gap_parts_its_intervals():
    one = dotplots.spans(spread((0, 3), (4, 6), (7, 10)))
    assert len(one) == 1 and one[0][0] < 0 < 10 < one[0][1] and one[0][2] == 4
    far, near = dotplots.spans(spread((-5, 1), (0, 2), (-60, -50)))
    assert far[0] < -60 < -50 < far[1] < near[0] < -5 < 2 < near[1]
    assert (far[2], near[2]) == (1, 3), "the part with more intervals is the wide one"
    near, far = dotplots.spans(spread((0, 1), (0, 2), (9, 9)))
    assert (near[2], far[2]) == (3, 1) and far[0] < 9 < far[1]
    assert len(dotplots.spans(spread((0, 40), (1, 2), (50, 60)))) == 1, "a long interval fills the gap"
    bare = dotplots.spans(pd.DataFrame({"value": [0.0, 0.1, 1.0], "low": [np.nan] * 3, "high": [np.nan] * 3}))
    assert [width for _, _, width in bare] == [3, 1]
    alone = dotplots.spans(spread((2, 2)))
    assert len(alone) == 1 and alone[0][0] < 2 < alone[0][1]


def test_a_broken_axis_has_a_number_in_each_part_that_lies_in_it():
    for left, right in (((-57, -41), (-12, 4)), ((0, 0.12), (0.905, 0.915))):
        _, axes = plots.panels(2, width_ratios=[1, 3] if left[0] else [3, 1])
        for ax, limits in zip(axes, (left, right), strict=True):
            ax.set_xlim(limits)
        dotplots.broken(*axes)
        narrow, limits = (axes[0], left) if left[0] else (axes[1], right)
        (tick,) = narrow.get_xticks()
        assert limits[0] <= tick <= limits[1]


def test_intervals_end_where_they_end_and_a_value_without_one_has_none():
    _, (ax,) = plots.panels()
    rows = pd.DataFrame(
        {"value": [0.9, 0.5], "low": [0.6, np.nan], "high": [1.0, np.nan], "paper_value": [np.nan, 0.4]}
    )
    dotplots.intervals(ax, rows, [0, 1], 0)
    (bars,) = ax.collections
    assert [segment[:, 0].tolist() for segment in bars.get_segments() if len(segment)] == [[0.6, 1.0]]
    dotplots.published(ax, rows, [0, 1])
    dotplots.published(ax, rows.iloc[:1], [0])  # none is stated: none is drawn
    (stars,) = [line for line in ax.get_lines() if line.get_marker() == "*"]
    assert stars.get_xydata()[1].tolist() == [0.4, 1] and np.isnan(stars.get_xdata()[0])
