"""Does theta change how well adversarials are found by their slices? (Notebook 16.)

Trees and forests are those of `nnslicer_detection`, on slices at each theta in turn.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from lib import plots
from lib.attacks import find
from lib.experiments import nnslicer, nnslicer_detection, nnslicer_detection_inputs
from lib.experiments.item import Item, Results
from lib.experiments.nnslicer import SlicingRun, Theta
from lib.experiments.nnslicer_detection import label
from lib.experiments.run import measures
from lib.experiments.settings import Count, Seed, once
from lib.progress import bar

RATES = {"recall": "adversarials flagged", "fpr": "clean images flagged", "auroc": "AUROC"}
RULES = ("tree", "forest")


class Settings(nnslicer.NNSlicer):
    """Settings of the experiment.

    Attributes:
        thetas: those that are compared, in [0, 1); the source: .2 alone.
        attacks: names in `lib.attacks.SUITE`.
        per_class: clean training images of each class that trees and forests learn from.
        tree_seed: of both; the source's is 3.
    """

    section: ClassVar[str] = "theta_detection"

    thetas: tuple[Theta, ...] = Field((0.05, 0.1, 0.2, 0.3, 0.5), min_length=1)
    attacks: tuple[str, ...] = Field(
        ("fgsm_2", "fgsm_8", "rpgd_8", "deepfool_l2", "cw_l2", "spatial"), min_length=1, title="attacks"
    )
    per_class: Count = Field(1000, title="training images a class for the trees")
    tree_seed: Seed = 3

    _each_once = field_validator("thetas", "attacks")(once)

    @field_validator("attacks")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            find(name)
        return names

    def at(self, theta: float, seed: int) -> nnslicer_detection.Study:
        """Detection by slices at a theta, in [0, 1), of the network of a seed, otherwise with these settings."""
        shared = ("data", "network", "neuron", "profile_per_class", "attacks", "per_class")
        own = {name: getattr(self, name) for name in shared}
        chosen = nnslicer_detection_inputs.Settings.of(
            self.scale, theta=theta, seeds=[seed], tree_seeds=[self.tree_seed], **own
        )
        return nnslicer_detection.Study(chosen, seed)


class ThetaDetectionRun(SlicingRun[Settings]):
    """Adversarials of one network, found by their slices at every theta."""

    def rates(self, theta: float) -> pd.DataFrame:
        """The source's rule at a theta, with a tree and with a forest; kept here, as `Study` keeps tables at other
        settings than the scale's in the cache.

        Args:
            theta: in [0, 1).
        Returns: one row a rule and attack: rule, attack, the measures of `RATES`, n (adversarials, and as many clean
            images). Attacks without success have no row.
        """
        chosen, study = self.settings, self.settings.at(theta, self.seed)
        method = "nnslicer" if chosen.reference == "predicted" else "nnslicer-dataset"
        key = {
            **study.key,
            **{split: self.images(split).fingerprint for split in ("train", "test")},
            "theta": theta,
            "method": method,
            "tree_seed": chosen.tree_seed,
            "trees": study.settings.forest_trees,
        }

        def make() -> pd.DataFrame:
            found = pd.concat([study.rule_table(method, rule, chosen.tree_seed) for rule in RULES])
            return found.loc[found["attack"] != "clean", ["rule", "attack", *RATES, "n"]]

        return self.table("nnslicer-theta-detection", key, make, chosen.network)


def detected(settings: Settings, seed: int) -> pd.DataFrame:
    """The source's rule, with a tree and with a forest, at each theta.

    Returns: tidy, the measures of `RATES` at {theta, rule, attack}; n: adversarials, and as many clean images.
    """
    run = ThetaDetectionRun(settings, seed)
    rows: list[dict[str, Any]] = []
    for theta in bar(settings.thetas, desc="theta"):
        rows += measures(run.rates(theta), RATES, ["rule", "attack"], theta=theta)
    return run.tidy(rows)


def table(results: Results) -> pd.DataFrame:
    """A row a theta and attack: what the tree and the forest flag."""
    rows = pd.concat([results.values(measure).assign(measure=words) for measure, words in RATES.items()])
    rows["column"] = rows["rule"] + ": " + rows["measure"]
    wide = rows.pivot_table(index=["theta", "attack"], columns="column", values="value", sort=False).reset_index()
    return wide.assign(attack=wide["attack"].map(label))


def draw(results: Results) -> Figure:
    """AUROC over theta, a line an attack; left the source's tree, right a forest in its place."""
    figure, axes = plots.panels(2, plots.SINGLE, height=2.4, sharey=True)
    rows = results.values("auroc")
    rows = rows.assign(shown=rows["attack"].map(label))
    for ax, rule in zip(axes, RULES, strict=True):
        part = rows[rows["rule"] == rule]
        plots.curves(ax, part, x="theta", hue="shown", order=list(dict.fromkeys(rows["shown"])))
        ax.set(title=rule, xlabel="θ", ylim=(0, 1.02), xticks=sorted(results.settings.thetas))
        ax.axhline(0.5, color="#777777", linewidth=0.8, marker="", linestyle="-")
    axes[0].set_ylabel("AUROC (0.5: chance)")
    plots.legend_below(axes, 2)
    return figure


ITEMS = (
    Item(
        "nnslicer_theta_detection",
        detected,
        {measure: nnslicer_detection.UNITS[measure] for measure in RATES},
        table=table,
        draw=draw,
        about=("attacks", "per_class", "profile_per_class"),
    ),
)
