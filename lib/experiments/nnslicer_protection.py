"""Protecting a network (notebook 15): which hidden weights does an attacker miss most?

Weight, Random and Position hide alike whatever the target classes, so that one attack stands for every subset; its
right decisions are counted class by class. Each attack is kept, so that a run that was stopped goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field
from torch import Generator, Tensor

from lib import data, dotplots, plots
from lib.config import Recipe
from lib.experiments import nnslicer
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.nnslicer import NAMES, SlicingRun, name_of
from lib.experiments.settings import Count, Share
from lib.progress import bar
from lib.slicing.masks import by_position, ranking, subset_scores, subsets, weight_scores
from lib.slicing.protection import (
    ATTACK,
    METHODS,
    OF_CLASSES,
    convolutions,
    equal_scores,
    hidden_masks,
    labelled,
    random_scores,
    retrain,
    visible_norm,
)
from lib.slicing.pruning import Bank, correct_by_class

CLASSES = {"target": "target classes", "all": "all classes"}
CONTROL = "position"  # ours: attacked with the fewest images alone, and not in the sweep
APART = 10_000  # between the seeds of a network and of its random masks: equal ones would draw its first weights again


class Settings(nnslicer.NNSlicer):
    """Settings of the experiment.

    Attributes:
        subset_size: target classes of a subset; the source: 4.
        subsets: how many subsets; the source does not say which: a seeded sample, the same for every network.
        share: of each convolution's weights that is hidden; the source: .5.
        images: of the attacker, from the training set, in equal numbers from each class; the source: 10,000 and 20,000.
        epochs, batch: of the attack, and images a step; the source: 10 epochs.
        test_images: in equal numbers from each class.
        sweep_shares, sweep_images: shares hidden in the sweep, and the attacker's images there.
        sweep_subsets, sweep_seeds: of how many of the subsets and seeds, the first ones, the sweep is made (None: all).
    """

    section: ClassVar[str] = "protection"

    subset_size: Count = 4
    subsets: Count = Field(10, title="target subsets")
    share: Share = Field(0.5, title="share hidden")
    images: tuple[Count, ...] = Field((10000, 20000), min_length=1, title="images of the attacker")
    epochs: Count = Field(ATTACK["epochs"], title="epochs of the attack")
    batch: Count = Field(ATTACK["batch"], title="images a step of the attack")
    test_images: Count = Field(10000, title="test images")
    sweep_shares: tuple[Share, ...] = Field((0.1, 0.3, 0.5, 0.7, 0.9), min_length=1, title="shares in the sweep")
    sweep_images: Count = 10000
    sweep_subsets: Count = Field(10, title="target subsets in the sweep")
    sweep_seeds: Count | None = Field(None, title="network seeds in the sweep")

    def told(self, name: str) -> Any:
        if name in ("subsets", "sweep_subsets"):
            return len(ProtectionRun(self, 0).targets(sweep=name.startswith("sweep")))
        if name == "sweep_seeds":
            return len(self.seeds[: self.sweep_seeds])
        return " and ".join(f"{n:,}" for n in self.images) if name == "images" else super().told(name)


@dataclass(frozen=True)
class Attack:
    """One attack: by what weights were hidden, for which classes (None: for none), attacker's images, share hidden."""

    method: str
    classes: tuple[int, ...] | None
    images: int
    share: float


class ProtectionRun(SlicingRun[Settings]):
    """A network, the victim, and what attackers make of it."""

    def targets(self, sweep: bool = False) -> list[tuple[int, ...]]:
        """The subsets of target classes, or those of the sweep."""
        found = subsets(self.classes, self.settings.subset_size, self.settings.subsets, seed=1)
        return found[: self.settings.sweep_subsets] if sweep else found

    def hiders(self, sweep: bool = False) -> list[tuple[str, tuple[int, ...] | None]]:
        """Each method with each subset that it is told, or with None; the sweep is without hiding by position."""
        methods = [m for m in METHODS if m not in OF_CLASSES and not (sweep and m == CONTROL)]
        blind: list[tuple[str, tuple[int, ...] | None]] = [(method, None) for method in methods]
        return blind + [(method, classes) for classes in self.targets(sweep) for method in OF_CLASSES]

    @cached_property
    def bank(self) -> Bank:
        """The test images, ready to be tried."""
        test = self.images("test", self.settings.test_images)
        return Bank.of(test, next(self.model.parameters()).device, self.preset.compute.channels_last)

    @lru_cache(maxsize=2)  # noqa: B019 (a run is short-lived)
    def labelled(self, count: int) -> data.ImageSet:
        """The attacker's images, labelled by the victim."""
        return labelled(self.model, self.images("train", count))

    def by(self, method: str, classes: tuple[int, ...] | None) -> dict[str, Tensor]:
        """The scores by which a method hides weights, the largest first."""
        if classes is not None:
            return subset_scores(self.scores(method), classes)
        if method == "weight":
            return weight_scores(self.model)
        if method == CONTROL:
            return equal_scores(self.model)
        return random_scores(self.model, Generator().manual_seed(APART + self.seed))

    def kept(self, key: dict[str, Any], columns: list[str], rows: Callable[[], Iterable[Any]]) -> pd.DataFrame:
        """A table that depends on the test images beside `key`."""
        shared = {
            "images": self.images("test", self.settings.test_images).fingerprint,
            "precision": self.preset.compute.training_precision,
        }
        return self.table("protected", {**key, **shared}, rows, self.settings.network, columns=columns)

    def victim(self) -> pd.DataFrame:
        """Right decisions of the network itself: class, right, n."""

        def rows() -> Iterator[tuple[int, int, int]]:
            right = correct_by_class(
                self.model, self.bank, self.classes, precision=self.preset.compute.training_precision
            )
            return zip(range(self.classes), right.tolist(), self.bank.counts(self.classes).tolist(), strict=True)

        return self.kept({"part": "victim"}, ["class", "right", "n"], rows)

    def attacked(self, one: Attack) -> pd.DataFrame:
        """Right decisions of the network that an attacker ends with: epoch (0: before he trains), class, right, n."""
        preset, chosen = self.preset.compute, self.settings
        own: dict[str, Any] = {"precision": preset.training_precision, "channels_last": preset.channels_last}
        attack = {**ATTACK, "epochs": chosen.epochs, "batch": chosen.batch}
        recipe = Recipe(arch="given", data=chosen.data, **own, **attack)

        def rows() -> Iterator[list[int]]:
            hidden = hidden_masks(self.model, self.by(one.method, one.classes), one.share)
            images = self.labelled(one.images)
            right, _ = retrain(self.model, hidden, images, self.bank, recipe, self.seed, preset.device)
            counts = self.bank.counts(self.classes).tolist()
            for epoch, by_class in enumerate(right.tolist()):
                yield from ([epoch, k, by_class[k], counts[k]] for k in range(self.classes))

        key = {
            "method": one.method,
            "classes": one.classes and list(one.classes),
            "share": one.share,
            "train": self.images("train", one.images).fingerprint,
            "recipe": recipe.plain(),
            "scores": self.scores_key(one.method) if one.method in OF_CLASSES else None,
        }
        key |= {"drawn": APART + self.seed} if one.method == "random" else {}
        return self.kept(key, ["epoch", "class", "right", "n"], rows)

    def visible(self) -> pd.DataFrame:
        """What hiding leaves: method, target ("" for any), norm (share of the squared norm that the attacker sees,
        averaged over the layers), by_position (share of the hidden weights that ties left to their position). That of
        the control is kept by itself, as it needs no scores."""
        hiders = self.hiders()
        groups = ([who for who in hiders if (who[0] == CONTROL) is control] for control in (False, True))
        return pd.concat([self._visible(group) for group in groups], ignore_index=True)

    def _visible(self, hiders: list[tuple[str, tuple[int, ...] | None]]) -> pd.DataFrame:
        share = self.settings.share

        def rows() -> Iterator[list[Any]]:
            for method, classes in hiders:
                scores = {n: s for n, s in self.by(method, classes).items() if n in convolutions(self.model)}
                norm = visible_norm(self.model, hidden_masks(self.model, scores, share))
                tied = by_position(scores, ranking(scores, descending=True), share)
                yield [method, name_of(classes or ()), norm, tied]

        key = {"part": "visible", "share": share, "whom": [[m, c and list(c)] for m, c in hiders]}
        if any(method in OF_CLASSES for method, _ in hiders):
            key |= {"scores": {method: self.scores_key(method) for method in OF_CLASSES}, "drawn": APART + self.seed}
        return self.kept(key, ["method", "target", "norm", "by_position"], rows)

    def attacks(self, sweep: bool = False) -> pd.DataFrame:
        """All attacks, or those of the sweep: method, images, share_hidden, target, classes ("target", "all"), epoch,
        right decisions of n test images."""
        chosen, parts = self.settings, []
        images = (chosen.sweep_images,) if sweep else chosen.images
        shares = chosen.sweep_shares if sweep else (chosen.share,)
        every = [Attack(*who, n, float(share)) for share in shares for n in images for who in self.hiders(sweep)]
        wanted = [one for one in every if one.method != CONTROL or one.images == min(images)]
        for one in bar(wanted, desc="attacks"):
            counts = self.attacked(one)
            for target in self.targets(sweep) if one.classes is None else [one.classes]:
                for classes, inside in (("target", counts["class"].isin(list(target))), ("all", counts["class"] >= 0)):
                    summed = counts[inside].groupby("epoch", as_index=False)[["right", "n"]].sum()
                    about = {"method": one.method, "images": one.images, "share_hidden": one.share}
                    parts.append(summed.assign(**about, target=name_of(target), classes=classes))
        return pd.concat(parts, ignore_index=True)


def protected(settings: Settings, seed: int) -> pd.DataFrame:
    """What an attacker ends with, who sees all but the weights hidden.

    Returns: tidy: "accuracy" at {method, images, share_hidden, classes, epoch}, the mean over the target subsets; epoch
        is "hidden" (before the first step), "last", or "best", the largest over the epochs, which only who sees the
        test images can pick (n: distinct test images); "sweep_accuracy" alike, for the seeds of the sweep;
        "accuracy_by_epoch" at {method, images, share_hidden, classes, target, epoch}; "victim_accuracy" at {classes};
        "visible_norm" and "by_position" at {method}, means over the subsets (n).
    """
    run = ProtectionRun(settings, seed)
    attacks = run.attacks()
    rows = [*_ends("accuracy", attacks), *_by_epoch(attacks)]
    if seed in settings.seeds[: settings.sweep_seeds]:
        rows += _ends("sweep_accuracy", run.attacks(sweep=True))
    victim = run.victim().set_index("class")
    accuracy = victim["right"] / victim["n"]
    targeted = [k for target in run.targets() for k in target]  # a class of two subsets counts twice
    n = int(victim.loc[sorted(set(targeted)), "n"].sum())
    rows.append({"measure": "victim_accuracy", "classes": "target", "value": accuracy[targeted].mean(), "n": n})
    n = int(victim["n"].sum())
    rows.append({"measure": "victim_accuracy", "classes": "all", "value": victim["right"].sum() / n, "n": n})
    for method, group in run.visible().groupby("method", sort=False):
        about = {"method": method, "n": len(group)}
        rows.append({"measure": "visible_norm", **about, "value": group["norm"].mean()})
        rows.append({"measure": "by_position", **about, "value": group["by_position"].mean()})
    return run.tidy(rows)


def _ends(measure: str, attacks: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Accuracy with the weights hidden, after the last epoch, and after each subset's best; means over the subsets."""
    known = attacks.assign(accuracy=attacks["right"] / attacks["n"])
    for place, group in known.groupby(["method", "images", "share_hidden", "classes"], sort=False):
        where = dict(zip(("method", "images", "share_hidden", "classes"), place, strict=True))
        by_epoch = group.pivot(index="target", columns="epoch", values="accuracy")
        trained = by_epoch.loc[:, 1:]
        first = group.drop_duplicates("target")
        each = {k: n // len(t.split()) for t, n in zip(first["target"], first["n"], strict=True) for k in t.split()}
        n = sum(each.values()) if where["classes"] == "target" else first["n"].iloc[0]
        ends = {"hidden": by_epoch[0], "last": trained.iloc[:, -1], "best": trained.max(axis=1)}
        for epoch, values in ends.items():
            yield {"measure": measure, **where, "epoch": epoch, "value": values.mean(), "n": int(n)}


def _by_epoch(attacks: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in attacks.to_dict("records"):
        right = row.pop("right")
        yield {"measure": "accuracy_by_epoch", **row, "value": right / row["n"]}


def draw(results: Results) -> Figure:
    """The attacker's accuracy by method and number of images: last epoch (full), best (hollow), before training (x)."""
    figure, axes = plots.grid(2, 1, 2.2, plots.SINGLE, sharex=True)
    rows = results.values("accuracy")
    counts = sorted(rows["images"].unique())
    for ax, (classes, words) in zip(axes, CLASSES.items(), strict=True):
        for index, images in enumerate(counts):
            place = np.arange(len(METHODS)) + (index - (len(counts) - 1) / 2) * 0.22
            part = rows[(rows["images"] == images) & (rows["classes"] == classes)].set_index("method")
            last, best, hidden = (part[part["epoch"] == end].reindex(METHODS) for end in ("last", "best", "hidden"))
            label = f"{int(images):,} images"
            own = {"marker": "o", "capsize": 2, "elinewidth": None, "label": f"{label}, last epoch"}
            dotplots.intervals(ax, last, place, index, upright=True, **own)
            own = {"color": plots.PALETTE[index], "fillstyle": "none", "label": f"{label}, best epoch"}
            ax.plot(place + 0.07, best["value"], marker="o", linestyle="none", **own)
            if index == 0:
                own = {"color": "#777777", "label": "hidden, not trained", "clip_on": False}
                ax.plot(hidden["value"].to_numpy(), marker="x", linestyle="none", **own)
        panel(ax, words, results.value("victim_accuracy", classes=classes))
        ax.set_xticks(range(len(METHODS)), [NAMES[method] for method in METHODS])
        ax.set_xlim(-0.8, len(METHODS) - 0.5)  # with room for "chance"
        ax.set_ylabel("the attacker's accuracy")
        ax.grid(axis="x", visible=False)
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    last, best = ([f"{int(n):,} images, {epoch} epoch" for n in counts] for epoch in ("last", "best"))
    labels = [*last, "hidden, not trained", *best, "the victim"]
    look: Any = {"ncols": 2, "handlelength": 1.8, "columnspacing": 1}
    figure.legend([handles[k] for k in labels], labels, loc="outside lower center", **look)
    return figure


def panel(ax: Any, title: str, victim: float, label: str = "the victim") -> None:
    """Axes of the attacker's accuracy, with the victim's as a dashed line, and guessing."""
    ax.axhline(victim, color="#000000", linewidth=0.8, marker="", linestyle="--", label=label)
    ax.set(title=title, ylim=(0, 1.02))
    plots.chance(ax)


def layout(results: Results) -> pd.DataFrame:
    """One row a number of images, method and classes; the accuracy hidden, after the last epoch and at the best."""
    rows = results.values("accuracy")
    wide = rows.pivot(index=["images", "method", "classes"], columns="epoch", values="value")
    places = [(n, m, classes) for n in sorted(rows["images"].unique()) for m in METHODS for classes in CLASSES]
    places = [place for place in places if place in wide.index]
    wide = wide.loc[places, ["hidden", "last", "best"]].reset_index().rename_axis(columns=None)
    return wide.assign(method=wide["method"].map(NAMES), images=wide["images"].astype(int))


UNITS = {
    "accuracy": SHARE,
    "sweep_accuracy": SHARE,
    "victim_accuracy": SHARE,
    "visible_norm": "fraction of the squared norm",
    "by_position": "fraction of hidden weights",
}
PROTECTION = Item(
    "nnslicer_protection", protected, UNITS, table=layout, draw=draw,
    about=("subsets", "share", "images", "epochs", "batch", "test_images", "sweep_shares", "sweep_subsets",
           "sweep_seeds"),
)  # fmt: skip
ITEMS = (PROTECTION,)
