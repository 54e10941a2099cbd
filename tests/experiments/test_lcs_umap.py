"""Names on the map of decision features: apart from one another, and no further than needed."""

import numpy as np
import pytest

from lib import plots
from lib.experiments import lcs_umap


def test_boxes_are_moved_apart_and_no_further_than_needed():
    random = np.random.default_rng(0)
    centres = np.concatenate([random.normal(50, 3, (8, 2)), [[5, 95], [99, 1]]])
    sizes = np.column_stack([random.uniform(8, 16, 10), np.full(10, 5.0)])
    moved = lcs_umap.moved_apart(centres, sizes, np.array([0, 0]), np.array([100, 100]))
    gaps = np.abs(moved[:, None] - moved[None]) - (sizes[:, None] + sizes[None]) / 2
    assert (gaps.max(-1)[~np.eye(10, dtype=bool)] >= -1e-6).all()
    assert (moved - sizes / 2 >= 0).all() and (moved + sizes / 2 <= 100).all()
    assert moved[8].tolist() == pytest.approx(np.clip(centres[8], sizes[8] / 2, 100)) and moved[9, 0] < 99
    apart = np.array([[10.0, 10], [60, 60]])
    assert lcs_umap.moved_apart(apart, np.full((2, 2), 8.0), np.array([0, 0]), np.array([100, 100])).tolist() == (
        apart.tolist()
    )
    same = lcs_umap.moved_apart(np.full((3, 2), 50.0), np.full((3, 2), 8.0), np.array([0, 0]), np.array([100, 100]))
    assert len({tuple(place) for place in same}) == 3


def test_names_of_places_do_not_overlap():
    figure, (ax,) = plots.panels()
    ax.set(xlim=(0, 10), ylim=(0, 10))
    figure.draw_without_rendering()
    names = ["automobile", "airplane", "truck", "ship"]
    lcs_umap.name_places(ax, names, np.array([[5, 5], [5.1, 5], [5, 5.2], [9.9, 9.9]]), plots.PALETTE[:4])
    figure.draw_without_rendering()
    assert [text.get_text() for text in ax.texts] == names
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])
    assert all(ax.get_window_extent().contains(*corner) for box in boxes for corner in (box.min, box.max))
