"""Is it robust, or hard to attack? What seems robust, under attacks that need no tuning (notebook 04)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, ValidationInfo, field_validator

from lib import config, dotplots, plots
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.robustness import RobustnessRun, Step
from lib.experiments.run import measures
from lib.experiments.settings import Count, once
from lib.experiments.settings import Settings as Base
from lib.robustness.autoattack import STAGES, autoattack_correct
from lib.robustness.fgsm import fgsm_correct

VERSION = 1  # raise it when a change in lib.robustness.autoattack or .fgsm changes the numbers
SEED = 0  # of the attacks' random starts and windows
FGSM = "FGSM"
ATTACKS = (STAGES[0], FGSM, *STAGES[1:])
"""The last three are tried one after another on what is left. No attacker knows a temperature."""


class Settings(Base):
    """Settings of the experiment; the source has FGSM alone.

    Attributes:
        networks: which, by their names in the scale's configuration; those that seem robust.
        images: test images, in equal numbers from each class, the same for every network and seed.
        distances: L_inf distances in units of 1/255, in [0, 255].
        steps, targets, queries: of a run of APGD, how many runs with the targeted loss, and of Square; the attacks'
            source: 100, 9 and 5000.
    """

    study: ClassVar[str] = "robustness"
    section: ClassVar[str] = "autoattack"

    networks: tuple[str, ...] = Field(
        ("resnet18-b128-adversarial", "alexnet-b128-adversarial", "fc5-b512-adversarial"),
        min_length=1,
        title="networks",
        validate_default=True,
    )
    images: Count = Field(1000, title="images under attack")
    distances: tuple[Step, ...] = Field((2, 8), min_length=1)
    steps: Count = Field(100, title="steps of APGD")
    targets: Count = Field(9, title="target classes of APGD")
    queries: Count = Field(5000, title="queries of Square")

    @field_validator("networks")
    @classmethod
    def _trained(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = config.load(info.data["scale"]).networks
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"no network {unknown[0]!r} in config/{info.data['scale']}.yaml")
        return once(names)


class AutoAttackRun(RobustnessRun[Any]):
    """Networks of one seed, attacked."""

    def attacked(self, network: str) -> pd.DataFrame:
        """How many images a network still gets right after each attack of `ATTACKS`; kept.

        Returns: one row a distance and attack: epsilon (in [0, 1]), attack, accuracy, n (images).
        """
        chosen = self.settings
        images = self.images("test", chosen.images)
        budget = {"steps": chosen.steps, "targets": chosen.targets, "queries": chosen.queries, "seed": SEED}

        def rows() -> Iterator[dict[str, Any]]:
            model, given = self.network(network), (images.images, images.labels)
            for distance in chosen.distances:
                epsilon = distance / 255
                right = dict(zip(STAGES, autoattack_correct(model, *given, epsilon, **budget), strict=True))
                right[FGSM] = fgsm_correct(model, *given, [epsilon])[0]
                for attack in ATTACKS:
                    accuracy = right[attack].double().mean().item()
                    yield {"epsilon": epsilon, "attack": attack, "accuracy": accuracy, "n": len(images)}

        key = {"images": images.fingerprint, "distances": [float(each) for each in chosen.distances], **budget}
        return self.table("robustness-autoattack", key, rows, network, VERSION)


def attacked(settings: Settings, seed: int, network: str = "") -> pd.DataFrame:
    """Accuracy of all networks, or of one, after each attack.

    Returns: tidy, "accuracy" at {network, epsilon, attack}.
    """
    run = AutoAttackRun(settings, seed)
    rows: list[dict[str, Any]] = []
    for name in settings.networks:
        if network in ("", name):
            rows += measures(run.attacked(name), ["accuracy"], ["epsilon", "attack"], network=name)
    return run.tidy(rows)


def layout(results: Results) -> pd.DataFrame:
    """A row a network and distance, a column an attack."""
    wide = results.values("accuracy").pivot_table(
        index=["network", "epsilon"], columns="attack", values="value", sort=False
    )
    wide = wide[list(ATTACKS)].rename(columns={"none": "no attack"}).reset_index()
    return wide.assign(epsilon=[f"{255 * epsilon:g}/255" for epsilon in wide["epsilon"]])


def draw(results: Results) -> Figure:
    """A panel a distance, a row a network: what each attack leaves, with its 95 % interval over seeds."""
    rows, names = results.values("accuracy"), list(results.settings.networks)
    distances = sorted(rows["epsilon"].unique())
    figure, axes = plots.grid(len(distances), 1, 0.5 + 0.42 * len(names), plots.SINGLE, sharex=True)
    for ax, epsilon in zip(axes, distances, strict=True):
        for index, attack in enumerate(ATTACKS):
            part = rows[(rows["epsilon"] == epsilon) & (rows["attack"] == attack)]
            places = dotplots.row_of(part["network"], names) + 0.15 * (index - (len(ATTACKS) - 1) / 2)
            dotplots.intervals(
                ax, part, places, index, label="no attack" if attack == "none" else attack, markersize=3.5
            )
        plots.named_rows(ax, names, 0.6)
        plots.heading(ax, f"ε = {255 * epsilon:g}/255")
        ax.set_xlim(-0.03, 1.03)
    axes[-1].set_xlabel("accuracy")
    plots.legend_below(axes, 2)
    return figure


AUTOATTACK = Item("robustness_autoattack", attacked, {"accuracy": SHARE}, table=layout, draw=draw)
ITEMS = (AUTOATTACK,)
