"""Is the price of a repair owed to narrow networks (notebook 40)? One backdoor in networks of several widths, repaired.

The source does not state how wide its networks are; those of the table of backdoor removal are reduced at some scales.
"""

from __future__ import annotations

from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from lib import config, plots
from lib.experiments import lancet_backdoors
from lib.experiments.item import Item, Results
from lib.experiments.lancet_backdoors import ABOUT, UNITS, RepairRun, by_method, of_networks, tables, wide
from lib.experiments.lancet_repairs import METHODS

SHOWN = ("flip-stated", "flip-tried", "tune", "unlearn-matched")
"""Methods that are drawn; the first two are in the table."""
PANELS = {"attack_success": "attack success rate\nthat is left", "accuracy_change": "change of accuracy"}


class Settings(lancet_backdoors.Settings):
    """Settings of the experiment; see `Repairs`, `Flipping` and `Backdoors`."""

    section: ClassVar[str] = "widths"

    families: tuple[str, ...] = Field(("backdoor-width",), min_length=1, title="backdoored networks")


def widened(settings: Settings, seed: int) -> pd.DataFrame:
    """Networks of each width before and after every repair, with the true and with the reversed trigger known.

    Returns: tidy: the measures of `LABELS`, and "changed", the share of the layer's weights that was flipped, at {set,
        width (filters of the first convolution), method, reversed}.
    """
    run = RepairRun(settings, seed)
    table = tables(run)
    widths = {name: config.thaw(run.preset.recipe(name).arch_args).get("width") for name in table["network"].unique()}
    places = {name: (network["set"].iloc[0], widths[name]) for name, network in table.groupby("network")}
    if None in widths.values() or len(set(places.values())) < len(places):
        raise config.ConfigError(
            f"families {', '.join(settings.families)}: one network a set and width is wanted, its width in arch_args; "
            f"they have {', '.join(f'{name} ({width})' for name, width in widths.items())}"
        )
    table["width"] = table["network"].map(widths)
    rows = of_networks(table, ["set", "width"])
    return run.tidy({key: value for key, value in row.items() if key != "network"} for row in rows)


def layout(results: Results) -> pd.DataFrame:
    """A row a set, width, way of flipping and trigger known."""
    rows = results.values("accuracy")
    places = sorted(dict.fromkeys(zip(rows["set"], rows["width"], strict=True)))
    return by_method(wide(results, ["set", "width", "method", "reversed"]), SHOWN[:2], places)


def draw(results: Results) -> Figure:
    """What is left of the backdoor, and what it costs, by width; a column a set, reversed triggers known."""
    sets = list(dict.fromkeys(results.values("accuracy")["set"]))
    figure, axes = plots.grid(2 * len(sets), len(sets), 1.9, plots.SINGLE, sharex="col", sharey="row")
    for place, ax in enumerate(axes):
        measure, name = list(PANELS)[place // len(sets)], sets[place % len(sets)]
        rows = results.values(measure, set=name, reversed=True, method=list(SHOWN))
        rows = rows.assign(shown=rows["method"].map(METHODS))
        plots.curves(ax, rows, x="width", hue="shown", order=[METHODS[method] for method in SHOWN])
        ax.set_xscale("log", base=2)
        widths = sorted(rows["width"].unique())
        ax.set_xticks(widths, [f"{width:g}" for width in widths])
        ax.minorticks_off()
        if measure == "attack_success":
            ax.set(title=name, ylim=(-0.02, 1.02))
        else:
            ax.axhline(0, color="#777777", linewidth=0.8, marker="", linestyle="-")
            ax.set_xlabel("width")
        if place % len(sets) == 0:
            ax.set_ylabel(PANELS[measure])
    plots.legend_below(axes, 2)
    return figure


WIDTHS = Item(
    "lancet_widths",
    widened,
    UNITS | {"changed": "fraction of the layer's weights"},
    table=layout,
    draw=draw,
    about=ABOUT,
)
ITEMS = (WIDTHS,)
