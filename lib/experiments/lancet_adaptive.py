"""An attack that knows the defence (notebook 37): a trigger that works through neurons which clean inputs need.

Beside a BadNets network with the same mask it is repaired, looked into, and looked for. Everything is chosen on the
repair split, and every number shown is of the report split. Tables are kept network by network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn

from lib import config, dotplots, plots
from lib.data import ImageSet
from lib.experiments.item import Item, Results
from lib.experiments.lancet import BackdoorRun, Flipping, backdoored
from lib.experiments.lancet_backdoors import CHANGED, UNITS, network_table, of_networks, with_change
from lib.experiments.lancet_figures import method_names
from lib.experiments.lancet_repairs import FLIPS, KNOWN, Material, Repaired, Repairer
from lib.experiments.run import measures
from lib.experiments.settings import Count, Seed, Share
from lib.lancet.backdoors import adaptive
from lib.lancet.backdoors.excite import importance, reading
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.companions import companions
from lib.lancet.errors import LancetError
from lib.lancet.measures import NAMES, measure
from lib.lancet.reversal import anomaly_index, flagged, reverse_all
from lib.models.layers import weight_layers

VERSION = 1  # raise it when a change in this experiment's code changes its numbers
ROLES = {"adaptive": "adaptive attack", "badnets": "BadNets, same mask", "clean": "clean network"}
COLUMNS = ["method", "layer", "changed", "fraction", "reached", "touched", *NAMES, "n", "n_target", "note"]


class Attacked(Flipping):
    """What experiments on attacks that know the defence share; see also `Flipping` and `Backdoors`.

    Attributes:
        network: that the adaptive attack was trained into.
        control: one of BadNets on the same data set with the same mask.
        important: share of a layer's neurons, in [0, 1], that count as important for clean inputs.
    """

    network: str = "lancet-adaptive"
    control: str = "lancet-gtsrb-regular-2"
    important: Share = 0.1

    def networks(self) -> dict[str, str]:
        """What each network is to the experiment -> its name: adaptive, badnets, and the clean one they are like.

        Raises: LancetError where the adaptive one does not start from a clean network.
        """
        start = config.load(self.scale).recipe(self.network).start
        if start is None:
            raise LancetError(f"network {self.network} has no `start`: the attack begins from a clean network")
        return {"adaptive": self.network, "badnets": self.control, "clean": start["network"]}


class Settings(Attacked):
    """Settings of the experiment; see also `Attacked`.

    Attributes:
        layers: hidden layers that are looked into, from the end.
        cleanse_seeds: seeds at which a smallest stamp is searched for every class; None: all.
        cleanse_images, cleanse_steps: repair images and steps of each such search.
    """

    section: ClassVar[str] = "adaptive"

    layers: Count = 2
    cleanse_seeds: tuple[Seed, ...] | None = Field(None, title="seeds of the search over classes")
    cleanse_images: Count = 200
    cleanse_steps: Count = Field(300, title="steps of the search over classes")

    def told(self, name: str) -> Any:
        return self.searched() if name == "cleanse_seeds" else super().told(name)

    def searched(self) -> list[int]:
        """The seeds, at least one, at which stamps are searched for all classes."""
        wanted = self.cleanse_seeds or self.seeds
        return [seed for seed in self.seeds if seed in wanted] or list(self.seeds[:1])


A = TypeVar("A", bound=Attacked)


class AttackedRun(BackdoorRun[A]):
    """A seed's networks, repaired."""

    def split(self, network: str) -> tuple[ImageSet, ImageSet]:
        """The repair and the report split of a network's data set."""
        return self.parts(self.preset.recipe(network).data)

    def key(self, network: str, **own: Any) -> dict[str, Any]:
        """What all tables depend on, and of the settings `own`."""
        return {"images": [part.fingerprint for part in self.split(network)], "settings": own}

    def images_of(self, network: str) -> tuple[Tensor, Tensor]:
        """The repair split of a network's data set where the network is: images and labels."""
        repair, on = self.split(network)[0], next(self.network(network).parameters()).device
        return repair.float(on), repair.labels.to(on)

    def repaired(self, name: str, reversed_known: bool) -> pd.DataFrame:
        """A backdoored network before and after each flip, the reversed trigger or the true one known to the repairer.

        Returns: `COLUMNS`: as of `lancet_backdoors.RepairRun.repaired`; touched is the share of the flipped weights
            that belong to the important neurons of their layer.
        """
        about = backdoored(self.scale, name)

        def rows() -> Iterator[list[Any]]:
            attack = self.attack(name)
            yield from self.flipped(name, self.reversed_trigger(about) if reversed_known else attack.trigger)

        key = self.flipping(name) | {"reversed": reversed_known}
        return self.table("lancet-adaptive", key, rows, name, VERSION, COLUMNS)

    def flipping(self, name: str) -> dict[str, Any]:
        """What a flipped network depends on."""
        chosen = self.settings
        own = ("repair_pairs", "flip_threshold", "near_best", "reverse_images", "reverse_steps")
        key = self.key(
            name,
            adaptive_important=chosen.important,
            **{key: getattr(chosen, key) for key in own},
            **chosen.unusual("formula", "until", "flip_images"),
        )
        return key | {"attack": self.address(name)}

    def flipped(self, name: str, known: Trigger, companion_steps: int = 0) -> Iterator[list[Any]]:
        """A network before and after each flip, row by row of `COLUMNS`.

        Args:
            known: the trigger that stamps the images of the pairs.
            companion_steps: of a search for the pairs' companions, as where the trigger cannot be taken off; 0: the
                clean images are the companions.
        """
        attack, model = self.attack(name), self.network(name)
        images, labels = self.images_of(name)
        repairer = Repairer(model, known, Material(images, labels, attack.target), self.settings, self.seed)
        if companion_steps:
            inputs, _, truth = repairer.pairs
            found = companions(model, inputs, truth, steps=companion_steps)
            repairer.pairs = inputs[found.found], found.images[found.found], truth[found.found]
        for made in (Repaired("none", model), *repairer.flipped()):
            after = measure(made.model, self.split(name)[1], None, attack.trigger, attack.target)
            touched = touched_share(model, made, images, labels, self.settings.important)
            yield made.row(touched, after)


class AdaptiveRun(AttackedRun[Settings]):
    """A seed's networks of this experiment."""

    def clean(self) -> pd.DataFrame:
        """The clean network, with the adaptive trigger stamped; `COLUMNS`."""
        named = self.settings.networks()
        clean, attacked = named["clean"], named["adaptive"]

        def rows() -> Iterator[list[Any]]:
            attack, report = self.attack(attacked), self.split(clean)[1]
            found = measure(self.network(clean), report, None, attack.trigger, attack.target)
            yield Repaired("none", nn.Identity()).row(None, found)

        key = {**self.key(clean), "attack": self.address(attacked)}
        return self.table("lancet-adaptive", key, rows, clean, VERSION, COLUMNS)

    def lifted(self, name: str) -> pd.DataFrame:
        """How far the trigger moves neurons of the last hidden layers.

        Returns: one row a layer and group ("important" for clean inputs, "others"): lifted (in standard deviations of
            the neurons' values on clean images, in the mean), n (neurons).
        """
        chosen = self.settings

        def rows() -> Iterator[list[Any]]:
            attack, model = self.attack(name), self.network(name)
            images, labels = self.images_of(name)
            images, labels = (part[labels != attack.target] for part in (images, labels))
            stamped = attack.trigger.stamp(images)
            for layer in list(weight_layers(model))[-1 - chosen.layers : -1]:
                order = importance(model, images, labels, layer).argsort(descending=True, stable=True)
                count = max(1, round(chosen.important * len(order)))
                clean = _values(model, images, layer)
                moved = (_values(model, stamped, layer).mean(0) - clean.mean(0)) / clean.std(0).clamp_min(1e-6)
                for group, part in (("important", order[:count]), ("others", order[count:])):
                    if len(part):
                        yield [layer, group, moved[part].mean().item(), len(part)]

        key = self.key(name, adaptive_important=chosen.important, adaptive_layers=chosen.layers)
        key |= {"attack": self.address(name)}
        columns = ["layer", "group", "lifted", "n"]
        return self.table("lancet-adaptive-neurons", key, rows, name, VERSION, columns)

    def every_class(self, name: str) -> pd.DataFrame:
        """Neural Cleanse over all classes: would a backdoor be noticed?

        Returns: one row a class: class, norm (pixels of its smallest stamp), success, n (images), index (the anomaly
            index over the network's classes), flagged (index above 2 and smaller than the median).
        """
        chosen = self.settings

        def rows() -> Iterator[list[Any]]:
            repair = self.split(name)[0]
            images = repair.stratified(min(chosen.cleanse_images, len(repair)), seed=0).float()
            steps = chosen.cleanse_steps
            found = reverse_all(self.network(name), images, len(repair.classes), steps=steps, seed=self.seed)
            yield from ([each.target, each.norm, each.success, len(images)] for each in found)

        key = self.key(name, cleanse_images=chosen.cleanse_images, cleanse_steps=chosen.cleanse_steps)
        table = self.table("lancet-cleanse", key, rows, name, VERSION, ["class", "norm", "success", "n"])
        norms = table["norm"].tolist()
        return table.assign(index=anomaly_index(norms).tolist(), flagged=table.index.isin(flagged(norms)))


@torch.no_grad()
def _values(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    with reading(model, {layer}) as outputs:
        model(images)
        return outputs()[layer]


def touched_share(model: nn.Module, made: Repaired, images: Tensor, labels: Tensor, share: float) -> float | None:
    """Share of the flipped weights whose output neuron is important for clean inputs; None where none was flipped.

    Args:
        model, made: the network before and after.
        images, labels: clean ones.
        share: of a layer's neurons that count as important.
    """
    if not made.layer or made.layer == list(weight_layers(model))[-1]:  # neurons of the last layer are the classes
        return None
    before, after = (weight_layers(network)[made.layer].weight.detach() for network in (model, made.model))
    rows = (before != after).flatten(1).sum(1).double()
    if not bool(rows.any()):
        return None
    chosen = adaptive.important(model, images, labels, made.layer, share)
    return (rows[chosen].sum() / rows.sum()).item()


def attacked(settings: Settings, seed: int) -> pd.DataFrame:
    """Both backdoored networks before and after neuron-flip, and the clean one with the adaptive trigger.

    Returns: tidy: the measures of `lancet_backdoors.LABELS`, "changed" and "touched" (n: flipped weights) at {network,
        role, method, reversed}; "lifted" at {role, layer, group} (n: neurons); "norm" and "anomaly_index" of the target
        class at {role}, and "classes_flagged", the share of the other classes that are flagged (n: images, and
        classes). Beside the record "class", each class's stamp at {role, class}: its norm, index, whether it is the
        target.
    """
    run, named = AdaptiveRun(settings, seed), settings.networks()
    parts = [
        run.repaired(named[role], known).assign(network=named[role], role=role, reversed=known)
        for role in ("adaptive", "badnets")
        for known in KNOWN
    ]
    parts += [run.clean().assign(network=named["clean"], role="clean", reversed=known) for known in KNOWN]
    table = pd.concat(map(with_change, parts), ignore_index=True)
    rows = of_networks(table, ["role"])
    rows += measures(table, ["touched"], ["network", "role", "method", "reversed"], n="changed")
    for role in ("adaptive", "badnets"):
        rows += measures(run.lifted(named[role]), ["lifted"], ["layer", "group"], role=role)
    if seed in settings.searched():
        target = run.attack(named["adaptive"]).target
        for role, name in named.items():
            rows += _stamps(role, run.every_class(name), target)
    return run.tidy(rows)


def _stamps(role: str, classes: pd.DataFrame, target: int) -> list[dict[str, Any]]:
    mine = classes["class"] == target
    own, others = classes[mine].iloc[0], classes[~mine]
    index = min(float(own["index"]), 1e6)
    rows: list[dict[str, Any]] = [
        {"measure": "norm", "role": role, "value": own["norm"], "n": int(own["n"])},
        {"measure": "anomaly_index", "role": role, "value": index, "n": len(classes)},
        {"measure": "classes_flagged", "role": role, "value": others["flagged"].mean(), "n": len(others)},
    ]
    for row in classes.to_dict("records"):
        about = {"class": row["class"], "index": row["index"], "target": row["class"] == target}
        rows.append({"measure": "class", "role": role, **about, "value": row["norm"], "n": int(row["n"])})
    return rows


def layout(results: Results) -> pd.DataFrame:
    """A row a network before repair, and one a method and trigger known."""
    table = network_table(results, FLIPS, "role", list(ROLES)).rename(columns={"role": "network"})
    return table.assign(network=table["network"].map(ROLES))


PANELS = {
    "attack_success": "attack\nsuccess rate",
    "accuracy": "accuracy",
    "target_recall": "recall of the\ntarget class",
}


def draw(results: Results) -> Figure:
    """Each measure before and after each flip, with its 95 % interval over the seeds where there are several: colours
    tell the networks apart, filling the trigger that is known."""
    methods: Sequence[str] = ("none", *FLIPS)
    figure, axes = plots.grid(3, 3, 3.7, plots.SINGLE)
    for ax, (name, words) in zip(axes, PANELS.items(), strict=True):
        for index, role in enumerate(("adaptive", "badnets")):
            for flag, known in KNOWN.items():
                found = results.values(name, role=role, reversed=flag, method=methods)
                places = dotplots.row_of(found["method"], methods) + 0.4 * (index - 0.5) + 0.18 * (flag - 0.5)
                look: Any = {"fillstyle": "full" if flag else "none", "label": f"{ROLES[role]}, {known} trigger known"}
                dotplots.intervals(ax, found, places, index, **look)
        ax.set_title(words, fontsize=plots.SMALLEST)
        ax.set(xlim=(-0.05, 1.05), xticks=(0, 0.5, 1), xticklabels=("0", ".5", "1"))
        plots.named_rows(ax, method_names(methods))
        ax.tick_params(labelleft=ax is axes[0])
    axes[1].set_xlabel("share of images")
    plots.legend_below(axes, 1)
    return figure


REPAIRED = {"role": "adaptive", "reversed": True}
STATED = (
    ("attack_success", {**REPAIRED, "method": "none"}, 1.0),
    ("attack_success", {**REPAIRED, "method": "flip-stated"}, 0.0),
    ("accuracy_change", {**REPAIRED, "method": "flip-stated"}, -0.008),
)
"""The source's values for this attack on its GTSRB network, which it repairs with reversed triggers."""
OTHERS = {
    "touched": "fraction of flipped weights",
    "lifted": "standard deviations",
    "norm": "pixels",
    "anomaly_index": "robust standard deviations",
    "classes_flagged": "fraction of classes",
}
ABOUT = ("report_images", "repair_pairs", "reverse_steps", "cleanse_seeds", "cleanse_steps")
ADAPTIVE = Item("lancet_adaptive", attacked, UNITS | CHANGED | OTHERS, STATED, layout, draw, about=ABOUT)
ITEMS = (ADAPTIVE,)
