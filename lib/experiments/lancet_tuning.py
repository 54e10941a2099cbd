"""What each part of neuron-fine-tune is for (notebook 39): it is repeated with one part left out at a time.

The parts are those of the source: old samples beside the misclassified ones, distillation from the network as it was,
and two ways to more misclassified samples, transforms and samples with similar error-inducing neurons.

Source: AI-Lancet, section on neuron-fine-tuning, which names them and tries none without.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from lib import dotplots, plots
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.lancet import ErrorRun
from lib.experiments.lancet_fine_tuning import Bench, Tuned
from lib.lancet.locating import choose_layer
from lib.progress import bar

VERSION = 1  # raise it when a change in this experiment's code changes its numbers


class Variant(NamedTuple):
    """Neuron-fine-tune with these parts."""

    words: str
    old: bool = True
    distillation: bool = True
    copies: bool = True
    similar: bool = True


VARIANTS = {
    "whole": Variant("all parts"),
    "no-distillation": Variant("without distillation", distillation=False),
    "no-old": Variant("without old samples", old=False, distillation=False),  # of which distillation is
    "no-transforms": Variant("without transforms", copies=False),
    "no-similar": Variant("without similar errors", similar=False),
    "pairs-only": Variant("without either", copies=False, similar=False),
}


class Settings(Tuned):
    """Settings of the experiment; see also `Tuned`.

    Attributes:
        rule: for the layer: "most-pairs" (the source's) or "smallest-fraction" (ours).
    """

    section: ClassVar[str] = "tuning"

    rule: Literal["most-pairs", "smallest-fraction"] = "most-pairs"


class TuningRun(ErrorRun[Settings]):
    """A seed's network, and its fine-tunings."""

    def bench(self) -> Bench:
        return Bench.of(self.model, *self.half_sets, self.settings, self.seed)

    def tuned(self) -> pd.DataFrame:
        """The network before, and after each variant at every learning rate."""
        test1, test2 = self.half_sets
        key = {**self.settings.repairing(), "rule": self.settings.rule}
        key |= {"test1": test1.fingerprint, "test2": test2.fingerprint}
        network = self.settings.network
        return self.table("lancet-tuning", key, lambda: variants(self.bench(), self.settings), network, VERSION)


def variants(bench: Bench, settings: Settings) -> pd.DataFrame:
    """Every variant at every learning rate, in one layer, each for as many steps as the whole method takes.

    Returns: rows of variant ("none": before), epochs, similar (samples of N_e with similar error-inducing neurons), and
        what `Bench.at_each_rate` has.
    """
    layer = choose_layer(bench.votes, settings.rule)
    nothing = (bench.old[0][:0], bench.old[1][:0])
    rows: list[dict[str, Any]] = [{"variant": "none", "chosen": True, **bench.report(bench.model)}]
    steps = 0
    for name, variant in bar(VARIANTS.items(), desc="variants"):
        errors, similar = bench.errors(layer, settings.copies * variant.copies, settings.similar * variant.similar)
        old = bench.old if variant.old else nothing
        batches = math.ceil((len(errors[1]) + len(old[1])) / settings.batch)
        steps = steps or settings.epochs * batches
        how = {"epochs": max(1, round(steps / batches)), "distillation": float(variant.distillation)}
        about = {"variant": name, "epochs": how["epochs"], "similar": similar}
        rows += [{**about, **row} for row in bench.at_each_rate(layer, errors, old, **how)]
    return pd.DataFrame(rows)


def tuned(settings: Settings, seed: int) -> pd.DataFrame:
    """The network before and after each variant.

    Returns: tidy: at {variant, learning_rate} "corrected", the share of M_test2 that is right then, "forgotten", the
        share of the rest of test2 that no longer is, and "gain", the change of accuracy on test2; at {variant} the same
        with the ending "_chosen", at the learning rate that the choice part of test1 took, and "errors", the samples of
        N_e.
    """
    run = TuningRun(settings, seed)
    table = run.tuned()
    rows: list[dict[str, Any]] = []
    before = float(table[table["variant"] == "none"]["accuracy"].iloc[0])
    for row in table[table["variant"] != "none"].to_dict("records"):
        images, wrong = int(row["n"]), int(row["n_errors"])
        found = {"corrected": (float(row["errors_right"]), wrong)}
        found |= {"forgotten": (1 - float(row["still_right"]), images - wrong)}
        found |= {"gain": (float(row["accuracy"]) - before, images)}
        for name, (value, n) in found.items():
            where = {"variant": row["variant"], "value": value, "n": n}
            rows.append({"measure": name, "learning_rate": row["learning_rate"], **where})
            if bool(row["chosen"]):
                rows.append({"measure": f"{name}_chosen", **where})
        if bool(row["chosen"]):
            count = int(row["tuned_on"])
            rows.append({"measure": "errors", "variant": row["variant"], "value": float(count), "n": count})
    return run.tidy(rows)


def layout(results: Results) -> pd.DataFrame:
    """A row a variant, at the learning rate that was chosen."""
    shown = {"errors": "samples of N_e", "corrected_chosen": "M_test2", "forgotten_chosen": "forgotten"}
    wide = results.wide(shown | {"gain_chosen": "change of accuracy"}, ["variant"])
    wide = wide.sort_values("variant", key=lambda column: column.map(list(VARIANTS).index))
    return wide.assign(variant=wide["variant"].map(lambda name: VARIANTS[name].words)).reset_index(drop=True)


def draw(results: Results) -> Figure:
    """What is corrected and what is forgotten, a row a variant: at the learning rate that was chosen with its interval,
    at every rate as a hollow mark."""
    figure, axes = plots.panels(2, height=2.6)
    names = list(VARIANTS)
    words = {
        "corrected": "now right, share of the\ninputs it got wrong",
        "forgotten": "now wrong, share of the\ninputs it got right",
    }
    for ax, (measure, label) in zip(axes, words.items(), strict=True):
        chosen, tried = results.values(f"{measure}_chosen"), results.values(measure)
        dotplots.intervals(
            ax, chosen, dotplots.row_of(chosen["variant"], names), 0, label="at the chosen learning rate"
        )
        dotplots.hollow(ax, tried, dotplots.row_of(tried["variant"], names) + 0.3, "at every learning rate")
        plots.named_rows(ax, [VARIANTS[name].words for name in names], 0.6)
        ax.tick_params(labelleft=ax is axes[0])
        ax.set_xlabel(label)
        ax.set_xlim(left=-0.03 * ax.get_xlim()[1])
    plots.legend_below(axes, 2)
    return figure


UNITS = {
    **{f"{name}{end}": SHARE for name in ("corrected", "forgotten") for end in ("", "_chosen")},
    **{f"gain{end}": "difference of accuracies" for end in ("", "_chosen")},
    "errors": "images",
}
TUNING = Item("lancet_tuning", tuned, UNITS, table=layout, draw=draw, about=("pairs", "old", "epochs", "rates"))
ITEMS = (TUNING,)
