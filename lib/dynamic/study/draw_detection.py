"""The plots of the detection study on decisions, from the numbers of its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib import plots
from lib.attacks import SUITE
from lib.dynamic.study.detection_adaptive import ANEW
from lib.dynamic.study.detection_bench import DECISIONS, ON_CLEAN, PAIRS, PENULTIMATE, UNTRAINED
from lib.dynamic.study.detection_records import AVERAGE, CONTROLS, SAME, attack_label, of_pair
from lib.dynamic.study.names import titled
from lib.evaluations import frame

WATCHED = (DECISIONS, UNTRAINED, PENULTIMATE, ANEW, "Mahalanobis", "kernel density", "max-softmax")


def within(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Area under the ROC curve of every detector, a dot an attack; fitted on clean images or on the same attack.

    Args:
        axes: one a network, sharing y.
    """
    rows = of_pair(numbers)
    rows = rows[rows["trained_on"].isin([ON_CLEAN, SAME])]
    detectors = list(dict.fromkeys([*CONTROLS, *rows["detector"]]))
    detectors = [name for name in detectors if name in set(rows["detector"])]
    attacks = [name for name in (*SUITE, AVERAGE) if name in set(rows["attack"])]
    step = 0.7 / max(1, len(attacks) - 1)
    for ax, name in zip(axes, dict.fromkeys(rows["network"]), strict=False):
        for index, attack in enumerate(attacks):
            part = rows[(rows["network"] == name) & (rows["attack"] == attack)]
            place = np.array([detectors.index(one) for one in part["detector"]]) + index * step - 0.35
            spread = np.abs(part[["low", "high"]].to_numpy(float).T - part["value"].to_numpy(float))
            look = _look(index)
            words = "average" if attack == AVERAGE else attack_label(attack)
            ax.errorbar(part["value"], place, xerr=spread, linestyle="none", elinewidth=0.7, label=words, **look)
        _bands(ax, len(detectors))
        plots.named_rows(ax, detectors)
        ax.set_title(titled(str(name), 18))
        _area_axis(ax)
    plots.legend_below(axes, 5)


def matrix(axes: Sequence[Axes], numbers: Sequence[Any], network: str, detectors: Sequence[str] = CONTROLS) -> None:
    """Area by the attack that a detector was fitted on (rows) and tested on (columns); a panel a detector.

    Args:
        axes: one a detector, sharing y.
        network: whose.
    """
    for ax, detector in zip(axes, detectors, strict=True):
        rows = of_pair(numbers, network=network, detector=detector)
        attacks = [name for name in SUITE if name in set(rows["attack"])]
        values = rows[rows["trained_on"].isin(attacks)].pivot(index="trained_on", columns="attack", values="value")
        values = values.reindex(index=attacks, columns=attacks)
        ax.imshow(values, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
        for i, j in np.argwhere(values.notna().to_numpy()):
            value = values.iat[i, j]
            colour = "#ffffff" if abs(value - 0.5) > 0.35 else "#000000"
            ax.annotate(f"{100 * value:.0f}", (j, i), ha="center", va="center", fontsize=6.5, color=colour)
        labels = [attack_label(name) for name in attacks]
        ax.set_xticks(range(len(attacks)), labels, rotation=50, ha="right")
        ax.set_yticks(range(len(attacks)), labels)
        ax.set_title(detector, fontsize=plots.SMALLEST)
        ax.set_xlabel("tested on")
        ax.grid(visible=False)
    axes[0].set_ylabel("fitted on")


def noise(axes: Sequence[Axes], numbers: Sequence[Any], detector: str = DECISIONS) -> None:
    """The three pairs of inputs, attack by attack, for one detector; a panel a network.

    Args:
        axes: one a network, sharing y.
        detector: which.
    """
    for ax, name in zip(axes, dict.fromkeys(of_pair(numbers)["network"]), strict=False):
        for index, pair in enumerate(PAIRS):
            part = of_pair(numbers, pair, network=name, detector=detector, trained_on=SAME)
            attacks = [one for one in SUITE if one in set(part["attack"])]
            part = part.set_index("attack").reindex(attacks)
            spread = np.abs(part[["low", "high"]].to_numpy(float).T - part["value"].to_numpy(float))
            place = np.arange(len(attacks)) + 0.22 * (index - 1)
            ax.errorbar(part["value"], place, xerr=spread, linestyle="none", elinewidth=0.7, label=pair, **_look(index))
        _bands(ax, len(attacks))
        plots.named_rows(ax, [attack_label(one) for one in attacks])
        ax.set_title(titled(str(name), 18))
        _area_axis(ax)
    plots.legend_below(axes, 3)


def adaptive(axes: Sequence[Axes], numbers: Sequence[Any], network: str) -> None:
    """Area of each detector, and the attack's success, by the weight of the decisions; a panel an aim and gradient.

    Args:
        axes: four that share y: the clean image's own decisions, then its target class's mean, each with held and with
            straight-through choices.
        network: whose.
    """
    rows = frame(numbers, "auroc", network=network).dropna(subset=["aim"])
    success = frame(numbers, "success", network=network)
    weights = sorted(set(rows["weight"]))
    panels = [(aim, way) for aim in dict.fromkeys(rows["aim"]) for way in dict.fromkeys(rows["gradient"])]
    order = [name for name in WATCHED if name in set(rows["detector"])]
    for ax, (aim, way) in zip(axes, panels, strict=False):
        part = rows[(rows["aim"] == aim) & (rows["gradient"] == way) & rows["detector"].isin(order)]
        plots.curves(ax, _placed(part, weights), x="place", hue="detector", order=order)
        line = _placed(success[(success["aim"] == aim) & (success["gradient"] == way)], weights)
        ax.plot(
            line["place"], line["value"], label="attack's success", color="#999999", linestyle=(0, (1, 1)), marker=""
        )
        ax.set_xticks(range(len(weights)), ["unaware", *(f"{weight:g}" for weight in weights[1:])])
        ax.set_xlabel("weight of the decisions")
        ax.set_ylim(-0.02, 1.04)
        ax.set_title(f"{aim},\n{way}")
    axes[0].set_ylabel("area under the ROC curve")
    plots.legend_below(axes, 3)


def _placed(rows: pd.DataFrame, weights: Sequence[float]) -> pd.DataFrame:
    """Rows with the place of their weight on the axis, in its order."""
    return rows.assign(place=[weights.index(weight) for weight in rows["weight"]]).sort_values("place")


def _bands(ax: Axes, count: int) -> None:
    for band in range(0, count, 2):
        ax.axhspan(band - 0.5, band + 0.5, color="#f4f4f4", zorder=0)
    ax.grid(axis="y", visible=False)


def _area_axis(ax: Axes) -> None:
    ax.axvline(0.5, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)), marker="", zorder=0.5)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("area under the\nROC curve\n(dotted: chance)")


def _look(index: int) -> dict[str, Any]:
    return {"color": plots.PALETTE[index % 7], "marker": plots.MARKERS[index % 7]}
