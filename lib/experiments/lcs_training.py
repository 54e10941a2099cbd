"""What layerwise channel selection gains by longer training of its units (notebook 26).

The networks of notebook 21, and beside them some that are trained on all images, at the source's settings and for many
more steps. Where the scale has recipes of it, their units are trained with a stronger term of sparsity too, so that
training leaves out more and the cut to the budget takes less. They are so long in training that they have one seed, and
nothing is judged on them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import ValidationInfo, field_validator

from lib import config, dotplots, plots, recipes
from lib.dynamic.lcs.optimise import Alternate
from lib.experiments import lcs_pruning
from lib.experiments.dynamic import check_networks, titled
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.lcs_pruning import STAGES, LcsRun, tuned

FORM = "stated"
STRONG = "strong"  # lambda and r such that training leaves out more, where the scale has recipes of it
METHODS = lcs_pruning.METHODS | {
    "strong": "LCS, stronger term of sparsity",
    "strong-static": "LCS, stronger term, one mask for all",
}
MASKS = {"zeros": ("share that is zero", "-"), "magnitude": ("mean size", (0, (3, 2)))}
COMPARED = ("dense", "dense-on", "stated", "stated-static", "strong", "strong-static", "boosting", "l1")
RIVALS = ("dense", "dense-on", "boosting", "l1")


class Settings(lcs_pruning.Settings):
    """Settings of the experiment: `networks` that are trained for longer have one seed."""

    section: ClassVar[str] = "training"
    forms: ClassVar[tuple[str, ...]] = (FORM,)

    def trained(self, base: str) -> dict[str, Alternate]:
        """The ways in which units of a network are trained: form -> the hook of its recipe, which has lambda and r."""
        known = config.load(self.scale).networks
        found = {}
        for form in (FORM, STRONG):
            recipe = known.get(f"{base}-{form}")
            hooks = map(recipes.plug, recipe.hooks) if recipe else ()
            for function, given in hooks:
                if function is Alternate:
                    found[form] = Alternate(**given)
        return found

    @field_validator("budgets")
    @classmethod
    def _are_fine_tuned(cls, chosen: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        known = config.load(info.data["scale"]).networks
        for name in (f"{base}-{STRONG}" for base in info.data.get("networks", ())):
            ends = [f"-b{budget:g}{end}" for budget in chosen for end in ("", "-static")]
            check_networks([name + end for end in ends if name in known], info.data["scale"])
        return chosen


class TrainingRun(LcsRun):
    """One seed's networks."""

    settings: Settings

    def units(self, base: str, form: str) -> Iterator[dict[str, Any]]:
        """How units were trained: steps in all; zeros and magnitude of their masks at the end of each epoch, where the
        network's card has them, else at the last."""
        name, last = f"{base}-{form}", self.stages(base, form, self.settings.budgets[0]).iloc[0]
        history, count = self.card(name)["history"], len(self.train_images(base))
        steps, n = count // self.preset.recipe(name).batch, int(last["n"])
        where = {"network": base, "form": form}
        yield {"measure": "steps", "value": steps * len(history), "n": count, **where}
        measured = [epoch for epoch in history if "zeros" in epoch]
        for epoch in measured or [{"epoch": len(history), **last[["zeros", "magnitude"]]}]:
            at = {**where, "step": int(epoch["epoch"]) * steps, "n": n}
            for measure in ("zeros", "magnitude"):
                yield {"measure": measure, "value": float(epoch[measure]), **at}

    def stage_rows(self, base: str, form: str) -> Iterator[dict[str, Any]]:
        """Accuracy and share of the FLOPs as trained, cut to the budget, recalibrated and fine-tuned."""
        for row in self.stages(base, form, self.settings.budgets[0]).to_dict("records"):
            where = {"network": base, "form": form, "stage": row["stage"], "n": int(row["n"])}
            for measure in ("accuracy", "share"):
                yield {"measure": f"stage_{measure}", "value": row[measure], **where}

    def compared(self, base: str) -> Iterator[dict[str, Any]]:
        """Accuracy and share of the FLOPs of each method; all but "dense" were trained on from there for as long."""
        budget = self.settings.budgets[0]
        named = partial(self.named, base)
        tables = {
            "dense": named(base, "dense", 1.0, lcs_pruning.as_it_is),
            "dense-on": named(f"{base}-on", "dense-on", 1.0, lcs_pruning.as_it_is),
            "boosting": named(f"{base}-boosting-b{budget:g}", "boosting", budget, lcs_pruning.as_it_is),
            "l1": self.pruned_once(base, "l1", budget),
        }
        for form in self.settings.trained(base):
            name, static = tuned(base, form, budget), f"{tuned(base, form, budget)}-static"
            tables[form] = named(name, form, budget, self.skipping)
            tables[f"{form}-static"] = named(static, f"{form}-static", budget, lcs_pruning.narrow)
        for method, table in tables.items():
            row = table.iloc[0]
            where = {"network": base, "method": method, "budget": float(row["budget"]), "n": int(row["n"])}
            for measure in ("accuracy", "share"):
                yield {"measure": measure, "value": row[measure], **where}


def training(settings: Settings, seed: int) -> pd.DataFrame:
    """What units and their rivals come to, network by network.

    Returns: "steps" of the units' training at {network, form}; "zeros" and "magnitude" of all masks at {network, form,
        step}; "stage_accuracy" and "stage_share" at {network, form, stage}; "accuracy" and "share" at {network, method,
        budget}.
    """
    run = TrainingRun(settings, seed)
    rows: list[dict[str, Any]] = []
    for base in run.of_this_seed(settings.networks):
        for form in settings.trained(base):
            rows += [*run.units(base, form), *run.stage_rows(base, form)]
        rows += run.compared(base)
    return run.tidy(rows)


def table(results: Results) -> pd.DataFrame:
    """One row a network and training of its units: how long, what training alone left out, what the cut took, and the
    accuracy with decisions and with one mask for all beside that of the rivals."""
    shares = results.values("stage_share").set_index(["network", "form", "stage"])["value"]
    accuracy = results.values("accuracy").set_index(["network", "method"])["value"]
    zeros, rows = results.values("zeros"), []
    for (name, form), steps in results.values("steps").set_index(["network", "form"])["value"].items():
        row = {"network": titled(str(name)), "units": METHODS[form], "steps of the units": steps}
        own = zeros[(zeros["network"] == name) & (zeros["form"] == form)]
        row |= {"zeros": own.sort_values("step")["value"].iloc[-1]}
        row |= {f"FLOPs, {STAGES[stage]}": shares[name, form, stage] for stage in ("trained", "tuned")}
        row |= {"accuracy": accuracy[name, form], "one mask for all": accuracy[name, f"{form}-static"]}
        rows.append(row | {METHODS[method]: accuracy[name, method] for method in RIVALS})
    return pd.DataFrame(rows)


def draw(results: Results) -> Figure:
    """The masks while units are trained, and below the accuracy of each method: a training of units a colour, which
    rivals share with the units as stated."""
    figure, axes = plots.mosaic("A;B", 5.0, height_ratios=(1, 1.3))
    above, below = axes["A"], axes["B"]
    trained = list(results.values("steps")[["network", "form"]].itertuples(index=False))
    methods = [method for method in COMPARED if method in set(results.values("accuracy")["method"])]
    for index, (name, form) in enumerate(trained):
        look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index], "markersize": 3}
        for measure, (words, dash) in MASKS.items():
            rows = results.values(measure, network=name, form=form).sort_values("step")
            label = words if index == len(trained) - 1 else ""
            every = max(1, len(rows) // 6)
            above.plot(rows["step"], rows["value"], linestyle=dash, label=label, markevery=every, **look)
        rows = results.values("accuracy", network=name)
        own = (FORM, f"{FORM}-static", *RIVALS) if form == FORM else (form, f"{form}-static")
        rows = rows[rows["method"].isin(own)]
        shift = (index - (len(trained) - 1) / 2) * 0.6 / len(trained)
        places = dotplots.row_of(rows["method"], methods) + shift
        dotplots.intervals(below, rows, places, index, label=legend_of(results, name, form), markersize=3.5)
    above.set(xlabel="steps that the units were trained for", ylabel="mask entries", ylim=(0, 1.02))
    above.legend(fontsize=plots.SMALLEST)
    plots.named_rows(below, [textwrap.fill(METHODS[method], 22) for method in methods], 0.6)
    below.set_xlabel("accuracy on test images")
    plots.legend_below([below], 1)
    return figure


def legend_of(results: Results, name: str, form: str) -> str:
    """A training of units in the legend: network, lambda and r, how long, and its seeds where these are fewer."""
    rows = results.values("steps")
    row = rows[(rows["network"] == name) & (rows["form"] == form)].iloc[0]
    few = ", one seed" if len(row["per_seed"]) < rows["per_seed"].map(len).max() else ""
    hook = results.settings.trained(name)[form]
    setting = f"λ {hook.weight:g}, r {hook.target:g}"
    return f"{titled(name, 60)}, {setting}: {row['value']:,.0f} steps{few}"


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
