"""Accuracy against FLOPs, and against time, of layerwise channel selection and two rivals (notebook 27).

Choosing by image and one mask for all start from the same network with trained units, are cut to the same budget and
trained on alike: nothing but the choice of channels tells these two apart. Beside them, where the scale has a recipe of
it, is what a usual pruning comes to after as long a training: a network that was trained on without units is pruned by
L1 norm, as large a share of every layer, and trained on alike.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, ValidationInfo, field_validator

from lib import config, plots, training
from lib.dynamic.lcs.optimise import Frozen
from lib.dynamic.scratch.build import shrink
from lib.dynamic.static import l1_structure
from lib.experiments import lcs_pruning
from lib.experiments.dynamic import Budgets, Names, check_networks, titled
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.lcs_pruning import METHODS, LcsRun
from lib.experiments.lcs_training import FORM
from lib.experiments.settings import Count
from lib.progress import bar

PLAIN = "l1"
COMPARED = (FORM, f"{FORM}-static", PLAIN)
UNCUT = 1.0  # the budget of what was trained, before any cut


class Settings(lcs_pruning.Settings):
    """Settings of the experiment; `calibration_images` are not used: a budget is met on a batch of training images.

    Attributes:
        networks: dense networks D of the scale, with recipes D-on (how they are trained on) and D-stated (with units);
            and D-plain (without units, for as long), else there is no line of L1 norm.
        epochs: that every point is trained on for, decisions of units frozen; the source: 160.
    """

    section: ClassVar[str] = "curve"

    networks: Names = Field(("dynamic-vgg16",), title="networks")
    budgets: Budgets = Field((0.9, 0.7, 0.5, 0.3), title="budgets", validate_default=True)
    epochs: Count = Field(160, title="epochs of fine-tuning")

    @field_validator("budgets")
    @classmethod
    def _are_trained(cls, chosen: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        bases = info.data.get("networks", ())
        check_networks([f"{base}{end}" for base in bases for end in ("", "-on", f"-{FORM}")], info.data["scale"])
        return chosen

    def methods(self, base: str) -> list[str]:
        """What is compared, of `COMPARED`, in a network."""
        there = config.load(self.scale).networks
        return [method for method in COMPARED if method != PLAIN or f"{base}-plain" in there]

    def cases(self, base: str) -> list[tuple[str, float]]:
        """Each method with each budget, what was trained first."""
        return [(method, budget) for method in self.methods(base) for budget in (UNCUT, *self.budgets)]


class CurveRun(LcsRun):
    """One seed's networks."""

    settings: Settings

    def point(self, base: str, method: str, budget: float) -> pd.DataFrame:
        """A network at a share of the FLOPs, trained on; kept.

        Args:
            base: the dense network.
            method: of `COMPARED`.
            budget: share of the dense network's FLOPs, in (0, 1]; `UNCUT`: as it was trained.
        Returns: one row, as `LcsRun.measured` has it.
        Raises: DynamicError where the budget cannot be met: each row of a mask keeps a tenth of its channels, each
            layer pruned by L1 norm one.
        """
        recipe = self.recipe(f"{base}-on", self.settings.epochs)
        key = self._key(base, method, budget) | {"recipe": recipe.plain()}
        begun = f"{base}-plain" if method == PLAIN else f"{base}-{FORM}"

        def make() -> pd.DataFrame:
            model: Any = self.network(begun)
            hooks = []
            if method != PLAIN:
                choose = "decided" if method == FORM else "static"
                hooks.append(Frozen(budget=None if budget == UNCUT else budget, choose=choose))
            elif budget != UNCUT:
                model = shrink(model, l1_structure(model, budget, self.shape(base)).keep)
            device = self.preset.compute.device
            training.fit(model, self.train_images(base), recipe, seed=self.seed, hooks=hooks, device=device)
            prepared = {FORM: self.skipping, PLAIN: lcs_pruning.as_it_is}.get(method, lcs_pruning.narrow)
            return pd.DataFrame([self.measured(base, *prepared(model.eval()), method, budget)])

        return self.table("lcs-curve", key, make, begun)


def make(scale: str, seed: int, **part: Any) -> None:
    """All that is measured of one seed: a step of the graph; or, with the arguments of `parts`, one point."""
    for one in [part] if part else parts(scale, seed):
        CurveRun(Settings.of(scale), seed).point(**one)


def parts(scale: str, seed: int) -> list[dict[str, Any]]:
    """What `make` can be asked for one by one; nothing at a seed that the scale does not give the experiment."""
    settings = Settings.of(scale)
    bases = CurveRun(settings, seed).of_this_seed(settings.networks) if seed in settings.seeds else []
    return [
        {"base": base, "method": method, "budget": share} for base in bases for method, share in settings.cases(base)
    ]


def curve(settings: Settings, seed: int) -> pd.DataFrame:
    """Accuracy, FLOPs and time of each method at every budget.

    Returns: tidy, "accuracy" and "share" at {network, method, budget}; "time" (as a share of the dense network's) at
        {network, method, budget, batch}.
    """
    run, rows = CurveRun(settings, seed), []
    for base in run.of_this_seed(settings.networks):
        for method, budget in bar(settings.cases(base), desc=base):
            row = run.point(base, method, budget).iloc[0]
            where = {"network": base, "method": method, "budget": float(budget), "n": int(row["n"])}
            rows += [{"measure": measure, "value": row[measure], **where} for measure in ("accuracy", "share")]
            for batch in settings.latency_batches:
                rows.append({"measure": "time", "value": row[f"time_{batch}"], "batch": batch, **where})
    return run.tidy(rows)


def table(results: Results) -> pd.DataFrame:
    """A row a network, method and budget."""
    keys = ["network", "method", "budget"]
    wide = results.wide({"accuracy": "accuracy", "share": "FLOPs"}, keys).set_index(keys)
    for batch, rows in results.values("time").groupby("batch"):
        wide[f"time, batch {int(batch)}"] = rows.set_index(keys)["value"]
    wide = wide.reset_index()
    return wide.assign(network=wide["network"].map(titled), method=wide["method"].map(METHODS))


def draw(results: Results) -> Figure:
    """Accuracy over FLOPs above, over time in the largest batch below; of the first network, a line a method."""
    figure, axes = plots.grid(2, 1, 2.1, plots.SINGLE, sharey=True)
    keys, base = ["method", "budget"], results.settings.networks[0]
    accuracy = results.values("accuracy", network=base)
    batch = max(results.settings.latency_batches)
    shown = {
        "share of the whole network's FLOPs": results.values("share", network=base),
        f"share of its time, batches of {batch}": results.values("time", network=base, batch=batch),
    }
    for ax, (words, cost) in zip(axes, shown.items(), strict=True):
        rows = accuracy.merge(cost[[*keys, "value"]].rename(columns={"value": "cost"}), on=keys)
        for index, method in enumerate(results.settings.methods(base)):
            part = rows[rows["method"] == method].sort_values("cost")
            plots.banded(ax, part["cost"], part, **plots.look(index, linestyle="-", label=METHODS[method]))
        ax.set(xlabel=words, ylabel="accuracy")
    plots.legend_below(axes, 1)
    return figure


UNITS = {
    "accuracy": SHARE,
    "share": lcs_pruning.UNITS["share"],
    "time": lcs_pruning.UNITS["time"],
}
CURVE = Item("lcs_curve", curve, UNITS, table=table, draw=draw, about=("networks", "budgets", "epochs", "images"))
ITEMS = (CURVE,)
