"""Pruning a network for some of its classes (notebook 14): which method's choice of weights costs least accuracy?

How 210 subsets, 7 ratios and 4 methods take minutes: Weight and Channel prune alike whatever the target, so each
of their networks runs once, and its right decisions class by class add up to every subset's. For NNSlicer and
EffectivePath a subset's synapses are ranked once for all ratios, and only the subset's images go through the network,
in bfloat16 (`agreement` says how often it decides alike). A stopped run goes on from its last few subsets.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lib import plots
from lib.config import Recipe
from lib.experiments import nnslicer
from lib.experiments.item import SHARE, Item, Results, pivot
from lib.experiments.nnslicer import NAMES, SlicingRun, mean_accuracies, name_of, spread
from lib.experiments.run import measures
from lib.experiments.settings import Count, Share
from lib.models.layers import weight_layers
from lib.progress import bar
from lib.slicing.masks import (
    by_position,
    masked,
    masks_of,
    ranking,
    subset_scores,
    subsets,
    weight_scores,
    whole_masks,
)
from lib.slicing.pruning import (
    FINE_TUNING,
    METHODS,
    OF_CLASSES,
    Bank,
    centred,
    centres,
    correct_by_class,
    decisions,
    fine_tune,
)

VIEWS = {
    "as it is": "every network as it is",
    "centred": "every network centred",
    "as released": "slices centred, Weight and Channel as they are",
}
"""How the methods are set beside each other: compensation for none, for all, or as the released code has it."""

CHUNK = 10  # subsets kept at a time
COLUMNS = ["method", "ratio", "compensation", "classes", "right", "n", "by_position"]
BY_CLASS = ["method", "ratio", "compensation", "class", "right", "n"]
RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


class Settings(nnslicer.NNSlicer):
    """Settings of the experiment.

    Attributes:
        subset_size, subsets: target classes of a subset, and how many subsets (None: all), the same for every network;
            the source has all 210 of four in ten.
        ratios: shares of each layer's weights that are dropped; the source: .2 to .8.
        test_images: in equal numbers from each class.
        closer_subsets: those that are tried with another rule for ties, and on the other classes.
        finetune_subsets, finetune_ratios: as above, for the fine-tuned networks.
        finetune_images, finetune_batch: training images, and how many a step; the source: 10,000 and 256.
    """

    section: ClassVar[str] = "pruning"

    subset_size: Count = 4
    subsets: Count | None = Field(None, title="subsets of classes")
    ratios: tuple[Share, ...] = Field(RATIOS, min_length=1, title="pruning ratios")
    test_images: Count = Field(10000, title="test images")
    closer_subsets: Count = 20
    finetune_subsets: Count | None = Field(None, title="subsets of classes")
    finetune_ratios: tuple[Share, ...] = Field(RATIOS, min_length=1, title="pruning ratios")
    finetune_images: Count = Field(10000, title="images to fine-tune on")
    finetune_batch: Count = Field(FINE_TUNING["batch"], title="images a step")

    def told(self, name: str) -> Any:
        return len(PruningRun(self, 0).subsets(name)) if name.endswith("subsets") else super().told(name)


class PruningRun(SlicingRun[Settings]):
    """A network, and its pruned forms' right decisions."""

    def subsets(self, setting: str = "subsets") -> list[tuple[int, ...]]:
        """The subsets of classes that a setting counts; those looked at more closely are among those of `subsets`."""
        found = subsets(self.classes, self.settings.subset_size, getattr(self.settings, setting))
        return [classes for classes in found if setting != "closer_subsets" or classes in self.subsets()]

    @cached_property
    def bank(self) -> Bank:
        """The test images, ready to be tried."""
        preset = self.preset.compute
        test = self.images("test", self.settings.test_images)
        return Bank.of(test, next(self.model.parameters()).device, preset.channels_last)

    @cached_property
    def means(self) -> Any:
        """What centring needs of the unpruned network: the means of its profile. To be read before a mask is on."""
        profile = self.profile()
        return centres(self.model, {layer: profile.input_mean(layer) for layer in weight_layers(self.model)})

    @property
    def compensations(self) -> tuple[tuple[bool, Any], ...]:
        """Without compensation and with it: the means that networks are centred by."""
        return (False, None), (True, self.means)

    def kept(self, kind: str, method: str, key: dict[str, Any], columns: list[str], rows: Any) -> pd.DataFrame:
        """A table that depends on the images, the means and a method's scores, beside `key`."""
        shared = {
            "method": method,
            "images": self.images("test", self.settings.test_images).fingerprint,
            "precision": self.preset.compute.training_precision,
            "means": self.profile_key(),
            "scores": self.scores_key(method) if method in OF_CLASSES else None,
        }
        return self.table(kind, {**shared, **key}, rows, self.settings.network, columns=columns)

    def right(self, bank: Bank, means: Any) -> Tensor:
        """Right decisions by class of the network as it now is, centred by these means (None: not)."""
        with centred(self.model, means):
            return correct_by_class(self.model, bank, self.classes, precision=self.preset.compute.training_precision)

    def by_class(self, method: str, ratios: Sequence[float]) -> pd.DataFrame:
        """Right decisions by class of a method that knows no target; "" drops nothing."""

        def rows() -> Iterator[list[Any]]:
            compensations = self.compensations
            for ratio in ratios:
                with masked(self.model, whole_masks(self.model, method, ratio)):
                    for compensation, means in compensations:
                        right = self.right(self.bank, means).tolist()
                        counts = self.bank.counts(self.classes).tolist()
                        yield from ([method, ratio, compensation, k, right[k], n] for k, n in enumerate(counts))

        return self.kept("pruned", method, {"ratios": list(ratios)}, BY_CLASS, rows)

    def of_subsets(
        self, method: str, chunk: Sequence[tuple[int, ...]], ties: str = "position", others: bool = False
    ) -> pd.DataFrame:
        """Right decisions of some subsets' networks, pruned by a method that knows the target.

        Args:
            ties: what orders equal scores: "position" in the layer, or "weight", the smaller first.
            others: whether the images are those of the classes outside of the subset.
        """
        ratios = [float(ratio) for ratio in self.settings.ratios]

        def rows() -> Iterator[list[Any]]:
            compensations = self.compensations
            scores, second = self.scores(method), weight_scores(self.model) if ties == "weight" else None
            for classes in chunk:
                part = self.bank.of_classes(sorted({*range(self.classes)} - {*classes}) if others else classes)
                summed = subset_scores(scores, classes)
                places = ranking(summed, ties=second)
                for ratio in ratios:
                    tied = by_position(summed, places, ratio)
                    with masked(self.model, masks_of(places, ratio)):
                        for compensation, means in compensations:
                            right = int(self.right(part, means).sum())
                            yield [method, ratio, compensation, name_of(classes), right, len(part.labels), tied]

        key = {"ratios": ratios, "subsets": [list(classes) for classes in chunk], "ties": ties, "others": others}
        return self.kept("pruned", method, key, COLUMNS, rows)

    def tuned(self, method: str, classes: tuple[int, ...] | None, ratios: Sequence[float]) -> pd.DataFrame:
        """One method's fine-tuned networks: for a subset, or (None) for all of them by class.

        The training images are of all classes, in equal numbers: the source does not say that they are of the target's.
        """
        preset, chosen = self.preset.compute, self.settings
        own: dict[str, Any] = {"precision": preset.training_precision, "channels_last": preset.channels_last}
        recipe = Recipe(arch="given", data=chosen.data, **own, **{**FINE_TUNING, "batch": chosen.finetune_batch})
        train = self.train.stratified(chosen.finetune_images, seed=0)

        def rows() -> Iterator[list[Any]]:
            part = self.bank if classes is None else self.bank.of_classes(classes)
            summed = {} if classes is None else subset_scores(self.scores(method), classes)
            places = ranking(summed)
            for ratio in ratios:
                masks = whole_masks(self.model, method, ratio) if classes is None else masks_of(places, ratio)
                for compensation, means in self.compensations:
                    model = copy.deepcopy(self.model)
                    fine_tune(model, train, masks, recipe, means, self.seed, preset.device)
                    with centred(model, means):
                        right = correct_by_class(model, part, self.classes, precision=preset.training_precision)
                    if classes is None:
                        counts = part.counts(self.classes).tolist()
                        yield from ([method, ratio, compensation, k, int(right[k]), n] for k, n in enumerate(counts))
                    else:
                        tied = by_position(summed, places, ratio)
                        told = [name_of(classes), int(right.sum()), len(part.labels), tied]
                        yield [method, ratio, compensation, *told]

        key: dict[str, Any] = {"ratios": list(ratios), "subset": classes and list(classes)}
        key |= {"train": train.fingerprint, "recipe": recipe.plain()}
        return self.kept("fine-tuned", method, key, BY_CLASS if classes is None else COLUMNS, rows)

    def agreement(self) -> pd.DataFrame:
        """How often networks pruned by NNSlicer for the first subset decide alike in the precision of the evaluation
        and in float32: same (share of decisions), gap (accuracy less that in float32), n, by ratio and compensation."""
        ratios, classes = [float(ratio) for ratio in self.settings.ratios], self.subsets()[0]
        precisions = (self.preset.compute.training_precision, "float32")

        def rows() -> Iterator[list[Any]]:
            part, compensations = self.bank.of_classes(classes), self.compensations
            places = ranking(subset_scores(self.scores("nnslicer"), classes))
            for ratio in ratios:
                with masked(self.model, masks_of(places, ratio)):
                    for compensation, means in compensations:
                        with centred(self.model, means):
                            fast, exact = (decisions(self.model, part, precision=p) for p in precisions)
                        gap = ((fast == part.labels).double().mean() - (exact == part.labels).double().mean()).item()
                        yield [ratio, compensation, (fast == exact).double().mean().item(), gap, len(part.labels)]

        columns, key = ["ratio", "compensation", "same", "gap", "n"], {"ratios": ratios, "classes": list(classes)}
        return self.kept("pruning-precision", "nnslicer", key, columns, rows)


def pruned(settings: Settings, seed: int) -> pd.DataFrame:
    """Networks pruned for every subset, right after pruning.

    Returns: tidy, at {method, ratio, compensation} where nothing else is said: "accuracy", the mean over the subsets
        (n: distinct test images); "best_share" at {ratio, view}, the share of subsets in which NNSlicer alone is best;
        "lead" at {ratio, view, method, quantile}, NNSlicer's accuracy less the method's over the subsets; "by_position"
        at {method, ratio}, the share of dropped weights that ties left to their position; on the closer subsets
        "accuracy_by_ties" at {..., ties} and "accuracy_by_classes" at {..., classes}; "same_decisions" at {ratio,
        compensation}, how often bfloat16 and float32 decide alike.
    """
    run = PruningRun(settings, seed)
    ratios, wanted, closer = list(map(float, settings.ratios)), run.subsets(), run.subsets("closer_subsets")
    dense = run.by_class("", [0.0])
    whole = {method: run.by_class(method, ratios) for method in ("weight", "channel")}
    chunks = [(method, wanted[k : k + CHUNK]) for method in OF_CLASSES for k in range(0, len(wanted), CHUNK)]
    table = pd.concat(
        [
            *(spread(dense.assign(method=method), wanted) for method in METHODS),
            *(spread(frame, wanted) for frame in whole.values()),
            *(run.of_subsets(method, chunk) for method, chunk in bar(chunks, desc="pruned networks")),
        ],
        ignore_index=True,
    )[COLUMNS]
    near = table[table["classes"].isin([name_of(classes) for classes in closer])]
    by_weight = pd.concat([run.of_subsets(method, closer, ties="weight") for method in OF_CLASSES])
    other = pd.concat(
        [
            *(run.of_subsets(method, closer, others=True) for method in OF_CLASSES),
            *(spread(frame, closer, others=True) for frame in whole.values()),
            *(spread(dense.assign(method=method), closer, others=True) for method in METHODS),
        ]
    )
    rows = [*mean_accuracies("accuracy", table), *_beside(table), *_ties(table)]
    rows += mean_accuracies(
        "accuracy_by_ties", near[near["method"].isin(OF_CLASSES) & (near["ratio"] > 0)], ties="position"
    )
    rows += mean_accuracies("accuracy_by_ties", by_weight, ties="weight")
    rows += mean_accuracies("accuracy_by_classes", near, classes="target")
    rows += mean_accuracies("accuracy_by_classes", other, classes="other")
    alike = run.agreement().rename(columns={"same": "same_decisions"}).astype({"compensation": bool})
    return run.tidy([*rows, *measures(alike, ["same_decisions"], ["ratio", "compensation"])])


def fine_tuned(settings: Settings, seed: int) -> pd.DataFrame:
    """The same after one epoch of training on, with the dropped weights kept at zero; ratio 0: nothing dropped."""
    run = PruningRun(settings, seed)
    ratios, wanted = list(map(float, settings.finetune_ratios)), run.subsets("finetune_subsets")
    dense = run.tuned("", None, [0.0])
    parts = [spread(dense.assign(method=method), wanted) for method in METHODS]
    parts += [spread(run.tuned(method, None, ratios), wanted) for method in ("weight", "channel")]
    trainings: list[tuple[str, tuple[int, ...] | None]] = [
        (method, classes) for classes in wanted for method in OF_CLASSES
    ]
    parts += [run.tuned(method, classes, ratios) for method, classes in bar(trainings, desc="fine-tuned networks")]
    table = pd.concat(parts, ignore_index=True)[COLUMNS]
    return run.tidy([*mean_accuracies("accuracy", table), *_beside(table), *_ties(table)])


def _beside(table: pd.DataFrame) -> list[dict[str, Any]]:
    """NNSlicer beside the others, subset by subset, in every view."""
    rows: list[dict[str, Any]] = []
    known = table.assign(accuracy=table["right"] / table["n"])[table["ratio"] > 0]
    for view in VIEWS:
        wide = viewed(known, view).pivot(index=["ratio", "classes"], columns="method", values="accuracy")
        for ratio, group in wide.groupby("ratio"):
            at = {"ratio": ratio, "view": view}
            ahead = group["nnslicer"] > group.drop(columns="nnslicer").max(axis=1)
            rows.append({"measure": "best_share", **at, "value": ahead.mean(), "n": len(group)})
            for method in METHODS[1:]:
                leads = (group["nnslicer"] - group[method]).quantile([0.05, 0.5, 0.95])
                where = [{"method": method, "quantile": q, "value": lead} for q, lead in leads.items()]
                rows += [{"measure": "lead", **at, **one, "n": len(group)} for one in where]
    return rows


def _ties(table: pd.DataFrame) -> list[dict[str, Any]]:
    known = table[table["by_position"].notna() & ~table["compensation"].astype(bool)]
    return [
        {"measure": "by_position", "method": method, "ratio": ratio, "value": tied.astype(float).mean(), "n": len(tied)}
        for (method, ratio), tied in known.groupby(["method", "ratio"], sort=False)["by_position"]
    ]


def viewed(rows: pd.DataFrame, view: str) -> pd.DataFrame:
    """The rows that a view of `VIEWS` compares, by their method and compensation."""
    wanted = rows["method"].isin(OF_CLASSES) if view == "as released" else view == "centred"
    return rows[rows["compensation"].astype(bool) == wanted]


def ahead(results: Results) -> pd.DataFrame:
    """NNSlicer's mean accuracy against the best other method's, a row a view, in points.

    Returns: ratios at which NNSlicer is highest, its lead over the best other one there (lowest, highest, mean), which
        other is best overall, and the share of subsets in which NNSlicer alone is the most accurate.
    """
    rows = []
    for view, words in VIEWS.items():
        shown = viewed(results.values("accuracy"), view)
        wide = shown[shown["ratio"] > 0].pivot(index="ratio", columns="method", values="value")
        others = wide.drop(columns="nnslicer")
        lead = 100 * (wide["nnslicer"] - others.max(axis=1))
        row = {"view": words, "ahead at": f"{(lead > 0).sum()} of {len(lead)} ratios"}
        row |= {f"{name} lead": f"{value:+.1f}" for name, value in lead.agg(["min", "max", "mean"]).items()}
        alone = results.values("best_share", view=view)["value"].mean()
        rows.append(row | {"best other": NAMES[others.mean().idxmax()], "alone best": f"{alone:.0%} of subsets"})
    return pd.DataFrame(rows).set_index("view")


def centring_gains(results: Results) -> pd.Series:
    """What centring adds to each method, in points of accuracy averaged over the ratios."""
    rows = results.values("accuracy")
    mean = rows[rows["ratio"] > 0].pivot_table(index="method", columns="compensation", values="value")
    return 100 * (mean[True] - mean[False]).loc[list(METHODS)]


def draw(results: Results) -> Figure:
    """Mean accuracy over the ratio, a line a method, a panel a view: as they are, centred, as released."""
    figure, axes = plots.grid(3, 1, 1.9, plots.SINGLE, sharex=True)
    for ax, (view, words) in zip(axes, VIEWS.items(), strict=True):
        rows = viewed(results.values("accuracy"), view)
        plots.curves(ax, rows.replace({"method": NAMES}), x="ratio", hue="method", order=[NAMES[m] for m in METHODS])
        panel(ax, words)
        ax.set_ylabel("accuracy on\nthe target classes")
        ax.label_outer()
    plots.legend_below(axes, 2)
    return figure


def panel(ax: Any, title: str, guesses: bool = True) -> None:
    """Axes of accuracies over the pruning ratio, with two ways to guess."""
    ax.set(title=title, xlabel="share of each layer's weights dropped", ylim=(0, 1.02))
    for level, words, dashes in ((0.25, "one target class in four", (1, 2)), (0.1, "one class in ten", (1, 5))):
        if guesses:
            look: dict[str, Any] = {"color": "#777777", "linewidth": 0.8, "linestyle": (0, dashes), "marker": ""}
            ax.axhline(level, label=words, zorder=0.5, **look)


UNITS = {
    "accuracy": SHARE,
    "best_share": "fraction of subsets",
    "by_position": "fraction of dropped weights",
    "accuracy_by_ties": SHARE,
    "accuracy_by_classes": SHARE,
    "same_decisions": "fraction of decisions",
}
TABLE = pivot(
    "accuracy", ["compensation", "method"], "ratio", "r = {:g}",
    {"method": NAMES, "compensation": {True: "yes", False: "no"}},
)  # fmt: skip
PRUNING = Item(
    "nnslicer_pruning", pruned, UNITS, table=TABLE, draw=draw, about=("subsets", "ratios", "test_images")
)  # fmt: skip
FINE_TUNED = Item(
    "nnslicer_pruning_finetuned", fine_tuned, UNITS, table=TABLE, draw=draw,
    about=("finetune_subsets", "finetune_ratios", "test_images", "finetune_images", "finetune_batch"),
)  # fmt: skip
ITEMS = (PRUNING, FINE_TUNED)
