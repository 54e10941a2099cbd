"""Figures: the same bytes twice, lines told apart by more than colour, axes in 255ths."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib import plots


@pytest.fixture(autouse=True)
def fresh():
    with mpl.rc_context():
        plots.style()
        yield
    plt.close("all")


def sample():
    steps = np.array([0, 1, 2, 4, 8]) / 255
    rows = [
        {"epsilon": e, "sparsity": s, "value": 0.8 - s / 4 - 30 * e / 2, "low": 0.7 - 15 * e, "high": 0.82 - 14 * e}
        for s in (0.9, 0.0)
        for e in steps[::-1]
    ]
    return pd.DataFrame(rows)


def draw():
    figure, axes = plots.panels()
    plots.curves(axes[0], sample(), hue="sparsity", label="sparsity {:g}")
    plots.epsilon_axis(axes[0])
    plots.chance(axes[0])
    axes[0].legend()
    return figure


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_two_drawings_give_the_same_bytes(kind):
    first, second = plots.render(draw(), kind), plots.render(draw(), kind)
    assert first == second and len(first) > 1000
    assert b"dc:date" not in first and b"Software" not in first


def test_render_refuses_other_kinds():
    with pytest.raises(ValueError, match="neither png nor svg"):
        plots.render(draw(), "pdf")


def test_curves_are_sorted_and_told_apart_without_colour():
    lines = [line for line in draw().axes[0].lines if line.get_label().startswith("sparsity")]
    assert [line.get_label() for line in lines] == ["sparsity 0", "sparsity 0.9"]
    assert all((np.diff(line.get_xdata()) > 0).all() for line in lines)
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines]
    assert all(a != b for a, b in zip(*looks, strict=True))


def test_band_covers_the_interval_and_is_left_out_without_one():
    _, axes = plots.panels()
    one = sample().query("sparsity == 0")
    plots.curves(axes[0], one)
    assert len(axes[0].collections) == 1
    corners = axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert corners.min() == pytest.approx(one["low"].min()) and corners.max() == pytest.approx(one["high"].max())
    _, axes = plots.panels()
    plots.curves(axes[0], one.assign(low=np.nan, high=np.nan))
    assert len(axes[0].collections) == 0


def test_two_values_at_one_point_are_refused():
    _, axes = plots.panels()
    with pytest.raises(ValueError, match="filter the frame"):
        plots.curves(axes[0], sample())


@pytest.mark.parametrize(
    ("largest", "labels"), [(16 / 255, "0 2 4 6 8 10 12 14 16"), (4 / 255, "0 0.5 1 1.5 2 2.5 3 3.5 4")]
)
def test_epsilon_ticks_are_255ths(largest, labels):
    _, axes = plots.panels()
    plots.epsilon_axis(axes[0], largest)
    ticks = axes[0].get_xticks()
    assert " ".join(text.get_text() for text in axes[0].get_xticklabels()) == labels
    assert ticks * 255 == pytest.approx([float(text) for text in labels.split()])


def test_a_small_panel_has_every_second_tick():
    _, axes = plots.panels(2)
    for ax, small in zip(axes, (False, True), strict=True):
        plots.epsilon_axis(ax, 16 / 255, root=True, small=small)
    shown = [" ".join(text.get_text() for text in ax.get_xticklabels()) for ax in axes]
    assert shown == ["0 0.5 1 2 4 8 16", "0 1 4 16"]


def test_panels_of_a_settled_figure_stay_where_they_are():
    figure, axes = plots.mosaic("AA;BC", height=3, height_ratios=[2, 1])
    plots.curves(axes["A"], sample(), hue="sparsity")
    for ax in axes.values():
        ax.set_title("a title")
    plots.settled(figure)
    before = [ax.get_position().bounds for ax in axes.values()]
    assert before[0][3] > 1.5 * before[1][3] and before[0][2] > 2 * before[1][2]
    axes["B"].set_ylabel("a label\nof two lines")
    assert plots.render(figure, "png")
    assert [ax.get_position().bounds for ax in axes.values()] == before


def test_style_keeps_text_legible_and_sizes():
    assert all(mpl.rcParams[key] >= 7 for key in ("font.size", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"))
    assert plots.panels()[0].get_size_inches()[0] == 3.4 and plots.panels(3)[0].get_size_inches()[0] == 7.0
    assert len(set(plots.PALETTE)) == len(plots.PALETTE) == len(plots.MARKERS) == len(plots.LINESTYLES)


def test_forest_keeps_a_colour_for_each_outcome():
    rows = pd.DataFrame({"setting": ["a", "b"], "difference": [0.1, -0.1], "low": [0.0, -0.2], "high": [0.3, -0.05]})
    order = ("supports", "contradicts")
    colours = []
    for outcomes in (["supports", "contradicts"], ["contradicts", "contradicts"]):
        _, axes = plots.panels()
        plots.forest(axes[0], rows.assign(outcome=outcomes), order=order)
        colours.append(axes[0].containers[-1].lines[0].get_color())
        assert [text.get_text() for text in axes[0].get_yticklabels()] == ["a", "b"]
    assert colours[0] == colours[1] == plots.PALETTE[1]


def test_a_figure_is_shown_where_the_notebook_says_so_and_nowhere_else():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure, axes = plots.panels(2)
    axes[0].plot([0, 1], [0, 1])
    assert plt.get_fignums() == before  # what a notebook would show at the end of a cell
    assert plots.render(figure, "png").startswith(b"\x89PNG")
