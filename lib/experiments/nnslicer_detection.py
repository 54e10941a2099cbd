"""Do slices tell adversarial inputs from clean ones (notebook 13)? The source's rule, and what else slices hold.

Each table is kept in pieces, so that a run that was stopped goes on from there; inputs, slices and detectors are made
only for those that are not kept yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lib import dotplots, plots
from lib.attacks import SUITE
from lib.experiments import nnslicer_signals
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.nnslicer_detection_inputs import METHODS, DetectionRun, Settings, counterparts
from lib.experiments.nnslicer_signals import ADAPTIVE, SIGNALS, Detectors, key_of
from lib.experiments.run import measures
from lib.progress import bar
from lib.slicing import detection

AVERAGE = "average"
SAME = "the same attack"
OVER_ATTACKS = "mean over attacks"
AS_PUBLISHED = {"recall": 1.0, "precision": 0.83}
"""The source's averages over the attacks; it does not say which mean they were taken with."""
NAMES = {
    ("nnslicer", "predicted"): "NNSlicer, class mean",
    ("nnslicer", "dataset"): "NNSlicer, overall mean",
    ("effective-path", "none"): "EffectivePath",
    ("feature-map", "none"): "FeatureMap",
}
UNITS = {
    "precision": "fraction of flagged images",
    "recall": SHARE,
    "f1": "harmonic mean of precision and recall",
    "fpr": SHARE,
    "auroc": "area under the ROC curve",
    "flagged": SHARE,
    "precision_if_all_flagged": OVER_ATTACKS,
    "success": "fraction of images attacked",
    "distance": "surrogate, 1 is a clean input's to its class mean",
}
RATES = ("precision", "recall", "f1", "fpr", "auroc")
PLACE = ["attack", "method", "reference", "rule", "tree_seed"]
"""What tells the rows of the source's rule apart."""


class Study(DetectionRun):
    """The kept tables of one network."""

    @cached_property
    def detectors(self) -> Detectors:
        return Detectors(self)

    def rule_table(self, name: str, kind: str, tree_seed: int) -> pd.DataFrame:
        """The source's rule for one method of `METHODS` and one tree or forest.

        Returns: one row an attack: attack, method, reference, rule, tree_seed, precision, recall, f1, fpr, auroc, n
            (adversarials, and as many clean images); attack "clean" has the fpr over all clean images. Attacks without
            success have no row.
        """
        method, reference = METHODS[name]
        about = {"method": method, "reference": reference, "rule": kind, "tree_seed": tree_seed}

        def rows() -> Iterator[dict[str, Any]]:
            rule, tested, clean = self.tree(name, kind, tree_seed), self.tested_vectors(name), self.test_inputs["clean"]
            flags = rule.flags(tested["clean"], clean.predicted)
            yield {"attack": "clean", **about, "fpr": float(flags.mean()), "n": len(clean)}
            for attack in self.settings.attack_names:
                found = self.test_inputs[attack]
                if len(found):
                    pair = counterparts(clean, found)
                    both = tested["clean"][pair], clean.predicted[pair], tested[attack], found.predicted
                    yield {"attack": attack, **about, **detection.rule_rates(rule, *both)}

        key = {**about, "trees": self.settings.forest_trees if kind == "forest" else 1, **self.key}
        columns = [*PLACE, *RATES, "n"]
        return self.table("nnslicer-detection", key, rows, self.settings.network, columns=columns)

    def signals(self) -> pd.DataFrame:
        """As `nnslicer_signals.signals`, kept."""
        key, make = key_of(self, SIGNALS), lambda: nnslicer_signals.signals(self.detectors)
        return self.table("nnslicer-signals", key, make, self.settings.network)

    def adaptive(self) -> pd.DataFrame:
        """As `nnslicer_signals.adaptive`, kept."""
        key, make = key_of(self, (*SIGNALS, *ADAPTIVE)), lambda: nnslicer_signals.adaptive(self.detectors)
        # The first seed's tree is among the detectors; a scale's own seeds are not in the key of its tables.
        key |= {"tree_seeds": self.settings.tree_seeds} if "tree_seeds" in self.settings.changed else {}
        return self.table("nnslicer-adaptive", key, make, self.settings.network)


def detected(settings: Settings, seed: int) -> pd.DataFrame:
    """Adversarial inputs found by their slices.

    Returns: tidy. Of the source's rule "precision", "recall", "f1", "fpr" and "auroc" at {attack, method, reference,
        rule, tree_seed}, for the first tree seed attack by attack (of the forest the auroc alone); attack "average" is
        the mean over the attacks that had a success, attack "clean" has the "fpr" over all clean images; "flagged" is
        recall and fpr once more, at {inputs}, "adversarial" and "clean"; "precision_if_all_flagged" at "average" is
        arithmetic: 1 / (1 + fpr). Of other detectors "auroc" at {detector, trained_on, attack}, with recall and fpr at
        "average" (without the noise controls); the forest trained and tested on one attack is there once more,
        trained_on "the same attack". Of the attack that knows the detector "auroc", "recall" and "fpr" at {aim, weight,
        detector}, "success" and "distance" at {aim, weight}. Beyond the record "images" at {attack, ...}, the n of
        every table of the rule.
    """
    run = Study(settings, seed)
    first = settings.tree_seeds[0]
    rules = [*(("tree", tree_seed) for tree_seed in settings.tree_seeds), ("forest", first)]
    rows: list[dict[str, Any]] = []
    for name in METHODS:
        for kind, tree_seed in bar(rules, desc=f"trees on {name}"):
            rows += _of_rule(run.rule_table(name, kind, tree_seed), tree_seed == first)
    return run.tidy([*rows, *_of_signals(run.signals()), *_of_adaptive(run.adaptive())])


def _of_rule(table: pd.DataFrame, in_full: bool) -> Iterator[dict[str, Any]]:
    first, attacked = table.iloc[0], table[table["attack"] != "clean"]
    tree = first["rule"] == "tree"
    yield from measures(table.assign(images=table["n"]), ["images"], PLACE)
    if in_full:
        yield from measures(table, RATES if tree else ["auroc"], PLACE)
    if in_full and tree:
        for row in attacked.to_dict("records"):
            for inputs, name in (("adversarial", "recall"), ("clean", "fpr")):
                where = {**{key: row[key] for key in PLACE}, "inputs": inputs}
                yield {"measure": "flagged", **where, "value": row[name], "n": row["n"]}
    if len(attacked):
        about = {**first[PLACE], "attack": AVERAGE, "n": int(attacked["n"].sum()), "unit": OVER_ATTACKS}
        for name in RATES:
            values = attacked[name].astype(float).dropna()
            if len(values):
                yield {"measure": name, **about, "value": values.mean()}
        if tree:
            precision = detection.stated_arithmetic(float(attacked["fpr"].mean()))["precision"]
            note = "hypothesis: every adversarial flagged"
            yield {"measure": "precision_if_all_flagged", **about, "value": precision, "note": note}


def _of_signals(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    same = table[table["trained_on"] == table["attack"]].assign(trained_on=SAME)
    table = pd.concat([table, same])
    yield from measures(table, ["auroc"], ["detector", "trained_on", "attack"])
    attacked = table[~table["trained_on"].isin(SUITE) & table["attack"].isin(SUITE)]
    for (detector, trained_on), group in attacked.groupby(["detector", "trained_on"], sort=False):
        about = {"detector": detector, "trained_on": trained_on, "attack": AVERAGE, "unit": OVER_ATTACKS}
        rates = ["auroc", "recall", "fpr"]
        means = pd.DataFrame([{**group[rates].mean(), "n": group["n"].sum()}])
        yield from measures(means, rates, **about)


def _of_adaptive(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    if len(table):  # else no image of the test part was made adversarial
        yield from measures(table, ["auroc", "recall", "fpr"], ["aim", "weight", "detector"])
        each = table.drop_duplicates(["aim", "weight"])
        yield from measures(each, ["success", "distance"], ["aim", "weight"])


# --- table and figure


def label(attack: str) -> str:
    """An attack as tables show it; a noise control in words."""
    if attack in SUITE:
        return SUITE[attack].label
    return f"noise of {attack.partition('_')[2]}/255" if attack.startswith("noise_") else attack


def of_rule(results: Results, measure: str, rule: str = "tree") -> pd.DataFrame:
    """The source's rule by attack and method, of all tree seeds, with a column "shown" that names the method."""
    rows = results.values(measure, rule=rule)
    return rows.assign(shown=[NAMES[key] for key in zip(rows["method"], rows["reference"], strict=True)])


def first_tree(results: Results, measure: str) -> pd.DataFrame:
    """Of the first tree seed alone: attacks and averages."""
    rows = of_rule(results, measure)
    return rows[rows["tree_seed"] == results.settings.tree_seeds[0]]


def with_interval(rows: pd.DataFrame) -> pd.Series:
    """Values of `Results.values` as text, each with its interval where it has one."""
    ends = [f" ({low:.2f} to {high:.2f})" if low == low else "" for low, high in zip(rows.low, rows.high, strict=True)]
    return rows["value"].map("{:.2f}".format) + ends


def layout(results: Results) -> pd.DataFrame:
    """Attacks, their average and the published one; precision, recall and F1 of each method."""
    by_name = {name: first_tree(results, name) for name in ("precision", "recall", "f1")}
    recall = by_name["recall"]
    rows: list[dict[str, Any]] = []
    for attack in in_order(recall):
        row: dict[str, Any] = {"attack": label(attack), "n": int(recall[recall["attack"] == attack]["n"].min())}
        for shown in NAMES.values():
            for name, part in by_name.items():
                found = part[(part["attack"] == attack) & (part["shown"] == shown)]["value"]
                row[f"{shown}: {'F1' if name == 'f1' else name}"] = float(found.iloc[0]) if len(found) else None
        rows.append(row)
    published = {f"{shown}: {name}": v for shown in list(NAMES.values())[:2] for name, v in AS_PUBLISHED.items()}
    table = pd.DataFrame([*rows, {"attack": "average, as stated", **published}]).astype(object)
    return table.where(table.notna(), None)


def in_order(rows: pd.DataFrame) -> list[str]:
    """Attacks in the source's order, then noise controls, then the average."""
    there = list(dict.fromkeys(rows["attack"].dropna()))
    ordered = [name for name in SUITE if name in there] + [name for name in there if name.startswith("noise_")]
    return ordered + [AVERAGE] * (AVERAGE in there)


def draw(results: Results) -> Figure:
    """The source's rule attack by attack: recall, false positives and precision, a panel each."""
    figure, axes = plots.panels(3, plots.SINGLE, height=6.2, sharey=True)
    titles = {"recall": "adversarials\nflagged (recall)", "fpr": "clean images\nflagged", "precision": "precision"}
    attacks = in_order(first_tree(results, "recall"))
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        dotplots.dots(ax, first_tree(results, name), "attack", attacks, "shown", list(NAMES.values()))
        dotplots.striped(ax, len(attacks))
        if name in AS_PUBLISHED:
            star: Any = {"color": "#000000", "marker": "*", "markersize": 8, "linestyle": "none", "zorder": 4}
            star |= {"label": "NNSlicer's average, as stated", "clip_on": False}
            ax.errorbar([AS_PUBLISHED[name]], [len(attacks) - 1], **star)  # and not `plot`: last in the legend
        ax.set_title(title, fontsize=plots.SMALLEST)
        ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        ax.set(xlabel="share", xlim=(-0.04, 1.04))
        plots.named_rows(ax, [label(name) for name in attacks])
    plots.legend_below(axes, 2, handlelength=1.6, columnspacing=1)
    return figure


AT_AVERAGE = {"attack": AVERAGE, "method": "nnslicer", "rule": "tree", "tree_seed": 3}
DETECTION = Item(
    "nnslicer_detection", detected, UNITS, [(name, AT_AVERAGE, value) for name, value in AS_PUBLISHED.items()],
    table=layout, draw=draw,
    about=("theta", "profile_per_class", "per_class", "tree_seeds", "signal_images", "adaptive_images"),
)  # fmt: skip
ITEMS = (DETECTION,)
