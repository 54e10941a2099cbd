"""TrojanNN (notebook 34), whose triggers excite chosen neurons of a clean network, repaired as other backdoors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from lib import dotplots, plots
from lib.experiments import lancet_backdoors
from lib.experiments.item import Item, Results
from lib.experiments.lancet_backdoors import ABOUT, CHANGED, UNITS, RepairRun, network_table, of_networks, tables
from lib.experiments.lancet_figures import method_names
from lib.experiments.lancet_repairs import KNOWN, METHODS


class Settings(lancet_backdoors.Settings):
    """Settings of the experiment; see `Repairs`, `Flipping` and `Backdoors`."""

    section: ClassVar[str] = "trojannn"

    kinds: ClassVar[Sequence[str]] = ("trojannn",)


def repaired(settings: Settings, seed: int) -> pd.DataFrame:
    """A network of each form before and after every repair.

    Returns: tidy: the measures of `lancet_backdoors.LABELS` and "changed" at {network, method, reversed}; beside the
        record "repair", all of a repair in one row.
    """
    run = RepairRun(settings, seed)
    table = tables(run)
    beside = ({"measure": "repair", **row} for row in table.to_dict("records"))
    return run.tidy([*of_networks(table), *beside])


def layout(results: Results) -> pd.DataFrame:
    """One row a network before repair, and one for each method and trigger known."""
    return network_table(results, [method for method in METHODS if method != "none"])


PANELS = {"attack_success": "attack success rate", "accuracy": "accuracy"}


def draw(results: Results) -> Figure:
    """Success and accuracy after every method; a column a measure, a block a network."""
    shown = {name: results.values(name) for name in PANELS}
    names = list(dict.fromkeys(shown["accuracy"]["network"]))
    order = [method for method in METHODS if method in set(shown["accuracy"]["method"])]
    figure, flat = plots.grid(2 * len(names), 2, 3 + 0.7 / len(names), plots.SINGLE, sharex=True)
    for row, network in zip(flat.reshape(-1, 2), names, strict=True):
        for ax, rows in zip(row, shown.values(), strict=True):
            for index, (flag, known) in enumerate(KNOWN.items()):
                part = rows[(rows["network"] == network) & (rows["reversed"] == flag)]
                places = dotplots.row_of(part["method"], order) + (index - 0.5) * 0.4
                dotplots.intervals(ax, part, places, index, label=f"{known} trigger known", clip_on=False, markersize=3)
                dotplots.published(ax, part, places)
            plots.named_rows(ax, method_names(order, 28), 0.6)
            ax.set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", ".5", "1"))
            ax.tick_params(labelleft=ax is row[0])
        plots.heading(row[0], f"{str(network).rpartition('-')[2]} trigger")
    for ax, (name, words) in zip(row, PANELS.items(), strict=True):
        counts = " to ".join(f"{count:,}" for count in sorted({shown[name]["n"].min(), shown[name]["n"].max()}))
        ax.set_xlabel(f"{words},\nshare of {counts} images", fontsize=plots.SMALLEST)
    plots.legend_below(flat, 2)
    return figure


STATED = tuple(
    (measure, {"method": "flip-stated", "reversed": False, "network": f"lancet-trojannn-{form}"}, value)
    for measure, values in {"attack_success": (0.0, 0.0), "accuracy": (0.9701, 0.9702)}.items()
    for form, value in zip(("square", "watermark"), values, strict=True)
)
"""The authors' released log, on published networks for face recognition."""
TROJANNN = Item("lancet_trojannn", repaired, UNITS | CHANGED, STATED, layout, draw, about=ABOUT)
ITEMS = (TROJANNN,)
