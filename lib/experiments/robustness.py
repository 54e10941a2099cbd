"""What the experiments on robustness share: named networks under FGSM, their figure, and how they compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field, ValidationInfo, field_validator

from lib import config, plots, units
from lib.experiments.item import SHARE
from lib.experiments.run import Run, measures
from lib.experiments.settings import Count, Settings
from lib.intervals import of_mean
from lib.robustness.fgsm import fgsm_sweep

VERSION = 1  # raise it when a change in lib.robustness changes the numbers of kept tables

Step = Annotated[float, Field(ge=0, le=255)]
"""An L_inf distance in 255ths of the pixel range."""
Networks = Mapping[str, Mapping[str, Any]]
"""Name in the zoo -> what tells the network apart in the figure, as {"sparsity": 0.9}."""

OPEN: dict[str, Any] = {"marker": "o", "color": "#555555", "markerfacecolor": "white"}
SWEEP = {"accuracy": SHARE, "relative_accuracy": "fraction of the clean accuracy"}
"""Measures of a sweep, and their units."""


class Robustness(Settings):
    """Shared settings of these experiments.

    Attributes:
        test_images: in equal numbers from each class, the same for every network and seed; the source does not say how
            many.
        epsilons: L_inf distances of FGSM, in units of 1/255, in [0, 255]; 0 is always among them; the source does not
            list its own.
    """

    study: ClassVar[str] = "robustness"
    needs: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Field -> the networks that each of its values needs, the value in place of {}."""

    test_images: Count = Field(2000, title="test images")
    epsilons: tuple[Step, ...] = Field((0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 6, 8, 12, 16), min_length=1)

    @field_validator("*")
    @classmethod
    def _trained(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what needs a network that the scale does not train, and name those that are like it."""
        each = value if isinstance(value, tuple) else (value,)
        for name in (name.format(one) for one in each for name in cls.needs.get(info.field_name or "", ())):
            networks = config.load(info.data["scale"]).networks
            if name not in networks:
                stem = name.rpartition("-")[0]
                like = [other for other in networks if other == stem or other.startswith(f"{stem}-")]
                known = ", ".join(like) or "none like it"
                raise ValueError(f"no network {name!r} in config/{info.data['scale']}.yaml, which has {known}")
        return value


S = TypeVar("S", bound=Robustness)


class RobustnessRun(Run[S]):
    """Named networks of one seed under FGSM."""

    def sweep(self, network: str, aware: bool = False) -> pd.DataFrame:
        """Accuracy of a network under FGSM at the settings' eps; kept.

        Args:
            network: its name.
            aware: the attacker's loss has the network's training temperature; else temperature 1.
        Returns: one row an eps: epsilon (in [0, 1]), accuracy, relative_accuracy (over the clean one), n (images).
        """
        images = self.images("test", self.settings.test_images)
        epsilons = sorted({0.0, *self.settings.epsilons})
        known = self.preset.recipe(network).temperature
        temperature = known if aware and known != 1 else 1.0  # at T = 1 there is nothing to know: the same table

        def make() -> pd.DataFrame:
            steps = [epsilon / 255 for epsilon in epsilons]
            frame = fgsm_sweep(self.network(network), images.images, images.labels, steps, temperature)
            clean = float(frame.accuracy[0])
            frame.insert(2, "relative_accuracy", frame.accuracy / clean if clean > 0 else 0.0)
            return frame

        key = {"epsilons": epsilons, "temperature": temperature, "images": images.fingerprint}
        return self.table("robustness-sweep", key, make, network, VERSION)

    def accuracies(self, networks: Networks, aware: bool = False) -> Iterator[dict[str, Any]]:
        """Rows of the measures of `SWEEP` at each eps, network by network.

        Args:
            networks: which, and what tells each apart.
            aware: as in `sweep`.
        """
        for name, where in networks.items():
            yield from measures(self.sweep(name, aware), SWEEP, ["epsilon"], **where)


def only(networks: Networks, network: str = "") -> Networks:
    """All networks, or the named one alone where it is among them: a step of the graph can be made one by one."""
    return {name: where for name, where in networks.items() if network in ("", name)}


def swept(settings: S, seed: int, networks: Callable[[S, str], Networks], base: str, network: str = "") -> pd.DataFrame:
    """Accuracy under FGSM of a network and what was made of it.

    Args:
        networks: settings and base -> the networks.
        base: "<architecture>-b<images a training step>", as "resnet18-b128".
        network: of these alone.
    Returns: tidy, the measures of `SWEEP` at {network, batch, epsilon, and what tells the networks apart}.
    """
    architecture, _, batch = base.partition("-b")
    where = {"network": architecture, "batch": int(batch)}
    run, chosen = RobustnessRun(settings, seed), only(networks(settings, base), network)
    return run.tidy(run.accuracies({name: {**where, **own} for name, own in chosen.items()}))


def figure(
    accuracy: pd.DataFrame, relative: pd.DataFrame, hue: str, base: Any, against: str, label: str = "{}"
) -> Figure:
    """A sweep over eps: large the difference to one network, small the accuracy and its share of the clean accuracy.

    Args:
        accuracy, relative: numbers of a record, as `Results.values` gives them.
        hue, label: what tells the networks apart, as in `plots.curves`.
        base: the value of hue of the network that the difference is taken to, seed by seed; against: its name.
    """
    order = list(dict.fromkeys(accuracy[hue]))
    drawn, axes = plots.mosaic("DD;AR", height=4.6, height_ratios=[1.9, 1])
    large = axes["D"]
    gaps = differences(accuracy, hue, base)
    gaps[["value", "low", "high"]] *= 100
    plots.curves(large, gaps[gaps[hue] != base], hue=hue, label=label, order=order)
    large.axhline(0, color=plots.PALETTE[order.index(base) % 7], linestyle="-", marker="")
    large.set_title(f"accuracy minus that of {against}")
    large.set_ylabel("percentage points")
    for letter, rows, text in (("A", accuracy, "accuracy under FGSM"), ("R", relative, "share of clean accuracy")):
        plots.curves(axes[letter], rows, hue=hue, label=label, order=order)
        axes[letter].set_title(text, fontsize=8)
        axes[letter].set_ylim(0, 1.02)
    plots.chance(axes["A"], label="").set_label("chance")
    for ax in axes.values():
        words = "ε of FGSM, in 255ths (square-root scale)" if ax is large else "ε, in 255ths"
        plots.epsilon_axis(ax, accuracy["epsilon"].max(), words, root=True, small=ax is not large)
    if gaps["low"].notna().any():
        open_at_zero(large, gaps[gaps[hue] != base], hue, order)
        axes["A"].plot([], [], label="open: the 95 % interval holds 0", linestyle="none", **OPEN)
    plots.legend_below([axes["A"]], 2)
    return drawn


def open_at_zero(ax: Axes, rows: pd.DataFrame, hue: str, order: Sequence[Any]) -> None:
    """Draw the markers of `plots.curves` open where the interval holds 0.

    Args:
        ax: with the curves; rows, hue, order: as they were drawn; rows without an interval stay as they are.
    """
    for index, value in enumerate(order):
        line = rows[(rows[hue] == value) & (rows["low"] <= 0) & (rows["high"] >= 0)]
        look = {**OPEN, "marker": plots.MARKERS[index % 7], "color": plots.PALETTE[index % 7]}
        if len(line):
            ax.plot(line["epsilon"], line["value"], linestyle="none", clip_on=False, **look)


def differences(rows: pd.DataFrame, hue: str, base: Any) -> pd.DataFrame:
    """Rows of a sweep, each less the base network's at its epsilon, paired seed by seed.

    The interval is `of_mean` of the seeds' differences, within -1 and 1; there is none with one seed.

    Args:
        rows, hue, base: as in `figure`.
    """
    found = []
    reference = {row.epsilon: row.per_seed for row in rows[rows[hue] == base].itertuples()}
    for row in rows.to_dict("records"):
        other = reference[row["epsilon"]]
        paired = [value - other[seed] for seed, value in row["per_seed"].items() if seed in other]
        low, high = of_mean(paired, units.SIGNED) or (math.nan, math.nan)
        found.append({**row, "value": sum(paired) / len(paired), "low": low, "high": high})
    return pd.DataFrame(found)


def compared(rows: pd.DataFrame, hue: str, base: Any) -> pd.DataFrame:
    """For display: accuracy on clean images and at three eps, in brackets the difference to one network.

    Args:
        rows, hue, base: as in `figure`.
    """
    grid = sorted(rows["epsilon"].unique())
    chosen = dict.fromkeys(grid[round(share * (len(grid) - 1))] for share in (0, 1 / 3, 2 / 3, 1))
    less = differences(rows, hue, base)
    lines = []
    for value, group in rows.groupby(hue, sort=False):
        line = {hue: f"{value:g}" if isinstance(value, float) else str(value)}
        for epsilon in chosen:
            at, gap = (part[part["epsilon"] == epsilon]["value"].item() for part in (group, less[less[hue] == value]))
            line[f"ε = {epsilon * 255:g}/255"] = f"{at:.3f}" + ("" if value == base else f" ({gap:+.3f})")
        lines.append(line)
    return pd.DataFrame(lines)
