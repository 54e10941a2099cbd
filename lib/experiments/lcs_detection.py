"""Adversarials found by the decisions they cause (notebook 23), beside other detectors, controls, and an attack that
knows. `lcs_detectors` fits and tries the detectors; here is what they are tried on, and what is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lib import dotplots, plots, slicing
from lib.attacks import SUITE
from lib.dynamic.decision_attack import GRADIENTS, Evaded, decision_pgd, observed
from lib.dynamic.lcs.controls import static_network
from lib.dynamic.lcs.features import see
from lib.experiments.dynamic import Names, titled
from lib.experiments.item import Item, Results
from lib.experiments.lcs import AREA, Attack, Attacks, Lcs, LcsRun, Row, Weights
from lib.experiments.lcs_detectors import (
    CLEAN,
    DECISIONS,
    ON_CLEAN,
    PAIRS,
    PENULTIMATE,
    UNTRAINED,
    Bench,
    Scorer,
    area,
)
from lib.experiments.run import measures
from lib.experiments.settings import Count
from lib.progress import bar

SLICES = "NNSlicer, forest on slices"
AIMS = ("own", "class mean")
"""What the adaptive attack keeps decisions near: the clean image's own, or the mean of its target class."""
ANEW = "decision feature, trained anew"
AVERAGE = "average"
SAME, OTHER = "the same attack", "another attack"
CONTROLS = (DECISIONS, UNTRAINED, PENULTIMATE)
SLICES_VERSION = 1  # raise it when a change in lib.slicing changes what the forest on slices sees


class Settings(Lcs):
    """Settings of the experiment.

    Attributes:
        networks: with decision units, of the scale.
        attacks: of `lib.attacks.SUITE`.
        images: test images attacked that are looked at; half of them for fitting.
        fit_images: clean training images that detectors are fitted on.
        trees: of each random forest.
        slices_per_class, slices_images: training images of each class behind the means of NNSlicer's detector, and
            attacked images that are sliced.
        adaptive_images: that the attack which knows the decision feature is tried on.
        adaptive_epsilon: its L_inf radius, in 255ths of the pixel range.
        adaptive_steps: of PGD.
        adaptive_weights: of the decisions in its loss, from 0 (the detector unknown).
        adaptive_attack: whose adversarials the detectors have been shown.
    """

    section: ClassVar[str] = "detection"

    networks: Names = Field(title="networks")
    attacks: Attacks = ("fgsm_8", "rpgd_8", "cw_l2", "deepfool_l2")
    images: int = Field(600, ge=8, title="images attacked for detectors")
    fit_images: int = Field(2000, ge=50, title="training images for detectors")
    trees: Count = Field(300, title="trees of a forest")
    slices_per_class: Count = Field(50, title="training images a class for NNSlicer")
    slices_images: int = Field(300, ge=8, title="images attacked for NNSlicer")
    adaptive_images: int = Field(200, ge=8, title="images of the adaptive attack")
    adaptive_epsilon: int | float = Field(8, gt=0, le=255)
    adaptive_steps: Count = Field(40, title="steps of the adaptive attack")
    adaptive_weights: Weights = (0, 1, 10, 100)
    adaptive_attack: Attack = "rpgd_8"

    def described(self, names: Any = ()) -> dict[str, Any]:
        return super().described(names) | self.attacks_described(self.attacks)


class DetectionRun(LcsRun[Settings]):
    """A seed's networks and the tables of how their adversarials are detected, each kept by network."""

    def detectors_key(self, **more: Any) -> dict[str, Any]:
        """What the detectors of a network depend on beside it, and what more a table does."""
        chosen = self.settings
        return {
            "detection_images": chosen.images,
            "detection_fit": chosen.fit_images,
            "detection_trees": chosen.trees,
            "detection_attacks": list(chosen.attacks),
            "train": self.images("train", chosen.fit_images).fingerprint,
            "attacks": chosen.attack_key(chosen.attacks),
            **more,
        }

    @lru_cache(maxsize=1)  # noqa: B019 (a run is short-lived)
    def bench(self, name: str) -> Bench:
        """A network's inputs and detectors."""
        chosen = self.settings
        return Bench(self, name, chosen.attacks, chosen.images, chosen.fit_images, chosen.trees)

    def detected(self, name: str) -> pd.DataFrame:
        """How well each detector tells adversarials, and noise of their size, from clean images, within and across
        attacks.

        Returns: one row a detector, what it was fitted on, attack and pair: detector, trained_on ("clean images", or an
            attack), attack, pair (of `PAIRS`; noise has the L2 norm of the attack's perturbations and leaves the
            network's answer right), auroc, low, high (its 95 % interval over the images), n (of the first kind of the
            pair), n_other, network, form.
        """

        def rows() -> Iterator[Row]:
            bench = self.bench(name)
            for detector, scorer in bench.on_clean().items():
                yield from bench.rows(detector, ON_CLEAN, scorer)
            for attack in bar(bench.attacks, desc="detectors"):
                for detector, scorer in bench.on_attack(attack).items():
                    yield from bench.rows(detector, attack, scorer)

        return self.kept("lcs-detection", name, self.detectors_key(), rows)

    def sliced(self, name: str) -> pd.DataFrame:
        """As `detected`, for a forest on NNSlicer's slices of the first of the images attacked.

        An ordinary network is sliced: that in which every layer's mask is the row that most clean images take.
        """
        per_class, count = self.settings.slices_per_class, self.settings.slices_images

        def rows() -> Iterator[Row]:
            bench = self.bench(name).first(count)
            usual = bench.network.frequencies(bench.images[CLEAN])
            top = {layer: bench.network.unit(layer).masks[usual[layer].argmax()] for layer in bench.network.layers}
            static = static_network(bench.network, top)
            features = slicing.slice_features(static, self.images("train", None), bench.images, per_class)
            for attack in bench.attacks:
                forest = bench.forest(*(features[kind][bench.part(kind, "fit")] for kind in (CLEAN, attack)))
                yield from bench.rows(SLICES, attack, {kind: forest.score(part) for kind, part in features.items()})

        of = {"per_class": per_class, "version": SLICES_VERSION}
        key = self.detectors_key(slices_images=count, detector=SLICES, of=of)
        return self.kept("lcs-detection-guest", name, key, rows)

    def adaptive(self, name: str) -> pd.DataFrame:
        """Detection of an attack that knows the decision feature, by its aim, gradient and weight of the decisions.

        Half of the attacked images are of the half that detectors are fitted on: adversarials of them train a forest
        anew.

        Returns: one row an aim (of `AIMS`), gradient ("held", "straight-through"), weight and detector: aim, gradient,
            weight, detector, auroc, low, high, n (adversarials), n_other (clean images), success (share of images
            attacked), distance (mean of the adversarials: 1 is a clean image's to its class mean), network, form. The
            detectors have been shown `adaptive_attack`; "decision feature, trained anew" this very attack.
        """
        chosen = self.settings

        def rows() -> Iterator[Row]:
            bench = self.bench(name)
            shown = chosen.adaptive_attack if chosen.adaptive_attack in bench.attacks else bench.attacks[0]
            scorers = bench.on_clean() | bench.on_attack(shown)
            half = chosen.adaptive_images // 2
            start = np.concatenate([np.flatnonzero(bench.part(CLEAN, part))[:half] for part in ("fit", "test")])
            for gradient in GRADIENTS:
                unaware: list[Row] | None = None
                for aim in AIMS:
                    for weight in bar(chosen.adaptive_weights, desc=f"adaptive, {gradient}, {aim}"):
                        found = unaware if not weight else None
                        if found is None:
                            made = self._attack(bench, start, aim, gradient, weight)
                            found = list(_detected(bench, scorers, start, made))
                        unaware = unaware if weight else found  # without a weight the aim plays no part
                        yield from ({"aim": aim, "gradient": gradient, "weight": float(weight), **r} for r in found)

        names = ("images", "epsilon", "steps", "weights", "attack")
        key = self.detectors_key(**{f"adaptive_{word}": getattr(chosen, f"adaptive_{word}") for word in names})
        return self.kept("lcs-adaptive", name, key, rows)

    def _attack(self, bench: Bench, start: np.ndarray, aim: str, gradient: str, weight: float) -> Evaded:
        seen, chosen = bench.seen[CLEAN].take(start), self.settings
        labels = seen.predicted  # these images are classified correctly
        targets = seen.logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
        means, spread = _usual(bench)
        with observed(bench.network, gradient) as both:
            return decision_pgd(
                both,
                bench.images[CLEAN][start],
                labels,
                targets,
                seen.feature if aim == "own" else means[targets],
                float(weight),
                chosen.adaptive_epsilon / 255,
                chosen.adaptive_steps,
                spread=spread,
                seed=self.seed,
                device=bench.network.device,
            )


def _usual(bench: Bench) -> tuple[Tensor, float]:
    """Mean decisions of each class's clean training images, and the mean squared distance of an image to its own."""
    seen, labels = bench.train
    classes = torch.from_numpy(labels)
    sums = torch.zeros(seen.logits.shape[1], seen.feature.shape[1]).index_add_(0, classes, seen.feature)
    means = sums / classes.bincount(minlength=len(sums)).clamp_min(1)[:, None]
    return means, max((seen.feature - means[classes]).square().sum(1).mean().item(), 1e-6)


def _detected(bench: Bench, scorers: Mapping[str, Scorer], start: np.ndarray, made: Evaded) -> Iterator[Row]:
    """Each detector on the adversarials of the second half against its clean images."""
    hit = made.success.numpy()
    if not hit.any():
        return
    seen = see(bench.network, made.images[made.success])
    still = (seen.predicted != bench.seen[CLEAN].take(start).predicted[made.success]).numpy()
    index = bench.index[CLEAN][start][hit]
    fit, test = (np.isin(index, bench.halves[half]) & still for half in ("fit", "test"))
    if test.sum() < 2:
        return
    known = dict(scorers)
    if fit.sum() >= 2:
        anew = bench.forest(bench.half(CLEAN, "fit").feature.numpy(), seen.feature.numpy()[fit])
        known[ANEW] = lambda inputs: anew.score(inputs.feature.numpy())
    clean, adversarial = bench.half(CLEAN, "test"), seen.take(test)
    measured = {"success": float(hit.mean()), "distance": float(made.distance[made.success].mean())}
    for word, scorer in known.items():
        yield {"detector": word, **area(scorer(adversarial), scorer(clean)), **measured}


def measure(settings: Settings, seed: int) -> pd.DataFrame:
    """All detectors on every network.

    Returns: tidy. "auroc" at {network, form, detector, trained_on, attack, pair}; trained_on: "clean images", an
        attack, and once more "the same attack" and "another attack" (the mean over the others); attack: one, or
        "average" over them. "auroc_low" and "auroc_high" at the same places, of "clean images" and "the same attack":
        DeLong's interval over the images, averaged over the seeds, where the record's own is over the seeds. Of the
        adaptive attack "auroc" at {network, form, detector, aim, gradient, weight}, "success" and "distance" at
        {network, form, aim, gradient, weight}.
    """
    run = DetectionRun(settings, seed)
    rows: list[Row] = []
    for name in bar(run.of_this_seed(settings.networks), desc="detection"):
        rows += _areas(pd.concat([run.detected(name), run.sliced(name)]))
        rows += _adaptive(run.adaptive(name))
    return run.tidy(rows)


def _areas(table: pd.DataFrame) -> Iterator[Row]:
    attacks = list(dict.fromkeys(table["attack"]))
    own = table[table["trained_on"] == table["attack"]].assign(trained_on=SAME)
    crossed = table[table["trained_on"].isin(attacks) & (table["trained_on"] != table["attack"])]
    at, mean = ["network", "form", "detector"], {"auroc": "mean", "n": "min"}
    other = crossed.groupby([*at, "attack", "pair"], sort=False).agg(mean).reset_index()
    whole = pd.concat([table, own, other.assign(trained_on=OTHER)], ignore_index=True)
    summary = whole[whole["trained_on"].isin([ON_CLEAN, SAME, OTHER])]
    averaged = summary.groupby([*at, "trained_on", "pair"], sort=False).agg(mean).reset_index().assign(attack=AVERAGE)
    ends = whole["trained_on"].isin([ON_CLEAN, SAME])  # the interval over the images, of single attacks
    whole = whole.assign(auroc_low=whole["low"].where(ends), auroc_high=whole["high"].where(ends))
    names, by = ["auroc", "auroc_low", "auroc_high"], [*at, "trained_on", "attack", "pair"]
    yield from measures(pd.concat([whole, averaged]), names, by)


def _adaptive(table: pd.DataFrame) -> Iterator[Row]:
    at = ["network", "form", "aim", "gradient", "weight"]
    yield from measures(table, ["auroc"], [*at, "detector"])
    yield from measures(table.drop_duplicates(at), ["success", "distance"], at)


def attack_label(name: str) -> str:
    """An attack, or their average, as tables show it."""
    return SUITE[name].label if name in SUITE else name


def table(results: Results) -> pd.DataFrame:
    """A row a network, detector and what it was fitted on; attacks across, adversarial against clean."""
    at, fitted = ["network", "form", "detector", "trained on"], [ON_CLEAN, SAME, OTHER]
    rows = results.values("auroc", pair=PAIRS[0], trained_on=fitted).rename(columns={"trained_on": "trained on"})
    wide = rows.pivot_table(index=at, columns="attack", values="value", sort=False)
    wide = wide[[name for name in (*SUITE, AVERAGE) if name in wide]].rename(columns=attack_label)
    wide = wide.reset_index().rename_axis(columns=None)
    parts = [wide[wide["trained on"] == kind] for kind in fitted]
    return pd.concat(parts).sort_values("network", kind="stable", ignore_index=True)


def draw(results: Results) -> Figure:
    """Area under the ROC curve of every detector, a dot an attack, fitted on clean images or on the same attack; a
    panel a network."""
    rows = results.values("auroc", pair=PAIRS[0], trained_on=[ON_CLEAN, SAME])
    names = list(dict.fromkeys(rows["network"]))
    detectors = [name for name in dict.fromkeys([*CONTROLS, *rows["detector"]]) if name in set(rows["detector"])]
    attacks = [name for name in (*SUITE, AVERAGE) if name in set(rows["attack"])]
    figure, axes = area_panels(names, detectors, height=2.9)
    rows = rows.assign(shown=rows["attack"].map(attack_label))
    for ax, name in zip(axes, names, strict=True):
        part = rows[rows["network"] == name]
        dotplots.dots(ax, part, "detector", detectors, "shown", list(map(attack_label, attacks)))
    plots.legend_below(axes, 3, handlelength=1.8)
    return figure


def area_panels(names: Sequence[str], rows: Sequence[str], height: float) -> tuple[Figure, np.ndarray]:
    """A panel a network, two in a row, its horizontal axis that of areas under the ROC curve, its vertical one named
    rows; `height` of a row of panels, in inches."""
    figure, axes = plots.grid(len(names), 2, height, plots.SINGLE, sharex=True, sharey=True)
    for ax, name in zip(axes, names, strict=True):
        dotplots.striped(ax, len(rows))
        look: dict[str, Any] = {"linestyle": (0, (1, 2)), "marker": "", "zorder": 0.5}
        ax.axvline(0.5, color="#777777", linewidth=0.8, label="chance", **look)
        plots.named_rows(ax, [row.replace(", ", ",\n") for row in rows])
        ax.set_title(titled(name, 21), fontsize=plots.SMALLEST)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set_xlim(-0.05, 1.05)
        ax.tick_params(axis="y", labelsize=6.5)
    for ax in axes[-2:]:  # the lowest of each column
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("area under ROC curve", fontsize=plots.SMALLEST)
    return figure, axes


UNITS = {
    "auroc": AREA,
    "auroc_low": AREA,
    "auroc_high": AREA,
    "success": "fraction of images attacked",
    "distance": "squared distance, 1 is a clean image's to its class",
}
DETECTION = Item("lcs_detection", measure, UNITS, table=table, draw=draw)
ITEMS = (DETECTION,)
