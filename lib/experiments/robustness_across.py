"""What no single figure compares: batches of 512 and 128, the nuclear norm and adversarial training (notebook 05).

Nothing is trained or attacked for it: the sweeps are those of Figures 1, 2 and 6 and of the spectra's robust twin.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lib import plots
from lib.experiments import robustness, robustness_magnitude_pruning
from lib.experiments.item import Item, Results
from lib.experiments.robustness import RobustnessRun

METHODS = ("dense", "nuclear norm", "adversarial")


class Settings(robustness.Robustness):
    """Settings of the experiment: those of the figures that it reads."""


def compared(settings: Settings, seed: int) -> pd.DataFrame:
    """Accuracy under FGSM of ResNet18.

    Returns: tidy, the measures of `robustness.SWEEP` at {compared: batch, batch, sparsity, epsilon}, and at {compared:
        method, method, epsilon}; method "dense" is the network trained on for as long as that with the nuclear norm.
    """
    pruning = robustness_magnitude_pruning
    shown: dict[str, dict[str, Any]] = {}
    run = RobustnessRun(settings, seed)
    for base in ("resnet18-b512", "resnet18-b128"):
        for name, where in pruning.networks(pruning.Settings.of(settings.scale), base).items():
            shown[name] = {"compared": "batch", "batch": int(base.rpartition("b")[2]), **where}
    names = (f"resnet18-b128-{ending}" for ending in ("dense", "nuclear", "adversarial"))
    methods = {name: {"compared": "method", "method": method} for name, method in zip(names, METHODS, strict=True)}
    return run.tidy([*run.accuracies(shown), *run.accuracies(methods)])


def draw(results: Results) -> Figure:
    """Above the batch sizes, dense and at the highest sparsity; below the methods."""
    rows = results.values("accuracy", compared="batch")
    ends = sorted(rows["sparsity"].unique())
    ends = [ends[0], ends[-1]]
    rows = rows[rows["sparsity"].isin(ends)]
    told = [
        f"batch {row.batch:.0f}, " + (f"{row.sparsity:.0%} zeros" if row.sparsity else "dense")
        for row in rows.itertuples()
    ]
    figure, axes = plots.grid(2, 1, 2.3, plots.SINGLE, sharex=True)
    plots.curves(axes[0], rows.assign(told=told), hue="told", order=list(dict.fromkeys(told)))
    plots.curves(axes[1], results.values("accuracy", compared="method"), hue="method", order=METHODS)
    for ax, title in zip(axes, ("size of the batch", "nuclear norm and adversarial training"), strict=True):
        plots.epsilon_axis(ax, rows["epsilon"].max(), label="ε of FGSM, in 255ths (square-root scale)", root=True)
        plots.chance(ax)
        ax.set(ylabel="accuracy under FGSM", ylim=(0, 1.02))
        ax.legend(title=title, loc="lower center", bbox_to_anchor=(0.45, 1), ncols=2, columnspacing=1)
    axes[0].set_xlabel("")
    return figure


ACROSS = Item("robustness_across", compared, robustness.SWEEP, draw=draw, about=("test_images",))
ITEMS = (ACROSS,)
