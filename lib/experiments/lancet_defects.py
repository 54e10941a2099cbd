"""General defects (notebook 35): what a clean network gets wrong, repaired on half of the test set.

On test1: pairs of wrong inputs and companions give votes; the layer is chosen by the stated rule and by ours; the
weights with the most votes are tuned on N_e and N_o, beside as many random weights, all of the layer and the whole
network; the last fifth of test1 chooses each one's learning rate. On test2 everything is reported, whatever was chosen.

Source: AI-Lancet, sections on general defects; rates and epochs are not stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, model_validator

from lib import config, data, dotplots, plots
from lib.experiments import pretrained
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.lancet import ErrorRun, Half
from lib.experiments.lancet_fine_tuning import OPTIONS, Bench, Tuned
from lib.experiments.run import halved, measures
from lib.experiments.settings import Count
from lib.lancet.locating import choose_layer
from lib.models.layers import weight_layers
from lib.progress import bar

VERSION = 1  # raise it when a change in this experiment's code changes its numbers
RULES = {"most-pairs": "most pairs (stated)", "smallest-fraction": "smallest fraction (ours)"}
"""Rules for the layer, in words."""
METHODS = {
    "none": "before",
    "error-inducing": "neuron-fine-tune",
    "random": "random neurons",
    "all": "all of the layer",
    "whole network": "whole network",
    "another seed": "another seed, no repair",
}
"""What is tuned, in words."""
NEURONS = ("error-inducing", "random", "all")
COLUMNS = [
    *("part", "rule", "method", "learning_rate", "chosen", "layer", "weights", "fraction", "pairs_repaired"),
    *("accuracy", "errors_right", "still_right", "n", "n_errors", "choice_accuracy", "choice_errors_right"),
    *("tuned_right", "tuned_on", "similar", "pairs", "wrong"),
]


class Settings(Tuned):
    """Settings of the experiment; see also `Tuned`.

    Attributes:
        pretrained: networks of `pretrained.NETWORKS` that are repaired too, where they can be had.
        pretrained_options: settings that are others for these, by name.
        pretrained_layers: how many of their last layers are looked at; None: all.
    """

    section: ClassVar[str] = "defects"

    data: str = Field(title="data set")
    pretrained: tuple[str, ...] = Field((), title="pretrained networks")
    pretrained_options: dict[str, Any] = Field(default_factory=dict)
    pretrained_layers: Count | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := sorted({*self.pretrained_options} - {*OPTIONS, "companion_steps"}):
            raise ValueError(
                f"pretrained_options: no {', '.join(unknown)}: one of companion_steps, {', '.join(OPTIONS)}"
            )
        for name in self.pretrained:
            pretrained.known(name)
        self.for_pretrained()
        return self

    def for_pretrained(self) -> Settings:
        """The settings for a pretrained network."""
        if not self.pretrained_options:
            return self
        return type(self).model_validate({**self.model_dump(), "pretrained_options": {}, **self.pretrained_options})

    def told(self, name: str) -> Any:
        return config.load(self.scale).recipe(self.network).data if name == "data" else super().told(name)


class DefectRun(ErrorRun[Settings]):
    """A seed's network and its repairs."""

    def repaired(self) -> pd.DataFrame:
        """The network before and after each repair, and a network of another seed; as `repairs` returns it."""
        (test1, test2), chosen = self.half_sets, self.settings
        key = {**chosen.repairing(), "test1": test1.fingerprint, "test2": test2.fingerprint}
        key["reference"] = self.card(chosen.network, self.reference)["weights"]

        def make() -> pd.DataFrame:
            frame = repairs(Bench.of(self.model, test1, test2, chosen, self.seed))
            row = {"part": "repair", "method": "another seed", "chosen": True}
            row |= Half.of(self.model, test2).report(self.network(chosen.network, self.reference))
            return pd.concat([frame, pd.DataFrame([row], columns=COLUMNS).astype(object)], ignore_index=True)

        return self.table("lancet-defects", key, make, chosen.network, VERSION)

    def pretrained(self, name: str) -> pd.DataFrame | str:
        """A pretrained network before and after each repair, as `repairs` gives it; or why it cannot be tried here."""
        about, own, layers = pretrained.known(name), self.settings.for_pretrained(), self.settings.pretrained_layers
        try:
            images = data.load(about.data, "test")
            key = {**own.repairing(), "network": name, "weights": about.weights, "layers": layers}
            key["images"] = images.fingerprint

            def make() -> pd.DataFrame:
                model = about.load()
                names = list(weight_layers(model))[-layers:] if layers else None
                return repairs(Bench.of(model, *halved(images), own, 0, names))

            found = self.table("lancet-defects-pretrained", key, make, version=VERSION)
        except pretrained.UNAVAILABLE as error:
            return str(error)
        self.read.data[f"{about.data}/test"] = images.fingerprint
        return found


def repairs(bench: Bench) -> pd.DataFrame:
    """A network repaired in every way, at every learning rate.

    Returns: rows of part "layer" (layer, pairs_repaired: share of pairs, fraction: median part of its weights) and of
        part "repair": rule (of the layer), method, similar (samples of that sort in N_e), and as `at_each_rate` has
        them; and of the network before.
    """
    count = {"pairs": bench.pairs, "wrong": len(bench.labels)}
    rows: list[dict[str, Any]] = []
    for name, entry in bench.votes.items():
        fraction = None if entry.share == 0 else entry.fraction
        about = {"part": "layer", "layer": name, "weights": entry.counts.numel(), **count}
        rows.append({**about, "pairs_repaired": entry.share, "fraction": fraction})
    rows.append({"part": "repair", "method": "none", "chosen": True, **bench.report(bench.model)})
    prepared: dict[str, Any] = {}  # by layer, as the rules may choose the same one
    tasks = [(rule, neurons) for rule in RULES for neurons in NEURONS] + [(list(RULES)[-1], "whole network")]
    for rule, neurons in bar(tasks, desc="repairs"):
        layer = choose_layer(bench.votes, rule)
        if layer not in prepared:
            prepared[layer] = bench.errors(layer, bench.settings.copies, bench.settings.similar)
        errors, similar = prepared[layer]
        what: dict[str, Any] = {"whole": True} if neurons == "whole network" else {"neurons": neurons}
        about = {"part": "repair", "rule": rule, "method": neurons, "similar": similar, **count}
        rows += [{**about, **row} for row in bench.at_each_rate(layer, errors, bench.old, **what)]
    return pd.DataFrame(rows, columns=COLUMNS)


def repaired(settings: Settings, seed: int) -> pd.DataFrame:
    """The network, and with the first seed the pretrained ones, before and after each repair.

    Returns: tidy: at {network, rule, method}: "accuracy" on test2, "errors_right" (accuracy on M_test2, which is 0
        before by its definition), "still_right" (on the rest of test2), each with the learning rate that the choice
        part took; "gain", the change of accuracy on test2; "weights", how many numbers could change;
        "lead_over_random", what neuron-fine-tune has on M_test2 above random neurons, at {network, rule}. The same
        measures with the ending "_at_rate" at every learning rate. Of the layers, at {network, layer}:
        "pairs_repaired" and "fraction". Beside the record "skipped" at {network}: why one could not be tried, as note.
    """
    run = DefectRun(settings, seed)
    tables: dict[str, pd.DataFrame | str] = {settings.network: run.repaired()}
    if seed == settings.seeds[0]:
        tables |= {name: run.pretrained(name) for name in settings.pretrained}
    rows: list[dict[str, Any]] = []
    for network, table in tables.items():
        if isinstance(table, str):
            rows.append({"measure": "skipped", "network": network, "value": 0.0, "n": 1, "note": table})
            continue
        rows += _of_repairs(network, table[table["part"] == "repair"])
        layers = table[table["part"] == "layer"]
        rows += measures(layers, ["pairs_repaired", "fraction"], ["layer"], n="pairs", network=network)
    return run.tidy(rows)


def _of_repairs(network: str, table: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    before = float(table[table["method"] == "none"]["accuracy"].iloc[0])
    for row in table.to_dict("records"):
        where = {"network": network, "rule": "" if pd.isna(row["rule"]) else row["rule"], "method": row["method"]}
        right = int(row["n"]) - int(row["n_errors"])
        for name, n in {"accuracy": int(row["n"]), "errors_right": int(row["n_errors"]), "still_right": right}.items():
            if pd.isna(row[name]) or n < 1:
                continue
            found = {"value": float(row[name]), "n": n}
            if bool(row["chosen"]):
                rows.append({"measure": name, **where, **found, "note": _note(name, where)})
            if not pd.isna(row["learning_rate"]):
                rows.append({"measure": f"{name}_at_rate", **where, "learning_rate": row["learning_rate"], **found})
        if bool(row["chosen"]):
            rows.append({"measure": "gain", **where, "value": float(row["accuracy"]) - before, "n": int(row["n"])})
            if not pd.isna(row["weights"]):
                rows.append({"measure": "weights", **where, "value": float(row["weights"]), "n": int(row["n"])})
    chosen = table[table["chosen"].astype(bool)]
    for rule, group in chosen.groupby("rule"):
        on_errors = group.set_index("method")["errors_right"].astype(float)
        where = {"network": network, "rule": rule}
        lead = {"value": on_errors["error-inducing"] - on_errors["random"], "n": int(group["n_errors"].iloc[0])}
        rows.append({"measure": "lead_over_random", **where, **lead, "note": _note("lead_over_random", where)})
    return rows


def _note(measure: str, where: Mapping[str, str]) -> str:
    """Beside the source's value: what it is of."""
    stated = any(measure == name and at.items() <= where.items() for name, at, _ in STATED)
    return "stated as an average over the source's networks on ImageNet" if stated else ""


def layout(results: Results) -> pd.DataFrame:
    """One row a network, rule and method: test2, M_test2, the rest of test2, weights."""
    keys, names = ["network", "rule", "method"], ("accuracy", "errors_right", "still_right", "gain", "weights")
    wide = results.wide({name: name for name in names}, keys)
    order: dict[Any, Any] = {"network": str, "rule": ["", *RULES].index, "method": list(METHODS).index}
    wide = wide.sort_values(keys, key=lambda column: column.map(order[column.name]))
    shown = {
        "network": wide["network"],
        "layer by": wide["rule"].map({"": "", **RULES}),
        "tuned": wide["method"].map(METHODS),
        "weights": wide["weights"].map(lambda count: "" if pd.isna(count) else f"{int(count):,}"),
        "test2": wide["accuracy"],
        "change": wide["gain"],
        "M_test2": wide["errors_right"],
        "still right": wide["still_right"],
    }
    return pd.DataFrame(shown).reset_index(drop=True)


PANELS = {
    "errors_right": "now right,\nshare of the inputs\nit got wrong",
    "still_right": "now wrong,\nshare of the inputs\nit got right",
}


def draw(results: Results, network: str = "") -> Figure:
    """What is gained and what it costs, a row a method: at the learning rate that was chosen with its interval, at the
    others as a hollow mark; a column a measure, a block a rule of the layer.

    Args:
        network: which; empty: the scale's.
    """
    at = {"network": network or results.settings.network}
    gain, cost = ([_lost(results.values(f"{name}{rates}", **at)) for rates in ("", "_at_rate")] for name in PANELS)
    methods = [method for method in METHODS if method != "none" and method in set(cost[0]["method"])]
    parts = dotplots.spans(pd.concat([cost[0], cost[1][["value"]]]))
    widths = [4, *(width for _, _, width in parts)]
    figure, flat = plots.grid(2 * len(widths), len(widths), 1.85, plots.SINGLE, width_ratios=widths, sharex="col")
    for row, (rule, words) in zip(flat.reshape(2, -1), RULES.items(), strict=True):
        for ax, shown in zip(row, [gain, *[cost] * len(parts)], strict=True):
            chosen, tried = (rows[rows["rule"].eq(rule) | ~rows["method"].isin(NEURONS)] for rows in shown)
            chosen = chosen[chosen["method"].isin(methods)]
            places = dotplots.row_of(chosen["method"], methods)
            dotplots.intervals(ax, chosen, places, 0, label="at the chosen learning rate")
            dotplots.hollow(ax, tried, dotplots.row_of(tried["method"], methods) + 0.3, "at every learning rate")
            dotplots.published(ax, chosen, places)
            plots.named_rows(ax, [METHODS[method].replace(", ", ",\n") for method in methods], 0.6)
            ax.tick_params(labelleft=ax is row[0])
        plots.heading(row[0], f"layer by {words}")
        row[0].set_xlim(left=-0.02)
        for ax, (start, end, _) in zip(row[1:], parts, strict=True):
            ax.set_xlim(start, end)
        if len(parts) > 1:
            dotplots.broken(*row[1:])
    for ax, words in zip(row, PANELS.values(), strict=False):
        ax.set_xlabel(words, fontsize=plots.SMALLEST)
    plots.legend_below(flat, 2)
    return figure


def _lost(rows: pd.DataFrame) -> pd.DataFrame:
    """Of inputs that are still right, the share that no longer is; other measures as they are."""
    if not rows["name"].iloc[0].startswith("still_right"):
        return rows
    return rows.assign(value=1 - rows["value"], low=1 - rows["high"], high=1 - rows["low"])


_SHARES = ("accuracy", "errors_right", "still_right")
UNITS = {**dict.fromkeys(_SHARES, SHARE), **{f"{name}_at_rate": SHARE for name in _SHARES}}
UNITS |= dict.fromkeys(("gain", "lead_over_random"), "difference of accuracies")
UNITS |= {"weights": "weights", "pairs_repaired": "fraction of pairs", "fraction": "fraction of the layer's weights"}
STATED = (
    ("errors_right", {"rule": "most-pairs", "method": "error-inducing"}, 0.42),
    ("lead_over_random", {"rule": "most-pairs"}, 0.30),
)
DEFECTS = Item("lancet_defects", repaired, UNITS, STATED, layout, draw)
ITEMS = (DEFECTS,)
