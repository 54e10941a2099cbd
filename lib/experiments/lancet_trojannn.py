"""TrojanNN (notebook 34), whose triggers excite chosen neurons of a clean network, repaired as other backdoors are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib import plots
from lib.experiments import lancet_backdoors
from lib.experiments.item import Item, Results
from lib.experiments.lancet_backdoors import ABOUT, CHANGED, KNOWN, UNITS, RepairRun, network_table, of_networks, tables
from lib.experiments.lancet_repairs import METHODS


class Settings(lancet_backdoors.Settings):
    """Settings of the experiment, those of notebook 33; see `Repairs`, `Flipping` and `Backdoors`."""

    kinds: ClassVar[Sequence[str]] = ("trojannn",)


def repaired(settings: Settings, seed: int) -> pd.DataFrame:
    """Both networks before and after every repair.

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


def draw(results: Results) -> Figure:
    """Success (full) and accuracy (hollow) of every method; a panel a network."""
    success, accuracy = results.values("attack_success"), results.values("accuracy")
    order = [method for method in METHODS if method in set(accuracy["method"])]
    names = list(dict.fromkeys(accuracy["network"]))
    figure, axes = plots.panels(len(names), width=plots.DOUBLE, height=3.8)
    for ax, network in zip(axes, names, strict=True):
        for index, (flag, known) in enumerate(KNOWN.items()):
            means = [
                rows[(rows["network"] == network) & (rows["reversed"] == flag)].set_index("method")["value"]
                for rows in (success, accuracy)
            ]
            places = np.arange(len(order)) + (index - 0.5) * 0.3
            look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index], "linestyle": "none"}
            ax.plot(means[0].reindex(order), places, label=f"success, {known} trigger known", **look)
            ax.plot(means[1].reindex(order), places, fillstyle="none", label=f"accuracy, {known} trigger known", **look)
        plots.named_rows(ax, [METHODS[method] for method in order], 0.6)
        ax.set(xlim=(-0.03, 1.03), title=str(network).rpartition("-")[2], xlabel="share of images")
    for ax in axes[1:]:
        ax.tick_params(labelleft=False)
    plots.legend_below(axes, 2)
    return figure


STATED = tuple(
    (measure, {"method": "flip-stated", "reversed": False, "network": f"lancet-trojannn-{form}"}, value)
    for measure, values in {"attack_success": (0.0, 0.0), "accuracy": (0.9701, 0.9702)}.items()
    for form, value in zip(("square", "watermark"), values, strict=True)
)
"""The authors' released log, on published networks for face recognition."""
TROJANNN = Item("lancet_trojannn", repaired, UNITS | CHANGED, STATED, layout, draw, about=ABOUT)
ITEMS = (TROJANNN,)
