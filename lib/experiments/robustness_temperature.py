"""Does a high temperature protect? Figures 7 and 8, and where their gain comes from (notebook 03)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, field_validator

from lib import config, dotplots, plots
from lib.experiments import robustness
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.robustness import RobustnessRun, Step
from lib.experiments.settings import Count

Temperature = Annotated[int | float, Field(gt=0)]
OrNone = Annotated[int, Field(ge=0)]
"""A count; 0 leaves the attack out."""

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
"""The attacks as figures show them."""
GRADIENTS = {
    "zero_gradient_share": "images with zero gradient",
    "confident_share": "images with p_y = 1 (float32)",
    "sign_agreement": "pixels with the exact sign",
}
NETWORKS = {"trained": "trained at T", "post-hoc": "T = 1, logits multiplied by T"}


class Settings(robustness.Robustness):
    """Settings of the experiment.

    Attributes:
        temperatures: T > 0 of the training loss, of those that the scale trains networks at, 1 among them; the source:
            1, 20, 50 and 100.
        masking_images: test images under FGSM when the networks are examined; not in the source, nor what follows.
        masking_epsilons: L_inf distances of that examination, in units of 1/255, in [0, 255].
        pgd_images, pgd_steps: images under PGD, 0 leaves it out; its gradient steps of eps / 4.
        cw_images: images under Carlini and Wagner's attack, 0 leaves it out.
    """

    section: ClassVar[str] = "temperature"
    needs: ClassVar[Mapping[str, Sequence[str]]] = {"temperatures": ["resnet18-t{:g}"]}

    temperatures: tuple[Temperature, ...] = Field((1, 20, 50, 100), min_length=1)
    masking_images: Count = Field(500, title="images under FGSM")
    masking_epsilons: tuple[Step, ...] = Field((1, 2, 4, 8), min_length=1, title="distances of the examination")
    pgd_images: OrNone = Field(200, title="images under PGD")
    pgd_steps: Count = 10
    cw_images: OrNone = Field(50, title="images under CW")

    @field_validator("temperatures")
    @classmethod
    def _with_one(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if 1 not in temperatures:
            raise ValueError("1 must be among them: the others are compared with it")
        return temperatures


def networks(settings: Settings) -> robustness.Networks:
    """The networks trained at each temperature."""
    return {f"resnet18-t{t:g}": {"temperature": t} for t in settings.temperatures}


class TemperatureRun(RobustnessRun[Settings]):
    """Networks of one seed that were trained at temperatures."""

    def twin(self, network: str) -> str:
        """The first network of the same family that was trained at T = 1.

        Raises: ConfigError where there is none.
        """
        family = self.preset.recipe(network).family
        for other in self.preset.families[family]:
            if self.preset.recipe(other).temperature == 1:
                return other
        raise config.ConfigError(
            f"{network}: family {family!r} has no network trained at temperature 1 to compare with"
        )

    def masking(self, network: str) -> pd.DataFrame:
        """The examination of a network for masked gradients, with its T = 1 twin; kept.

        Returns: as `lib.robustness.masking.examine`.
        """
        chosen, twin = self.settings, self.twin(network)
        images = self.images("test", chosen.masking_images)
        temperature = self.preset.recipe(network).temperature

        def make() -> pd.DataFrame:
            from lib.robustness import masking  # loads foolbox, which a plain sweep does without

            return masking.examine(
                self.network(network),
                self.network(twin),
                images.images,
                images.labels,
                temperature,
                [epsilon / 255 for epsilon in chosen.masking_epsilons],
                pgd_images=chosen.pgd_images,
                cw_images=chosen.cw_images,
                seed=self.seed,
                pgd_steps=chosen.pgd_steps,
            )

        key = {
            "attacks": 2,  # raise it when the examination's numbers change
            "twin": self.card(twin)["weights"],
            "temperature": temperature,
            "epsilons": list(chosen.masking_epsilons),
            "pgd_images": chosen.pgd_images,
            "cw_images": chosen.cw_images,
            "images": images.fingerprint,
            **chosen.unusual("pgd_steps"),
        }
        return self.table("robustness-masking", key, make, network, robustness.VERSION)


def swept(settings: Settings, seed: int, aware: bool, network: str = "") -> pd.DataFrame:
    """Accuracy of the networks under FGSM.

    Args:
        aware: whether the attacker knows the temperature of training.
        network: of these alone.
    Returns: tidy, the measures of `robustness.SWEEP` at {temperature, epsilon}.
    """
    run = TemperatureRun(settings, seed)
    return run.tidy(run.accuracies(robustness.only(networks(settings), network), aware))


def examined(settings: Settings, seed: int, network: str = "") -> pd.DataFrame:
    """The networks, or one, and T = 1 with its logits times T, under attacks that masked gradients stop or do not.

    Returns: tidy, the measures of `lib.robustness.masking.examine` at {temperature, network, attack, epsilon}.
    """
    run, rows = TemperatureRun(settings, seed), []
    for name in robustness.only(networks(settings), network):
        for row in run.masking(name).to_dict("records"):
            rows.append({"measure": row.pop("name"), **row, "n": int(row["n"])})
    return run.tidy(rows)


def draw(results: Results) -> Figure:
    """A line a temperature; the large panel is the difference to T = 1."""
    accuracy, relative = results.values("accuracy"), results.values("relative_accuracy")
    return robustness.figure(accuracy, relative, "temperature", 1, "T = 1", "T = {:g}")


def draw_attacks(results: Results) -> Figure:
    """Accuracy at one eps (the middle one), a row an attack, a dot a temperature; left networks trained at T, right
    T = 1 with logits times T."""
    rows = results.values("accuracy")
    grid = sorted(rows["epsilon"].unique())
    shown = grid[(len(grid) - 1) // 2]
    rows = rows[rows["epsilon"] == shown].sort_values("temperature")
    rows = rows.assign(told=rows["temperature"].map("T = {:g}".format))
    attacks = [attack for attack in ATTACKS if attack in set(rows["attack"])]
    figure, axes = plots.panels(2, plots.SINGLE, 4.6, sharey=True)
    for ax, (network, title) in zip(axes, NETWORKS.items(), strict=True):
        part = rows[(rows["network"] == network) | (rows["temperature"] == 1)]
        dotplots.dots(ax, part, "attack", attacks, "told", list(dict.fromkeys(rows["told"])))
        dotplots.striped(ax, len(attacks))
        ax.axvline(0.1, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)), marker="", zorder=0.5)
        plots.named_rows(ax, [ATTACKS[attack] for attack in attacks])
        ax.set(xlim=(-0.04, 1.04), xticks=(0, 0.5, 1), xticklabels=("0", ".5", "1"))
        ax.set_xlabel(f"accuracy at ε = {shown * 255:g}/255\n(dotted: chance)", fontsize=plots.SMALLEST)
        ax.set_title(textwrap.fill(title, 16), fontsize=plots.SMALLEST)
    plots.legend_below(axes, 4, handlelength=1)
    return figure


def draw_gradients(results: Results) -> Figure:
    """What is left of the cross-entropy's gradient at temperature 1: trained at T, then the control."""
    figure, axes = plots.panels(2, height=2.2)
    for ax, (network, title) in zip(axes, NETWORKS.items(), strict=True):
        for index, (measure, label) in enumerate(GRADIENTS.items()):
            rows = results.values(measure)
            rows = rows[(rows["network"] == network) | (rows["temperature"] == 1)].sort_values("temperature")
            own = {"linestyle": plots.LINESTYLES[index], "capsize": 2, "elinewidth": None, "label": label}
            dotplots.intervals(ax, rows, rows["temperature"], index, upright=True, **own)
        ax.set(xlabel="temperature T", ylabel="share", ylim=(-0.02, 1.05), title=title)
    axes[0].legend(loc="best")
    return figure


UNITS = {
    "accuracy": SHARE,
    "cw_success": SHARE,
    "cw_median_l2": "L2 distance, images in [0, 1]",
    "zero_gradient_share": SHARE,
    "confident_share": SHARE,
    "sign_agreement": "fraction of pixels",
}
FIGURE_7, FIGURE_8 = (
    Item(f"robustness_fig{number}", partial(swept, aware=aware), robustness.SWEEP, draw=draw, about=("test_images",))
    for number, aware in ((7, False), (8, True))
)
MASKING = Item(
    "robustness_masking", examined, UNITS, draw=draw_attacks,
    about=("masking_images", "masking_epsilons", "pgd_images", "cw_images"),
)  # fmt: skip
ITEMS = (FIGURE_7, FIGURE_8, MASKING)
