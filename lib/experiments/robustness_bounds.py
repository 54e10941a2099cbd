"""The product of the layers' spectral norms, and each image's smallest eps: equations 6 and 7 (notebook 05)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, ValidationInfo, field_validator

from lib import config, dotplots, plots
from lib.experiments import robustness_low_rank, robustness_magnitude_pruning, robustness_temperature
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.robustness import RobustnessRun
from lib.experiments.settings import Count
from lib.experiments.settings import Settings as Base

VERSION = 1  # raise it when a change in lib.robustness.bounds or .smallest changes the numbers
HALVINGS = 6

BY = {"fgsm": "FGSM's ray", "minimal": "minimal attack", "certified": "guaranteed by the product"}
"""Where an image's smallest eps comes from."""
MORE = "fgsm, more images"
BASES = {
    "resnet18-b512": "ResNet18, batch 512",
    "resnet18-b128": "ResNet18, batch 128",
    "resnet18-b128-dense": "ResNet18, batch 128, trained on",
    "resnet18-temperature": "ResNet18, AdamW",
    "alexnet-b128": "AlexNet, batch 128",
    "alexnet-b512-dense": "AlexNet, batch 512, trained on",
    "fc5-b512": "FC5, batch 512",
}
"""Networks that start alike and differ in the method."""


class Settings(Base):
    """Settings of the experiment; the source states equations and no numbers.

    Attributes:
        networks: which, by their names in the scale's configuration, of those of Figures 1 to 8 and their
            adversarially trained twins; empty: all of them.
        ray_images: test images, in equal numbers from each class, the same for every network and seed, on FGSM's ray.
        largest: end of the ray's grid, in units of 1/255, in (0, 255].
        grid_steps: points of the grid, from 1.
        minimal_images: under the minimal attack, the first of them; at most ray_images.
        minimal_steps: its gradient steps, from 1.
    """

    study: ClassVar[str] = "robustness"
    section: ClassVar[str] = "bounds"

    networks: tuple[str, ...] = Field((), title="networks")
    ray_images: Count = Field(1000, title="images on the ray")
    largest: Annotated[int | float, Field(gt=0, le=255)] = 16
    grid_steps: Count = 32
    minimal_images: Count = Field(500, title="images under the minimal attack")
    minimal_steps: Count = Field(100, title="steps of the minimal attack")

    @field_validator("networks")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = every_network(info.data["scale"])
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return names

    @field_validator("minimal_images")
    @classmethod
    def _among(cls, count: int, info: ValidationInfo) -> int:
        if count > info.data.get("ray_images", count):
            raise ValueError(f"at most ray_images, {info.data['ray_images']}: they are the first of these")
        return count

    def told(self, name: str) -> Any:
        return len(networks(self)) if name == "networks" else super().told(name)


def every_network(scale: str) -> dict[str, dict[str, Any]]:
    """The networks of Figures 1 to 8 at a scale and their adversarially trained twins, and what tells them apart.

    Returns: name -> {base, variant}.
    """
    found: dict[str, dict[str, Any]] = {}
    pruning, low = robustness_magnitude_pruning, robustness_low_rank
    trained = config.load(scale).networks
    for base in pruning.BASES:
        for name, where in pruning.networks(pruning.Settings.of(scale), base).items():
            share = where["sparsity"]
            found[name] = {"base": base, "variant": f"{share:.0%} zeros" if share else "dense"}
        if f"{base}-adversarial" in trained:
            found[f"{base}-adversarial"] = {"base": base, "variant": "adversarial"}
    for base in low.BASES:
        told = low.methods(pd.DataFrame(low.networks(low.Settings.of(scale), base).values()))["method"]
        for name, method in zip(low.networks(low.Settings.of(scale), base), told, strict=True):
            found[name] = {"base": f"{base}-dense", "variant": method}
    for name, where in robustness_temperature.networks(robustness_temperature.Settings.of(scale)).items():
        found[name] = {"base": "resnet18-temperature", "variant": f"T = {where['temperature']:g}"}
    return found


def networks(settings: Settings) -> dict[str, dict[str, Any]]:
    """The networks of some settings, as `every_network`."""
    known = every_network(settings.scale)
    return {name: where for name, where in known.items() if name in settings.networks or not settings.networks}


class BoundsRun(RobustnessRun[Any]):
    """Networks of one seed, their bounds, and each image's smallest eps."""

    def norms(self, network: str) -> pd.DataFrame:
        """The spectral norms of a network's layers, and in the last row, layer "whole", the bound; kept.

        Returns: layer, norm, input_size, as `lib.robustness.bounds.Bound` has them.
        """
        image = self.images("test", 1)

        def make() -> pd.DataFrame:
            from lib.robustness.bounds import lipschitz_bound

            bound = lipschitz_bound(self.network(network), image.float())
            whole = {"layer": "whole", "norm": bound.value, "input_size": image.float()[0].numel()}
            return pd.concat([bound.layers, pd.DataFrame([whole])], ignore_index=True)

        return self.table("robustness-norms", {"shape": list(image.images.shape[1:])}, make, network, VERSION)

    def smallest(self, network: str) -> pd.DataFrame:
        """How far each image is from another class; kept.

        Returns: one row an image, in the order of the set: fgsm (smallest eps on the ray, missing where the grid has
            none), returns (whether the ray comes back), minimal (missing beyond minimal_images, or where nothing was
            found), certified (what the bound guarantees), sensitivity (norm of the Jacobian), wrong (as it is).
        """
        chosen, bound = self.settings, float(self.norms(network)["norm"].iloc[-1])
        images = self.images("test", chosen.ray_images)

        def make() -> pd.DataFrame:
            from lib.robustness import bounds, smallest  # loads foolbox, which the records do without

            model, pixels, labels = self.network(network), images.images, images.labels
            few = slice(chosen.minimal_images)
            ray = smallest.smallest_epsilons(model, pixels, labels, chosen.largest / 255, chosen.grid_steps, HALVINGS)
            minimal = smallest.minimal_epsilons(model, pixels[few], labels[few], chosen.minimal_steps)
            frame = pd.DataFrame(
                {
                    "fgsm": ray.epsilon.numpy(),
                    "returns": ray.returns.numpy().astype(int),
                    "minimal": pd.Series(minimal.numpy()).reindex(range(len(images))),
                    "certified": bounds.certified_epsilons(model, pixels, labels, bound).numpy(),
                    "sensitivity": bounds.sensitivities(model, pixels).numpy(),
                }
            )
            frame["wrong"] = (frame["fgsm"] == 0).astype(int)
            return frame.replace(np.inf, np.nan)

        key = {
            "images": images.fingerprint,
            "largest": chosen.largest,
            "grid_steps": chosen.grid_steps,
            "halvings": HALVINGS,
            "minimal_images": chosen.minimal_images,
            "minimal_steps": chosen.minimal_steps,
        }
        return self.table("robustness-smallest", key, make, network, VERSION)


def make(scale: str, seed: int, network: str = "") -> None:
    """All that the items read, at one seed: a step of the graph; or of one network, where it is among the settings'.

    A seed that is not the experiment's is passed over.
    """
    settings = Settings.of(scale)
    if seed in settings.seeds:
        run = BoundsRun(settings, seed)
        for name in networks(settings):
            if network in ("", name):
                run.smallest(name)


def bounded(settings: Settings, seed: int) -> pd.DataFrame:
    """Bounds beside what is measured: of the logits over T, and of eps.

    Returns: tidy, "bound" at {network} and "sensitivity" at {network, over}, median or largest over images;
        "smallest_epsilon", a median over the images that are classified rightly, at {network, by}: by the bound
        (certified), the minimal attack and FGSM's ray, the same images for all three.
    """
    run, rows = BoundsRun(settings, seed), []
    for name in networks(settings):
        where = {"network": name}
        temperature, table = run.preset.recipe(name).temperature, run.smallest(name)
        bound = float(run.norms(name)["norm"].iloc[-1])
        rows.append({"measure": "bound", **where, "value": bound / temperature, "n": 1})
        for over, value in (("median", table["sensitivity"].median()), ("largest", table["sensitivity"].max())):
            at = {**where, "over": over}
            rows.append({"measure": "sensitivity", **at, "value": value / temperature, "n": len(table)})
        few = table.iloc[: settings.minimal_images]
        right = few[few["wrong"] == 0].fillna({"fgsm": settings.largest / 255, "minimal": 1.0})
        if len(right):
            for by in ("certified", "minimal", "fgsm"):
                at = {**where, "by": by}
                value = right[by].median()
                rows.append({"measure": "smallest_epsilon", **at, "value": value, "n": len(right)})
    return run.tidy(rows)


def distributed(settings: Settings, seed: int) -> pd.DataFrame:
    """How many images are right at every step up to eps: their smallest eps as a distribution.

    Returns: tidy, "share_left" at {network, attack, epsilon}, at the points of the grid, FGSM's ray and the minimal
        attack on the same images, and the ray on more of them; "returns", the share of images that are right again
        farther out on the ray, at {network}.
    """
    run, rows = BoundsRun(settings, seed), []
    points = np.linspace(0, settings.largest / 255, settings.grid_steps + 1)
    for name in networks(settings):
        where, table = {"network": name}, run.smallest(name)
        few = table.iloc[: settings.minimal_images]
        for attack, part in (("fgsm", few), ("minimal", few), (MORE, table)):
            found = part["fgsm" if attack == MORE else attack].fillna(np.inf).to_numpy(float)
            for epsilon in points:
                at = {**where, "attack": attack, "epsilon": float(epsilon)}
                rows.append({"measure": "share_left", **at, "value": float((found > epsilon).mean()), "n": len(part)})
        again = table["returns"].astype(bool) & (table["fgsm"].fillna(np.inf) > 0)  # of those that were right at first
        rows.append({"measure": "returns", **where, "value": float(again.mean()), "n": len(table)})
    return run.tidy(rows)


def _of_bases(results: Results) -> dict[str, dict[str, str]]:
    """The networks that start alike, by the names of `BASES`: name -> variant."""
    known = networks(results.settings)
    found = {base: {name: at["variant"] for name, at in known.items() if at["base"] == base} for base in BASES}
    return {base: variants for base, variants in found.items() if variants}


def draw_bounds(results: Results) -> Figure:
    """A row a network, a block for those that start alike: left the bound and the measured sensitivity of its logits,
    right the three kinds of eps."""
    blocks = _of_bases(results)
    sizes = list(map(len, blocks.values()))
    left = {
        "median sensitivity": results.values("sensitivity", over="median"),
        "largest sensitivity": results.values("sensitivity", over="largest"),
        "product of spectral norms": results.values("bound"),
    }
    right = {label: results.values("smallest_epsilon", by=by) for by, label in BY.items()}
    height = 0.25 + (1.1 + 0.14 * sum(sizes)) / len(blocks)
    figure, flat = plots.grid(2 * len(blocks), 2, height, plots.SINGLE, sharex="col", height_ratios=sizes)
    for row, (base, variants) in zip(flat.reshape(-1, 2), blocks.items(), strict=True):
        for ax, series, factor, first in ((row[0], left, 1, 0), (row[1], right, 255, len(left))):
            for index, (label, rows) in enumerate(series.items(), first):
                part = rows[(rows["value"] > 0) & rows["network"].isin(list(variants))]
                places = dotplots.row_of(part["network"], list(variants))
                ax.plot(factor * part["value"], places, **plots.look(index, linestyle="none", label=label))
            ax.set_xscale("log")
            plots.named_rows(ax, list(variants.values()), 0.6)
            ax.tick_params(labelleft=ax is row[0])
        plots.heading(row[0], BASES[base])
    row[0].set_xlabel("change of logits / T\nover the image's (L2)")
    row[1].set_xlabel("median smallest ε,\nin 255ths")
    lines = [line for ax in row for line in ax.get_lines()]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, handlelength=1)
    return figure


def draw_distribution(results: Results) -> Figure:
    """A panel for networks that start alike: markers are FGSM's ray, thin lines of their colour the minimal attack."""
    blocks, rows = _of_bases(results), results.values("share_left")
    figure, axes = plots.grid(len(blocks), 1, min(1.5, 8 / len(blocks)), plots.SINGLE, sharex=True)
    for ax, (base, variants) in zip(axes, blocks.items(), strict=True):
        part = rows[rows["network"].isin(list(variants))]
        part = part.assign(variant=part["network"].map(variants))
        plots.curves(ax, part[part["attack"] == "fgsm"], hue="variant", order=list(variants.values()))
        for index, variant in enumerate(variants.values()):
            line = part[(part["attack"] == "minimal") & (part["variant"] == variant)].sort_values("epsilon")
            look: dict[str, Any] = {"color": plots.PALETTE[index % 7], "linestyle": "-", "marker": ""}
            ax.plot(line["epsilon"], line["value"], linewidth=0.7, **look)
        words = "ε, in 255ths (square-root scale)\nmarkers: FGSM's ray; thin: minimal attack"
        plots.epsilon_axis(ax, rows["epsilon"].max(), words if ax is axes[-1] else "", root=True, small=True)
        ax.set(title=BASES[base], ylim=(0, 1.02))
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.supylabel("share of images whose smallest ε is larger", fontsize="medium")
    return figure


def table_bounds(results: Results) -> pd.DataFrame:
    """A row a network: both sides of equation 6, and the three kinds of eps in 255ths."""
    lines = []
    for name, where in networks(results.settings).items():
        line = {"network": BASES[where["base"]], "variant": where["variant"]}
        line["product of norms"] = f"{results.value('bound', network=name):.3g}"
        for over in ("median", "largest"):
            line[f"{over} sensitivity"] = f"{results.value('sensitivity', network=name, over=over):.3g}"
        for by, label in BY.items():
            found = results.values("smallest_epsilon", network=name, by=by)
            line[f"ε: {label}"] = f"{255 * found['value'].item():.3g}/255" if len(found) else ""
        lines.append(line)
    return pd.DataFrame(lines)


def table_distribution(results: Results) -> pd.DataFrame:
    """A row a network and attack: the share of images left at some eps, and of those whose ray comes back."""
    known, rows = networks(results.settings), results.values("share_left")
    points = sorted(rows["epsilon"].unique())
    chosen = dict.fromkeys(points[round(share * (len(points) - 1))] for share in (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1))
    lines = []
    for (name, attack), part in rows.groupby(["network", "attack"], sort=False):
        where, left = known[name], part.set_index("epsilon")["value"]
        line = {"network": BASES[where["base"]], "variant": where["variant"]}
        line |= {"attack": BY.get(attack, f"{BY['fgsm']}, more images"), "images": int(part["n"].iloc[0])}
        line |= {f"ε > {255 * epsilon:g}/255": left[epsilon] for epsilon in chosen}
        again = results.value("returns", network=name)
        lines.append({**line, "ray comes back": again if attack == MORE else np.nan})
    return pd.DataFrame(lines)


LOGITS = "change of logits / T, over that of the image"
EPSILON = "L_inf distance, images in [0, 1]"
BOUNDS = Item(
    "robustness_bounds",
    bounded,
    {"bound": f"{LOGITS}, at most", "sensitivity": LOGITS, "smallest_epsilon": EPSILON},
    table=table_bounds,
    draw=draw_bounds,
)
SMALLEST = Item(
    "robustness_smallest_epsilon",
    distributed,
    {"share_left": SHARE, "returns": SHARE},
    table=table_distribution,
    draw=draw_distribution,
)
ITEMS = (BOUNDS, SMALLEST)
