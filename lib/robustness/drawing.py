"""The plots of this study, from the numbers of its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lib import plots, units
from lib.intervals import of_mean
from lib.robustness.figures import frame

ATTACKS = {
    "fgsm-unaware": "FGSM, T unknown",
    "fgsm-aware": "FGSM, T known",
    "fgsm-exact-sign": "FGSM, exact sign",
    "pgd-unaware": "PGD, T unknown",
    "pgd-aware": "PGD, T known",
    "pgd-exact-sign": "PGD, exact sign",
    "transfer": "transfer from T = 1",
    "cw": "CW (L2 ball around)",
}
VARIANTS = ("dense", "adversarial", "pruned", "low-rank", "nuclear")


def sweep(
    axes: Sequence[Axes],
    numbers: Sequence[Any],
    hue: str,
    base: Any,
    label: str = "{}",
    order: Sequence[Any] | None = None,
) -> None:
    """A sweep over eps in three panels: accuracy, relative to the clean accuracy, and the difference to one network.

    Args:
        axes: three.
        numbers: of `figures.sweep_numbers`.
        hue, label, order: what tells the networks apart, as in `plots.curves`.
        base: the value of hue of the network that the third panel takes the difference to, seed by seed.
    """
    order = list(dict.fromkeys(frame(numbers)[hue])) if order is None else list(order)
    panels = {
        "accuracy under FGSM": frame(numbers),
        "accuracy / clean accuracy": frame(numbers, "relative_accuracy"),
        f"accuracy less that of {label.format(base)}": differences(frame(numbers), hue, base),
    }
    for ax, (text, rows) in zip(axes, panels.items(), strict=True):
        plots.curves(ax, rows, hue=hue, label=label, order=order)
        plots.epsilon_axis(ax, rows["epsilon"].max(), label="ε, in 255ths (square-root scale)", root=True)
        ax.set_ylabel(text)
    for ax in axes[:2]:
        ax.set_ylim(0, 1.02)
    plots.chance(axes[0])
    plots.legend_below(axes, 5)


def differences(rows: pd.DataFrame, hue: str, base: Any) -> pd.DataFrame:
    """Rows as `figures.frame` gives them, each less the base network's at its epsilon, paired seed by seed.

    The interval is `of_mean` of the seeds' differences, within -1 and 1; there is none with one seed.
    """
    found = []
    reference = {row.epsilon: row.per_seed for row in rows[rows[hue] == base].itertuples()}
    for row in rows.to_dict("records"):
        other = reference[row["epsilon"]]
        paired = [value - other[seed] for seed, value in row["per_seed"].items() if seed in other]
        low, high = of_mean(paired, units.SIGNED) or (math.nan, math.nan)
        found.append({**row, "value": sum(paired) / len(paired), "low": low, "high": high})
    return pd.DataFrame(found)


def low_rank(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """As `sweep`, each network named by its method and rank ratio."""
    sweep(axes, methods(numbers), hue="method", base="dense")


def methods(numbers: Sequence[Any]) -> list[Any]:
    """The numbers with "method" in place of variant and rank ratio, as "low rank 0.25"."""
    named = []
    for entry in numbers:
        where = dict(entry["where"])
        variant, ratio = where.pop("variant"), where.pop("rank_ratio")
        method = f"low rank {ratio:g}" if variant == "low-rank" else "nuclear norm" if variant == "nuclear" else variant
        named.append({**entry, "where": {"method": method, **where}})
    return named


def masking(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """Accuracy by attack and temperature at one eps (the middle one): trained at T, and T = 1 with logits times T.

    Args:
        axes: two.
        numbers: of `figures.masking_numbers`.
    """
    rows = frame(numbers)
    grid = sorted(rows["epsilon"].unique())
    rows = rows[rows["epsilon"] == grid[(len(grid) - 1) // 2]]
    plain = rows[(rows["temperature"] == 1) & (rows["network"] == "trained")]
    colours = dict(zip(ATTACKS, (*plots.PALETTE, "#999999"), strict=True))
    titles = {"trained": "trained at T", "post-hoc": "T = 1, logits multiplied by T"}
    for ax, (network, title) in zip(axes, titles.items(), strict=True):
        part = pd.concat([plain, rows[(rows["network"] == network) & (rows["temperature"] != 1)]])
        temperatures = sorted(part["temperature"].unique())
        attacks = [attack for attack in ATTACKS if attack in set(part["attack"])]
        width = 0.85 / len(attacks)
        for index, attack in enumerate(attacks):
            chosen = part[part["attack"] == attack].set_index("temperature").reindex(temperatures)
            spread = np.abs(chosen[["low", "high"]].to_numpy(float).T - chosen["value"].to_numpy(float))
            ax.bar(
                np.arange(len(temperatures)) + (index - (len(attacks) - 1) / 2) * width,
                chosen["value"],
                width,
                yerr=spread,
                label=ATTACKS[attack],
                color=colours[attack],
                error_kw={"elinewidth": 0.7},
            )
        ax.set_xticks(range(len(temperatures)), [f"T = {t:g}" for t in temperatures])
        ax.set_title(f"{title}; ε = {grid[(len(grid) - 1) // 2] * 255:g}/255")
        ax.set_ylabel("accuracy under attack")
        ax.set_ylim(0, 1)
        ax.grid(axis="x", visible=False)
        plots.chance(ax, label="")
    plots.legend_below(axes, 4)


def gradient_shares(axes: Sequence[Axes], numbers: Sequence[Any]) -> None:
    """What is left of the cross-entropy's gradient at temperature 1: trained at T, then the control."""
    shown = {
        "zero_gradient_share": "images with zero gradient",
        "confident_share": "images with p_y = 1 (float32)",
        "sign_agreement": "pixels with the exact sign",
    }
    for ax, network in zip(axes, ("trained", "post-hoc"), strict=True):
        for index, (name, label) in enumerate(shown.items()):
            rows = frame(numbers, name)
            rows = rows[(rows["network"] == network) | (rows["temperature"] == 1)].sort_values("temperature")
            look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index]}
            spread = np.abs(rows[["low", "high"]].to_numpy(float).T - rows["value"].to_numpy(float))
            ax.errorbar(rows["temperature"], rows["value"], yerr=spread, label=label, capsize=2, **look)
        ax.set_xlabel("temperature T")
        ax.set_ylabel("share")
        ax.set_ylim(-0.02, 1.05)
        ax.set_title("trained at T" if network == "trained" else "T = 1, logits multiplied by T")
    axes[0].legend(loc="best")


def spectra(axes: Sequence[Axes], numbers: Sequence[Any], measures: Sequence[str]) -> None:
    """One measure an axes, averaged over layers: points with intervals, a group for each architecture."""
    for ax, measure in zip(axes, measures, strict=True):
        rows = frame(numbers, measure, layer="mean")
        networks = list(dict.fromkeys(rows["network"]))
        for index, variant in enumerate(VARIANTS):
            part = rows[rows["variant"] == variant]
            place = [networks.index(network) + (index - 2) * 0.15 for network in part["network"]]
            spread = np.abs(part[["low", "high"]].to_numpy(float).T - part["value"].to_numpy(float))
            look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index]}
            ax.errorbar(place, part["value"], yerr=spread, linestyle="none", capsize=2, label=variant, **look)
        ax.set_xticks(range(len(networks)), networks)
        ax.set_ylabel(measure.replace("_", " ") + ("" if measure == "prunable_share" else ", mean over layers"))
        ax.set_ylim(bottom=0)
        ax.grid(axis="x", visible=False)
    plots.legend_below(axes, 5)


def layers(axes: Sequence[Axes], numbers: Sequence[Any], network: str, measures: Sequence[str]) -> None:
    """A measure an axes, layer by layer of one architecture, dense and adversarially trained."""
    for ax, measure in zip(axes, measures, strict=True):
        rows = frame(numbers, measure, network=network)
        rows = rows[(rows["layer"] != "mean") & rows["variant"].isin(["dense", "adversarial"])]
        order = {layer: index for index, layer in enumerate(dict.fromkeys(rows["layer"]))}
        rows = rows.assign(place=rows["layer"].map(order))
        plots.curves(ax, rows, x="place", hue="variant", order=["dense", "adversarial"])
        ax.set_xlabel(f"layer of {network}, from the image to the logits")
        ax.set_ylabel(measure.replace("_", " "))
        ax.set_ylim(bottom=0)
    axes[0].legend(loc="best")
