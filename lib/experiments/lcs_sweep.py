"""Is the setting to blame? Decision units at several lambda and target rates, from one network (notebook 27)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from lib import plots, training
from lib.dynamic.lcs import budget as budgets
from lib.dynamic.lcs.network import insert
from lib.dynamic.lcs.optimise import Alternate
from lib.experiments.dynamic import Budget, Dynamic, DynamicRun, check_networks
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.settings import Count, once
from lib.progress import bar

MASKS = 5  # a layer's; the source's for CIFAR-10
Weights = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1), AfterValidator(once)]
Targets = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1), AfterValidator(once)]
MEASURES = {
    "zeros": "entries that are zero",
    "magnitude": "mean entry",
    "share": "FLOPs, trained",
    "accuracy": "accuracy, trained",
    "cut_accuracy": "accuracy, cut to the budget",
}


class Settings(Dynamic):
    """Settings of the experiment.

    Attributes:
        network: dense, of the scale, with a recipe <name>-on of how it is trained on; each setting starts from it.
        weights: lambda, how much the term of sparsity counts; the source: 1.
        targets: r, the mean mask size that it asks for; not stated, the released code: .7.
        epochs: that units and network are trained for; the source: 100.
        budget: share of the FLOPs that the masks are cut to afterwards, in (0, 1).
        images: test images.
        calibration_images: training images that the cut is met on, and BN measured with.
    """

    section: ClassVar[str] = "sweep"

    network: str = "dynamic-vgg16"
    weights: Weights = Field((1.0, 4.0, 16.0), title="lambda", validate_default=True)
    targets: Targets = Field((0.5, 0.1), title="target rates", validate_default=True)
    epochs: Count = Field(100, title="epochs of the units")
    budget: Budget = 0.5
    images: Count = Field(10000, title="test images")
    calibration_images: Count = 2000

    @field_validator("network")
    @classmethod
    def _is_there(cls, name: str, info: ValidationInfo) -> str:
        check_networks([name, f"{name}-on"], info.data["scale"])
        return name

    @property
    def cases(self) -> list[tuple[float, float]]:
        """Each lambda with each rate."""
        return [(weight, target) for weight in self.weights for target in self.targets]


class SweepRun(DynamicRun[Settings]):
    """One seed's network, with units trained at each setting."""

    def units(self, weight: float, target: float) -> pd.DataFrame:
        """What units trained at one setting come to; kept. Their first weights are the same for every seed.

        Args:
            weight: lambda, from 0.
            target: r, in [0, 1].
        Returns: one row an epoch: step (steps so far), zeros, magnitude; in the last also share (of the network's
            FLOPs), accuracy, and cut_accuracy once the smallest entries are cut to the budget and BN is measured anew.
        """
        chosen, name = self.settings, self.settings.network
        recipe = self.recipe(f"{name}-on", chosen.epochs)
        test = self.images("test", chosen.images, recipe.data)
        held = self.images("train", chosen.calibration_images, recipe.data)
        train = self.train_images(name)
        key = {"weight": weight, "target": target, "masks": MASKS, "recipe": recipe.plain(), "budget": chosen.budget}
        key |= {"train": train.fingerprint, "images": test.fingerprint, "calibration": held.fingerprint}

        def make() -> pd.DataFrame:
            lcs: Any = insert(self.network(name), masks=MASKS)
            hooks = [Alternate(weight=weight, target=target)]
            device = self.preset.compute.device
            history = training.fit(lcs, train, recipe, seed=self.seed, hooks=hooks, device=device)
            steps = len(train) // recipe.batch
            rows = [
                {"step": int(row["epoch"]) * steps, **{key: row[key] for key in ("zeros", "magnitude")}}
                for row in history
            ]
            lcs.eval()
            rows[-1] |= {
                "share": budgets.share_of(lcs, test.float(lcs.device)),
                "accuracy": training.accuracy(lcs, test),
            }
            budgets.threshold(lcs, chosen.budget, held.float(lcs.device), least=0.1)
            lcs.recalibrate_bn(held.float(lcs.device), units=True)
            rows[-1] |= {"cut_accuracy": training.accuracy(lcs, test)}
            return pd.DataFrame(rows)

        return self.table("lcs-sweep", key, make, name)


def make(scale: str, seed: int, weight: float | None = None, target: float | None = None) -> None:
    """All that is measured of one seed: a step of the graph; or, with the arguments of `parts`, one setting."""
    for part in parts(scale, seed) if weight is None else [{"weight": weight, "target": target}]:
        SweepRun(Settings.of(scale), seed).units(**part)


def parts(scale: str, seed: int) -> list[dict[str, Any]]:
    """What `make` can be asked for one by one; nothing at a seed that the scale does not give the experiment."""
    settings = Settings.of(scale)
    return [{"weight": w, "target": t} for w, t in settings.cases if seed in settings.seeds]


def swept(settings: Settings, seed: int) -> pd.DataFrame:
    """Zeros, size and FLOPs of the masks, and the accuracy, at each setting.

    Returns: tidy, at {weight, target}: the measures of `MEASURES` after the last epoch; at {weight, target, step}:
        "zeros_then", after each.
    """
    run, rows = SweepRun(settings, seed), []
    (name,) = run.of_this_seed([settings.network])
    n = len(run.images("test", settings.images, run.preset.recipe(name).data))
    for weight, target in bar(settings.cases, desc="settings"):
        table, where = run.units(weight, target), {"weight": weight, "target": target, "n": n}
        rows += [{"measure": measure, "value": table[measure].iloc[-1], **where} for measure in MEASURES]
        rows += list(_then(table, where))
    return run.tidy(rows)


def _then(table: pd.DataFrame, where: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in table.to_dict("records"):
        yield {"measure": "zeros_then", "value": row["zeros"], "step": int(row["step"]), **where}


def table(results: Results) -> pd.DataFrame:
    """A row a setting."""
    return results.wide(MEASURES, ["weight", "target"]).rename(columns={"weight": "λ", "target": "r"})


def draw(results: Results) -> Figure:
    """Over lambda, a line a target rate: above the FLOPs that training leaves, below the accuracy."""
    figure, (flops, accuracy) = plots.grid(2, 1, 2.0, plots.SINGLE, sharex=True)
    order = [f"r = {target:g}" for target in results.settings.targets]
    for ax, measure in ((flops, "share"), (accuracy, "cut_accuracy")):
        rows = results.values(measure)
        rows = rows.assign(rate=rows["target"].map("r = {:g}".format))
        plots.curves(ax, rows, x="weight", hue="rate", order=order)
        ax.set_ylim(0, 1.02)
    budget = results.settings.budget
    flops.axhline(budget, color="#777777", linewidth=0.8, marker="", linestyle="-", label=f"budget, {budget:g}")
    flops.set_ylabel("share of the FLOPs\nthat training leaves")
    accuracy.set_ylabel("accuracy,\ncut to the budget")
    weights = sorted(results.settings.weights)
    if weights[0] > 0:
        accuracy.set_xscale("log", base=2)
    else:
        accuracy.set_xscale("symlog", base=2, linthresh=(*weights, 1.0)[1])
    accuracy.set_xticks(weights, [f"{weight:g}" for weight in weights])
    accuracy.minorticks_off()
    accuracy.set_xlabel("λ, weight of the sparsity term")
    flops.legend(loc="lower left")
    return figure


UNITS = {
    "zeros": "fraction of mask entries",
    "magnitude": "mean mask entry",
    "share": "fraction of the whole network's FLOPs",
    "accuracy": SHARE,
    "cut_accuracy": SHARE,
    "zeros_then": "fraction of mask entries",
}
SWEEP = Item(
    "lcs_sweep", swept, UNITS, table=table, draw=draw,
    about=("network", "weights", "targets", "epochs", "budget", "images"),
)  # fmt: skip
ITEMS = (SWEEP,)
