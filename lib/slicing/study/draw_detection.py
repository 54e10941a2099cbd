"""The plots of the detection study, from the numbers of its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib import plots
from lib.attacks import SUITE
from lib.evaluations import frame
from lib.slicing.study.detection_records import AVERAGE, NAMES, SAME, STATED, attack_label, of_rule

Look = dict[str, Any]
MEASURES = {"recall": "adversarials flagged (recall)", "fpr": "clean images flagged", "precision": "precision"}
DETECTORS = {
    ("max-softmax", "clean"): "max-softmax",
    ("Mahalanobis, last layer", "clean"): "Mahalanobis, last layer",
    ("similarity", "clean"): "similarity",
    ("activity", "clean"): "activity",
    ("forest", "other families"): "forest, other families",
    ("forest", SAME): "forest, the same attack",
}


def rule(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """The paper's rule attack by attack: recall, false positives and precision, a panel each.

    Args:
        axes: three that share y.
        numbers: with those of `detection_records.rule_numbers`.
    """
    attacks = _attacks(of_rule(numbers, "recall"))
    for ax, (name, title) in zip(axes, MEASURES.items(), strict=True):
        rows = of_rule(numbers, name)
        _dots(ax, rows, attacks, "shown", list(NAMES.values()))
        if name in STATED:
            ax.plot(
                [STATED[name]],
                [len(attacks) - 1],
                color="#000000",
                marker="*",
                markersize=8,
                linestyle="none",
                label="NNSlicer's average, as stated" if ax is axes[0] else None,
                zorder=4,
                clip_on=False,
            )
        ax.set_title(title)
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("share")
    _names(axes[0], attacks)
    _legend(axes, 3)


def tree_seeds(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Averages over the attacks by the seed of the tree: recall over false positives, and the forest's.

    Args:
        axes: two: trees, then forests.
    """
    for ax, kind in zip(axes, ("tree", "forest"), strict=True):
        for index, shown in enumerate(NAMES.values()):
            points = []
            for seed in sorted(set(frame(numbers, "recall", rule=kind)["tree_seed"])):
                pair = [of_rule(numbers, name, kind, int(seed)) for name in ("fpr", "recall")]
                pair = [rows[(rows["attack"] == AVERAGE) & (rows["shown"] == shown)] for rows in pair]
                by_seed = [rows["per_seed"].iloc[0] for rows in pair if len(rows)]
                if len(by_seed) == 2:
                    points += [(by_seed[0][net], by_seed[1][net]) for net in by_seed[0]]
            if points:
                ax.plot(*np.array(points).T, label=shown, linestyle="none", **_look(index))
        ax.plot([0, 1], [0, 1], color="#777777", linewidth=0.8, linestyle=(0, (1, 2)), marker="")
        ax.annotate("no detection", (0.62, 0.6), rotation=45, fontsize=plots.SMALLEST, color="#555555", va="top")
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
        ax.set_aspect("equal")
        ax.set_xlabel("clean images flagged")
        ax.set_ylabel("adversarials flagged")
        ax.set_title("trees, one a seed" if kind == "tree" else "random forest")
    _legend(axes, 4)


def signals(ax: Axes, numbers: Sequence[Any]) -> None:
    """AUROC by attack of what slices hold, beside max-softmax and a detector on the last layer's features."""
    rows = frame(numbers, "auroc").dropna(subset=["trained_on"])
    keys = list(zip(rows["detector"], rows["trained_on"], strict=True))
    rows = rows[[key in DETECTORS for key in keys]]
    rows = rows.assign(shown=[DETECTORS[key] for key in keys if key in DETECTORS])
    attacks = _attacks(rows)
    _dots(ax, rows, attacks, "shown", list(DETECTORS.values()))
    ax.axvline(0.5, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)), marker="", zorder=0.5)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("area under the ROC curve (dotted: chance)")
    _names(ax, attacks)
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def matrix(ax: Axes, numbers: Sequence[Any]) -> None:
    """AUROC of the forest by the attack it was trained on (rows) and tested on (columns), images apart throughout."""
    rows = frame(numbers, "auroc", detector="forest")
    tested = [name for name in _attacks(rows) if name != AVERAGE]
    trained = [name for name in SUITE if name in set(rows["trained_on"])]
    trained += [name for name in ("all attacks", "other families") if name in set(rows["trained_on"])]
    values = rows.pivot(index="trained_on", columns="attack", values="value").reindex(index=trained, columns=tested)
    ax.imshow(values, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    for i, j in np.argwhere(values.notna().to_numpy()):
        value = values.iat[i, j]
        colour = "#ffffff" if abs(value - 0.5) > 0.35 else "#000000"
        ax.annotate(f"{100 * value:.0f}", (j, i), ha="center", va="center", fontsize=5.5, color=colour)
    ax.set_xticks(range(len(tested)), [attack_label(name) for name in tested], rotation=60, ha="right")
    ax.set_yticks(range(len(trained)), [attack_label(name) for name in trained])
    ax.set_xlabel("tested on")
    ax.set_ylabel("trained on")
    ax.set_title("AUROC of the forest, in hundredths")
    ax.grid(visible=False)


def adaptive(axes: Sequence[Axes], numbers: Sequence[Any], detectors: Sequence[str] | None = None) -> None:
    """AUROC of each detector, and the attack's success, by the weight of the surrogate; a panel an aim.

    Args:
        axes: one for each aim, as "mean" and "guide".
        detectors: which, in the order of their colours, seven at most; None: the forests, activity, similarity,
            max-softmax and Mahalanobis.
    """
    rows = frame(numbers, "auroc").dropna(subset=["aim"])
    names = list(dict.fromkeys(rows["detector"]))
    forests = [name for name in names if name.startswith("forest")]
    chosen = list(detectors or [*forests, "activity", "similarity", "max-softmax", "Mahalanobis, last layer"])[:7]
    success = frame(numbers, "success")
    titles = {"mean": "towards the class mean", "guide": "towards a clean image"}
    for ax, aim in zip(axes, dict.fromkeys(rows["aim"]), strict=True):
        weights = sorted(set(rows["weight"]))
        part = _placed(rows[(rows["aim"] == aim) & rows["detector"].isin(chosen)], weights)
        plots.curves(ax, part, x="place", hue="detector", order=[name for name in chosen if name in names])
        line = _placed(success[success["aim"] == aim], weights)
        look: Look = {"color": "#999999", "linestyle": (0, (1, 1)), "marker": ""}
        ax.plot(line["place"], line["value"], label="attack's success", **look)
        ax.set_xticks(range(len(weights)), ["unaware", *(f"{weight:g}" for weight in weights[1:])])
        ax.set_xlabel("weight of the surrogate")
        ax.set_ylim(-0.02, 1.04)
        ax.set_title(titles.get(aim, aim))
    axes[0].set_ylabel("area under the ROC curve")
    _legend(axes, 3)


def _placed(rows: pd.DataFrame, weights: Sequence[float]) -> pd.DataFrame:
    """Rows with the place of their weight on the axis, in its order."""
    return rows.assign(place=[weights.index(weight) for weight in rows["weight"]]).sort_values("place")


def _attacks(rows: pd.DataFrame) -> list[str]:
    """Attacks in the paper's order, then noise controls, then the average."""
    there = list(dict.fromkeys(rows["attack"].dropna()))
    ordered = [name for name in SUITE if name in there] + [name for name in there if name.startswith("noise_")]
    return ordered + [AVERAGE] * (AVERAGE in there)


def _dots(ax: Axes, rows: pd.DataFrame, attacks: Sequence[str], hue: str, order: Sequence[str]) -> None:
    """A dot with its interval for each attack (from the top) and value of hue."""
    step = 0.7 / max(1, len(order) - 1)
    for index, shown in enumerate(order):
        part = rows[(rows[hue] == shown) & rows["attack"].isin(attacks)]
        place = np.array([attacks.index(name) for name in part["attack"]]) + index * step - 0.35
        spread = np.abs(part[["low", "high"]].to_numpy(float).T - part["value"].to_numpy(float))
        look = _look(index)
        ax.errorbar(part["value"], place, xerr=spread, linestyle="none", elinewidth=0.7, label=shown, **look)
    for band in range(0, len(attacks), 2):
        ax.axhspan(band - 0.5, band + 0.5, color="#f4f4f4", zorder=0)


def _names(ax: Axes, attacks: Sequence[str]) -> None:
    plots.named_rows(ax, [attack_label(name) for name in attacks])


def _look(index: int) -> Look:
    return {"color": plots.PALETTE[index % 7], "marker": plots.MARKERS[index % 7]}


def _legend(axes: Sequence[Axes], columns: int) -> None:
    """One legend below all panels, with the stated value last."""
    entries = list(zip(*axes[0].get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: entry[1].endswith("as stated"))
    handles, labels = zip(*entries, strict=True)
    axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=columns)
