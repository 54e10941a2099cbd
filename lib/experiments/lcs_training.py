"""What layerwise channel selection gains by longer training of its units (notebook 26).

The networks of notebook 21, and beside them some that are trained on all images, at the source's settings and for many
more steps. They are so long in training that they have one seed, and nothing is judged on them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from lib import dotplots, plots
from lib.experiments import lcs_pruning
from lib.experiments.dynamic import titled
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.lcs_pruning import METHODS, STAGES, LcsRun, tuned

FORM = "stated"
MASKS = {"zeros": ("share that is zero", "-"), "magnitude": ("mean size", (0, (3, 2)))}
COMPARED = ("dense", "dense-on", "stated", "stated-static", "boosting", "l1")


class Settings(lcs_pruning.Settings):
    """Settings of the experiment: `networks` that are trained for longer have one seed."""

    section: ClassVar[str] = "training"
    forms: ClassVar[tuple[str, ...]] = (FORM,)


class TrainingRun(LcsRun):
    """One seed's networks."""

    settings: Settings

    def units(self, base: str) -> Iterator[dict[str, Any]]:
        """How units were trained: steps in all; zeros and magnitude of their masks at the end of each epoch, where the
        network's card has them, else at the last."""
        name, last = f"{base}-{FORM}", self.stages(base, FORM, self.settings.budgets[0]).iloc[0]
        history, count = self.card(name)["history"], len(self.train_images(base))
        steps, n = count // self.preset.recipe(name).batch, int(last["n"])
        yield {"measure": "steps", "network": base, "value": steps * len(history), "n": count}
        measured = [epoch for epoch in history if "zeros" in epoch]
        for epoch in measured or [{"epoch": len(history), **last[["zeros", "magnitude"]]}]:
            where = {"network": base, "step": int(epoch["epoch"]) * steps, "n": n}
            for measure in ("zeros", "magnitude"):
                yield {"measure": measure, "value": float(epoch[measure]), **where}

    def stage_rows(self, base: str) -> Iterator[dict[str, Any]]:
        """Accuracy and share of the FLOPs as trained, cut to the budget, recalibrated and fine-tuned."""
        for row in self.stages(base, FORM, self.settings.budgets[0]).to_dict("records"):
            where = {"network": base, "stage": row["stage"], "n": int(row["n"])}
            for measure in ("accuracy", "share"):
                yield {"measure": f"stage_{measure}", "value": row[measure], **where}

    def compared(self, base: str) -> Iterator[dict[str, Any]]:
        """Accuracy and share of the FLOPs of each method, and the images that it was trained on after the dense one."""
        budget = self.settings.budgets[0]
        name, static = tuned(base, FORM, budget), f"{tuned(base, FORM, budget)}-static"
        named = partial(self.named, base)
        tables = {
            "dense": named(base, "dense", 1.0, lcs_pruning.as_it_is),
            "dense-on": named(f"{base}-on", "dense-on", 1.0, lcs_pruning.as_it_is),
            "stated": named(name, "stated", budget, self.skipping),
            "stated-static": named(static, "stated-static", budget, lcs_pruning.narrow),
            "boosting": named(f"{base}-boosting-b{budget:g}", "boosting", budget, lcs_pruning.as_it_is),
            "l1": self.pruned_once(base, "l1", budget),
        }
        for method, table in tables.items():
            row = table.iloc[0]
            where = {"network": base, "method": method, "budget": float(row["budget"]), "n": int(row["n"])}
            for measure in ("accuracy", "share"):
                yield {"measure": measure, "value": row[measure], **where}


def training(settings: Settings, seed: int) -> pd.DataFrame:
    """What units and their rivals come to, network by network.

    Returns: "steps" of the units' training at {network}; "zeros" and "magnitude" of all masks at {network, step};
        "stage_accuracy" and "stage_share" at {network, stage}; "accuracy" and "share" at {network, method, budget}.
    """
    run = TrainingRun(settings, seed)
    rows: list[dict[str, Any]] = []
    for base in run.of_this_seed(settings.networks):
        rows += [*run.units(base), *run.stage_rows(base), *run.compared(base)]
    return run.tidy(rows)


def table(results: Results) -> pd.DataFrame:
    """One row a network: how long its units were trained, what training alone left out, what the cut took, and the
    accuracy of each method."""
    shares = results.values("stage_share").set_index(["network", "stage"])["value"]
    accuracy = results.values("accuracy").set_index(["network", "method"])["value"]
    zeros, rows = results.values("zeros"), []
    for name, steps in results.values("steps").set_index("network")["value"].items():
        row = {"network": titled(str(name)), "steps of the units": steps}
        row |= {"zeros": zeros[zeros["network"] == name].sort_values("step")["value"].iloc[-1]}
        row |= {f"FLOPs, {STAGES[stage]}": shares[name, stage] for stage in ("trained", "tuned")}
        rows.append(row | {METHODS[method]: accuracy[name, method] for method in COMPARED})
    return pd.DataFrame(rows)


def draw(results: Results) -> Figure:
    """The masks while units are trained, and below the accuracy of each method, a network a colour."""
    figure, axes = plots.mosaic("A;B", 4.6, height_ratios=(1, 1.15))
    above, below = axes["A"], axes["B"]
    names = list(results.values("steps")["network"])
    for index, name in enumerate(names):
        look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index], "markersize": 3}
        for measure, (words, dash) in MASKS.items():
            rows = results.values(measure, network=name).sort_values("step")
            label = words if index == len(names) - 1 else ""
            every = max(1, len(rows) // 6)
            above.plot(rows["step"], rows["value"], linestyle=dash, label=label, markevery=every, **look)
        rows = results.values("accuracy", network=name).set_index("method").reindex(COMPARED).reset_index()
        shift = (index - (len(names) - 1) / 2) * 0.6 / len(names)
        places = dotplots.row_of(rows["method"], COMPARED) + shift
        dotplots.intervals(below, rows, places, index, label=legend_of(results, name), markersize=3.5)
    above.set(xlabel="steps that the units were trained for", ylabel="mask entries", ylim=(0, 1.02))
    above.legend(fontsize=plots.SMALLEST)
    plots.named_rows(below, [textwrap.fill(METHODS[method], 22) for method in COMPARED], 0.6)
    below.set_xlabel("accuracy on test images")
    plots.legend_below([below], 1)
    return figure


def legend_of(results: Results, name: str) -> str:
    """A network in the legend: what it is, how long its units were trained, its seeds where these are fewer."""
    rows = results.values("steps")
    row = rows[rows["network"] == name].iloc[0]
    few = ", one seed" if len(row["per_seed"]) < rows["per_seed"].map(len).max() else ""
    return f"{titled(name, 60)}: {row['value']:,.0f} steps{few}"


UNITS = {
    "steps": "steps",
    "zeros": "fraction of mask entries",
    "magnitude": "mean mask entry",
    "stage_accuracy": SHARE,
    "stage_share": "fraction of the whole network's FLOPs",
    "accuracy": SHARE,
    "share": "fraction of the whole network's FLOPs",
}
TRAINING = Item("lcs_training", training, UNITS, table=table, draw=draw, about=("networks", "budgets", "images"))
ITEMS = (TRAINING,)
